"""What the sampler costs: milliseconds to choose and to replay one token, and tokens per second of a whole answer.

Run: python bench/sampler.py [--tokens N]. One thread; logits are the model's own; CPU time, medians of three rounds. `share` is
the part of the time of a token that the sampler takes.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import torch

from paceline.cli.environment import get_cache_path
from paceline.inference.grammar import ENGINE, open_grammar
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate, open_state
from paceline.inference.sampler import choose_token, replay_token
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.threads import use_one_thread
from paceline.protocol.transcripts import GenerationRequest, GrammarSpec

PROMPT = [{"role": "user", "content": "Explain in a few sentences how a bicycle stays upright while it is moving."}]
ROUNDS = 3
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature_ppm": 0},
    "temperature 1": {},
    "top-p 0.9": {"top_p_ppm": 900_000},
    "top-k 50": {"top_k": 50},
    "all but grammar": {
        "top_k": 50, "top_p_ppm": 900_000, "presence_ppm": 500_000, "frequency_ppm": 300_000, "bias": [(5, 1_000), (9, -3_000)],
    },
    "JSON mode": {"grammar": GrammarSpec("json_object", "", ENGINE)},
}  # fmt: skip


def plan(model: LanguageModel, tokens: int, options: dict[str, Any]) -> GenerationRequest:
    neutral: dict[str, Any] = {"temperature_ppm": 1_000_000, "top_p_ppm": 1_000_000, "max_tokens": tokens, "stop": ()}
    return plan_answer(model, PROMPT, sampler=plan_sampler(**(neutral | options)), seed=bytes(32))


def time_answer(model: LanguageModel, request: GenerationRequest) -> tuple[float, list[int]]:
    """Milliseconds a token after the first, and the tokens."""
    times, tokens = [], []
    for step in generate(model, request, should_stop=lambda: False):
        times.append(time.process_time())
        tokens.append(step.token_id)
    return 1_000 * (times[-1] - times[0]) / max(1, len(times) - 1), tokens


def time_sampler(
    model: LanguageModel, request: GenerationRequest, rows: list[torch.Tensor], tokens: list[int], *, replay: bool
) -> float:
    state = open_state(model, request)
    begin = time.process_time()
    for row, token in zip(rows, tokens, strict=True):
        if replay:
            replay_token(row, state, token)
        else:
            choose_token(row, state)
        state.push(token)
    return 1_000 * (time.process_time() - begin) / len(rows)


def time_compile(model: LanguageModel) -> tuple[int, float]:
    """Bytes and milliseconds of a schema near the largest one that is allowed."""
    ranges = {f"k{index}": {"type": "integer", "minimum": index, "maximum": 977 * index + 5} for index in range(1_000)}
    grammar = GrammarSpec("json_schema", json.dumps({"type": "object", "properties": ranges}), ENGINE)
    open_grammar(model, grammar)
    begin = time.process_time()
    open_grammar(model, grammar)
    return len(grammar.text), 1_000 * (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=48)
    settings = parser.parse_args()
    use_one_thread()
    model = LanguageModel.load(prepare_model(get_cache_path(), progress=print))
    print(f"{'CPU ms a token':<18}{'choose':>8}{'replay':>8}{'whole':>8}{'share':>8}{'tokens/s':>10}")
    for name, options in KINDS.items():
        request = plan(model, settings.tokens, options)
        answers = [time_answer(model, request) for _ in range(ROUNDS)]
        whole, tokens = median(took for took, _ in answers), answers[0][1]
        prompt = request.prompt_tokens
        rows = [row.clone() for row in model.iterate_logits((*prompt, *tokens[:-1]), len(prompt) - 1)]
        choose, replay = (
            median(time_sampler(model, request, rows, tokens, replay=kind) for _ in range(ROUNDS))
            for kind in (False, True)
        )
        print(f"{name:<18}{choose:>8.2f}{replay:>8.2f}{whole:>8.1f}{choose / whole:>8.1%}{1_000 / whole:>10.1f}")
    size, took = time_compile(model)
    print(f"a schema of {size} bytes compiles in {took:.0f} ms")


if __name__ == "__main__":
    main()
