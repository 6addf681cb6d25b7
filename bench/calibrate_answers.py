"""Derive the constants of `verification/answers.py` from honest and dishonest runs of the model that is served.

    python bench/calibrate_answers.py --cache ~/.cache/paceline [--model ID] [--prompts 8] [--tokens 40]

Honest answers are decoded token by token with a cache, on one and two threads and on narrower vector units (a stand-in for
other processor types, forced by environment variables in a process of its own), then checked by one prefill here.
The last line is the Calibration to paste.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch

from paceline.base.hashing import hash_parts
from paceline.inference.check import (
    DEVIATION_CAP_MICRONATS,
    MARGIN_CAP_MICRONATS,
    SUPPORT_CAP_MICRONATS,
    TokenEvidence,
    compare_tokens,
)
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol.transcripts import Transcript, decode_transcript, encode_transcript

PROMPTS = (
    "Tell me a short story about a cyclist.",
    "What is the capital of France, and what is it known for?",
    "Explain how rain forms.",
    "Write a Python function that reverses a string.",
    "Give me three tips for sleeping well.",
    "Who wrote Hamlet? Answer in one paragraph.",
    "List the planets of the solar system in order.",
    "Write a poem about the sea.",
    "How do I make pancakes?",
    "What is 17 plus 25? Explain each step.",
    "Summarise why bees matter.",
    "Describe a mountain village in winter.",
)
TEMPERATURES = (0.0, 0.7, 1.0)
# How much noisier than the noisiest pair measured here an honest pair may be before it is called a cheat.
HONEST_FACTOR = 2.5
# One-sided normal quantile of 3.2e-5: both error rates stay under 1e-4 with room for heavier tails.
SIGMAS = 4.0
# 1e-2: the sampler test alone accepts nobody, and a wrong seed that slips through once fails on the next answer.
SAMPLER_SIGMAS = 2.33
BLOCK_TOKENS = 8
NARROW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def answer_all(model: LanguageModel, temperatures: Iterable[float], prompts: int, tokens: int) -> list[Transcript]:
    transcripts = []
    for temperature in temperatures:
        for number, prompt in enumerate(PROMPTS[:prompts]):
            sampler = plan_sampler(
                temperature_ppm=round(temperature * 1e6), top_p_ppm=950_000, max_tokens=tokens, stop=[]
            )
            seed = hash_parts("calibration", str((number, temperature)).encode())
            request = plan_answer(model, [{"role": "user", "content": prompt}], sampler=sampler, seed=seed)
            transcripts.append(
                build_transcript(model, request, list(generate(model, request, should_stop=lambda: False)))
            )
    return transcripts


def answer_elsewhere(args: argparse.Namespace, environment: dict[str, str], threads: int) -> list[Transcript]:
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, __file__, "--cache", str(args.cache), "--model", args.model]
        command += ["--prompts", str(args.prompts)]
        command += ["--tokens", str(args.tokens), "--threads", str(threads), "--answers", file.name]
        subprocess.run(command, env=os.environ | environment, check=True)
        return [decode_transcript(data) for data in msgspec.msgpack.decode(file.read(), type=list[bytes])]


def compare_all(model: LanguageModel, transcripts: Iterable[Transcript]) -> list[list[TokenEvidence]]:
    return [list(compare_tokens(model, transcript)) for transcript in transcripts]


def lie_about_request(transcript: Transcript, **changes: object) -> Transcript:
    sampler = msgspec.structs.replace(
        transcript.request.sampler, **{key: value for key, value in changes.items() if key != "seed"}
    )
    seed = changes.get("seed", transcript.request.seed)
    request = msgspec.structs.replace(transcript.request, sampler=sampler, seed=seed)
    return msgspec.structs.replace(transcript, request=request)


Pair = Callable[[TokenEvidence], tuple[float, float]]


def get_deviation(token: TokenEvidence) -> tuple[float, float]:
    return min(token.deviation_micronats, DEVIATION_CAP_MICRONATS) / 1e6, token.spread_micro / 1e6


def get_margin(token: TokenEvidence) -> tuple[float, float]:
    outside = min(token.support_micronats, SUPPORT_CAP_MICRONATS)
    return (min(token.margin_micronats, MARGIN_CAP_MICRONATS) + outside) / 1e6, token.expected_mismatch_micro / 1e6


def measure(answers: Sequence[Sequence[TokenEvidence]], pair: Pair) -> tuple[float, float]:
    """Rate per unit of information, and its standard deviation per root of information (by blocks)."""
    blocks = []
    for answer in answers:
        for start in range(0, len(answer), BLOCK_TOKENS):
            values = [pair(token) for token in answer[start : start + BLOCK_TOKENS]]
            blocks.append((sum(value for value, _ in values), sum(weight for _, weight in values)))
    weight = sum(block[1] for block in blocks)
    rate = sum(block[0] for block in blocks) / weight
    residuals = [value - rate * block_weight for value, block_weight in blocks]
    return rate, statistics.pstdev(residuals) * (len(blocks) / weight) ** 0.5


def report(name: str, answers: Sequence[Sequence[TokenEvidence]]) -> None:
    tokens = sum(map(len, answers))
    cells = [f"{name:34s} {tokens:5d}"]
    for pair in (get_deviation, get_margin):
        rate, swing = measure(answers, pair)
        per_token = sum(pair(token)[1] for answer in answers for token in answer) / tokens
        cells.append(f"rate {rate:8.5f} swing {swing:8.5f} information/token {per_token:.3f}")
    print("  |  ".join(cells), flush=True)


def derive_limit(honest: Sequence[Sequence[Sequence[TokenEvidence]]], pair: Pair) -> tuple[float, float]:
    """Rate and swing that no honest pair may exceed."""
    rate = HONEST_FACTOR * max(measure(answers, pair)[0] for answers in honest)
    return rate, HONEST_FACTOR * SIGMAS * max(measure(answers, pair)[1] for answers in honest)


def compute_least(
    limit: tuple[float, float], cheat: Sequence[Sequence[TokenEvidence]], pair: Pair, allowance: float, sigmas: float
) -> float:
    """The information at which a cheat stands `sigmas` beyond the limit."""
    rate, swing = measure(cheat, pair)
    slope, spread = rate - limit[0], limit[1] + sigmas * swing
    assert slope > 0, "this cheat hides in the noise"
    return ((spread + math.sqrt(spread**2 + 4 * slope * allowance)) / (2 * slope)) ** 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answers", type=Path, help="only answer, and write the transcripts here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = prepare_model(args.cache, args.model, progress=print)
    model = LanguageModel.load(path)
    if args.answers:
        transcripts = answer_all(model, TEMPERATURES, args.prompts, args.tokens)
        args.answers.write_bytes(msgspec.msgpack.encode([encode_transcript(item) for item in transcripts]))
        return
    calibrate(args, model, LanguageModel.load(path, quantise=True))


def calibrate(args: argparse.Namespace, model: LanguageModel, cheaper: LanguageModel) -> None:
    plain = answer_all(model, TEMPERATURES, args.prompts, args.tokens)
    honest = {"honest, same process": compare_all(model, plain)}
    honest["honest, two threads"] = compare_all(model, answer_elsewhere(args, {}, 2))
    honest["honest, AVX2 units"] = compare_all(model, answer_elsewhere(args, NARROW, 1))
    by_cheaper = answer_all(cheaper, TEMPERATURES, args.prompts, args.tokens)
    four_bit = {
        f"4-bit model, T={temperature}": compare_all(
            model, [item for item in by_cheaper if get_heat(item) == temperature]
        )
        for temperature in TEMPERATURES
    }
    sampled = [item for item in plain if get_heat(item) > 0]
    cool = [item for item in plain if get_heat(item) == 0.7]
    greedy = [item for item in plain if get_heat(item) == 0]
    sampling = {
        "wrong seed, T=0.7": compare_all(model, [lie_about_request(item, seed=bytes(32)) for item in cool]),
        "wrong seed, T=0.7 and 1": compare_all(model, [lie_about_request(item, seed=bytes(32)) for item in sampled]),
        "greedy sold as T=1": compare_all(
            model, [lie_about_request(item, temperature_ppm=1_000_000) for item in greedy]
        ),
        "T=0.7 sold as T=1": compare_all(model, [lie_about_request(item, temperature_ppm=1_000_000) for item in cool]),
    }
    for name, answers in (honest | four_bit | sampling).items():
        report(name, answers)
    worst = max(
        (sum(get_deviation(token)[0] for token in answer) / sum(get_deviation(token)[1] for token in answer))
        for answers in honest.values()
        for answer in answers
    )
    print(f"worst honest answer: deviation rate {worst:.5f}")
    deviation = derive_limit(list(honest.values()), get_deviation)
    margin = derive_limit(list(honest.values()), get_margin)
    allowance = MARGIN_CAP_MICRONATS / 1e6
    for name, cheat in (four_bit | sampling).items():
        for sigmas in (1.28, SAMPLER_SIGMAS, SIGMAS):
            least = compute_least(margin, cheat, get_margin, allowance, sigmas)
            print(f"sampler test, {name}: {least:.1f} information for {sigmas} sigmas")
    leasts = [compute_least(deviation, cheat, get_deviation, 0.0, SIGMAS) for cheat in four_bit.values()]
    least_margin = compute_least(margin, sampling["wrong seed, T=0.7"], get_margin, allowance, SAMPLER_SIGMAS)
    for name, (rate, swing), least in (("deviation", deviation, max(leasts)), ("margin", margin, least_margin)):
        print(
            f"{name}_rate_ppm={rate * 1e6:.0f} {name}_swing_ppm={swing * 1e6:.0f} {name}_least_micro={least * 1e6:.0f}"
        )


def get_heat(transcript: Transcript) -> float:
    return transcript.request.sampler.temperature_ppm / 1e6


if __name__ == "__main__":
    main()
