"""What committing to states costs an executor, and what checking costs beside generating. CPU time, in turns, medians.

python bench/inference_overhead.py --cache ~/.cache/paceline [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from paceline.inference.check import Challenge, check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_sampler
from paceline.inference.run import generate
from paceline.inference.trace import StateRecord, Trace, derive_draw
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol.transcripts import GenerationRequest, Transcript

PROMPT_TOKENS = 64
LENGTHS = (1, 16, 64, 256)
OVERHEAD_STEPS = 300


def plan(model: LanguageModel, tokens: int, number: int) -> GenerationRequest:
    prompt = model.encode("The harbour lies in the morning light, and the boats come back. " * 8)[:PROMPT_TOKENS]
    return GenerationRequest(
        model_id=model.model_id,
        model_hash=model.content_hash,
        engine=model.engine,
        # Without end tokens an answer has the length that is asked for.
        sampler=plan_sampler(
            temperature_ppm=1_000_000,
            top_p_ppm=1_000_000,
            max_tokens=tokens,
            stop=[],
            bias=[(token, -100_000) for token in sorted(model.eos_token_ids)],
        ),
        seed=bytes([number]) * 32,
        prompt_tokens=tuple(prompt),
    )


def answer(model: LanguageModel, request: GenerationRequest) -> tuple[float, Transcript, Trace]:
    states = StateRecord()
    start = time.process_time()
    steps = list(generate(model, request, should_stop=lambda: False, states=states))
    trace = Trace.join(states)
    transcript = build_transcript(model, request, steps, trace.compute_root())
    return time.process_time() - start, transcript, trace


def measure_overhead(model: LanguageModel, tokens: int) -> None:
    """Every other step keeps its states, so that both kinds meet the same caches and neighbours."""
    request, states = plan(model, 1, 0), StateRecord()
    cache = model.open_cache(PROMPT_TOKENS + tokens)
    model.compute_next_logits(request.prompt_tokens, cache)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(tokens):
        traced = number % 2 == 1
        start = time.process_time()
        if traced:
            model.compute_next_logits([number + 100], cache, states=states)
        else:
            model.compute_next_logits([number + 100], cache)
        spent[traced].append(time.process_time() - start)
    start = time.process_time()
    Trace.join(states).compute_root()
    root = (time.process_time() - start) / len(states)
    plain, kept = (statistics.median(spent[traced]) for traced in (False, True))
    ratio = (kept + root) / plain
    print(f"executor, a token: {plain * 1e6:.0f} us, with states {kept * 1e6:.0f} + root {root * 1e6:.0f}: {ratio:.4f}")


def measure_check(model: LanguageModel, tokens: int, rounds: int) -> None:
    ratios = []
    for number in range(rounds):
        spent, transcript, trace = answer(model, plan(model, tokens, number))
        draw = derive_draw(bytes([number]) * 32, len(transcript.output_tokens), model.traced_states)
        challenge = Challenge(draw=draw, opening=trace.open(draw))
        start = time.process_time()
        check_transcript(model, transcript, challenge)
        ratios.append((time.process_time() - start) / spent)
    low, high = min(ratios), max(ratios)
    print(f"checking / generating {tokens} tokens: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = LanguageModel.load(prepare_model(args.cache, progress=print))
    answer(model, plan(model, 4, 0))
    measure_overhead(model, OVERHEAD_STEPS)
    for tokens in LENGTHS:
        measure_check(model, tokens, max(1, args.rounds // 2) if tokens > 64 else args.rounds)


if __name__ == "__main__":
    main()
