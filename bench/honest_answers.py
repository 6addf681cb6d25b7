"""Honest answers of every pair of executor and checker here, judged by the shipped code. It counts the nodes suspended.

    python bench/honest_answers.py --cache ~/.cache/paceline --answers answers.jsonl [--count 50] [--executor NAME]
    python bench/honest_answers.py --answers answers.jsonl

The first command answers and checks (half a second an answer) and completes the file if it has some; the second judges the file. Answers
have 1 to 32 tokens at temperatures 0, 0.7 and 1, top-p 0.9, 0.95 and 1, from prompts and seeds that calibrated nothing. vLLM shows no
states; `bench/vllm_serving.py calibrate` judges its answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from paceline.lab.detection import compute_interval, count_crossings
from paceline.lab.engines import Decodes, Engine, Pass, PrefillingEngine, load_engines
from paceline.lab.pairs import (
    NUCLEI_PPM,
    PairAnswer,
    PairReport,
    answer_together,
    check_pair,
    compute_logs,
    report_pairs,
)
from paceline.lab.prompts import EVALUATION, SPLITS, Question, plan_questions
from paceline.models.catalogue import DEFAULT_MODEL, get_entry
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.variants import load_variant
from paceline.verification.answers import get_limits
from paceline.verification.calibration import get_honest_scores

LONGEST = 32
# Questions below are those of bench/inference_detection.py.
FIRST = 100_000
SERVED = "bf16 fused"
CHECKERS = {SERVED: "served", "bf16 eager": "eager", "fp32 fused": "fp32"}
# The checker that every node is sees all answers, the others every third.
OTHERS_EACH = 3
RUNS, AUDITS = 2_000, 2_000


@dataclass(frozen=True)
class Kind:
    """How an executor computes, and how many answers at once."""

    variant: str
    rows: int
    answers: int
    prefills: bool = False


TWIN = "transformers bf16, one at a time"
EXECUTORS = {
    "bf16 decode, one at a time": Kind("served", 1, 300),
    "bf16 decode, eight at once": Kind("served", 8, 900),
    "bf16 prefill, eight at once": Kind("served", 8, 200, prefills=True),
    "bf16 eager decode, eight at once": Kind("eager", 8, 700),
    "fp32 decode, eight at once": Kind("fp32", 8, 700),
    TWIN: Kind("transformers", 1, 240),
}


class TwinEngine:
    """transformers' own forward pass, one sequence at a time."""

    def __init__(self, path: Path, traced: Sequence[int]) -> None:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds

        self._twin = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self._traced = traced

    def open_caches(self, count: int, capacity_tokens: int) -> list[Any]:
        """Growing caches of that package."""
        from transformers import DynamicCache  # noqa: PLC0415 - seconds

        del capacity_tokens
        return [DynamicCache(config=self._twin.config) for _ in range(count)]

    def run(self, rows: Sequence[torch.Tensor], caches: Sequence[Any]) -> list[Pass]:
        """As `paceline.lab.engines.Engine.run`."""
        return [self._run_one(row, cache) for row, cache in zip(rows, caches, strict=True)]

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `paceline.lab.engines.Engine.compute_logits`."""
        logits: torch.Tensor = self._twin.lm_head(hidden).float()
        return logits

    def _run_one(self, row: torch.Tensor, cache: Any) -> Pass:
        reply = self._twin.model(row[None], past_key_values=cache, use_cache=True, output_hidden_states=True)
        hidden = reply.last_hidden_state[0]
        # The first entry is what enters the first layer.
        states = torch.stack((hidden, *(reply.hidden_states[layer + 1][0] for layer in self._traced)), 1)
        return Pass(hidden=hidden, states=states.bfloat16())


def open_engine(path: Path, model: LanguageModel, name: str, engines: dict[str, Engine]) -> Decodes:
    kind = EXECUTORS[name]
    if name == TWIN:
        return TwinEngine(path, model.traced_layers)
    engine = engines[kind.variant]
    return PrefillingEngine(engine) if kind.prefills else engine


def collect(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    path = prepare_model(args.cache, args.model, progress=print)
    checkers = {name: load_variant(path, variant) for name, variant in CHECKERS.items()}
    model = checkers[SERVED]
    engines = load_engines(path, ["served", "eager", "fp32"])
    done = {(item.executor, item.number) for item in load(args.answers)} if args.answers.exists() else set()
    with args.answers.open("ab") as file:
        for name in args.executor or EXECUTORS:
            engine, rows = open_engine(path, model, name, engines), EXECUTORS[name].rows
            first = FIRST + list(EXECUTORS).index(name) * FIRST
            count = args.count or EXECUTORS[name].answers
            planned = plan_questions(model, args.split, count, longest=LONGEST, first=first, varied=True)
            left = [question for question in planned if (name, question.number) not in done]
            for start in range(0, len(left), rows):
                for item in answer_and_check(model, engine, checkers, name, left[start : start + rows]):
                    file.write(msgspec.json.encode(item) + b"\n")
                file.flush()
            print(f"{name}: {len(planned)} answers", flush=True)


def answer_and_check(
    model: LanguageModel, engine: Decodes, checkers: dict[str, LanguageModel], name: str, batch: list[Question]
) -> Iterator[PairAnswer]:
    made = answer_together(model, engine, batch)
    for question, (transcript, trace) in zip(batch, made, strict=True):
        asked = checkers if question.number // len(NUCLEI_PPM) % OTHERS_EACH == 0 else {SERVED: model}
        yield from check_pair(asked, name, question, transcript, trace)


def load(path: Path) -> list[PairAnswer]:
    return [msgspec.json.decode(line, type=PairAnswer) for line in path.read_bytes().splitlines()]


def judge(args: argparse.Namespace) -> None:
    answers, entry = load(args.answers), get_entry(args.model)
    limits, scores = get_limits(entry.model_id, entry.engine), get_honest_scores(entry.model_id, entry.engine)
    assert limits is not None, f"no limits ship for {entry.model_id}"
    assert scores is not None, f"no calibration ships for {entry.model_id}"
    reports = report_pairs(answers, limits, scores)
    for report in reports:
        print(describe(report))
    unlike, total = sum(report.unlike for report in reports), sum(report.answers for report in reports)
    low, high = compute_interval(unlike, total)
    questions = len({answer.number for answer in answers})
    print(f"{questions} answers, {total} checks, {unlike} unlike honest ones ({low:.5f} to {high:.5f}; goal 0.001)")
    print(
        f"rejected {sum(r.rejected for r in reports)}, pairs suspended {sum(r.suspended for r in reports)} of {len(reports)}"
    )
    crossings = count_crossings(compute_logs(answers, scores), runs=RUNS, audits=AUDITS)
    print(f"nodes suspected, {AUDITS} audits each drawn from all pairs: {crossings} of {RUNS}")


def describe(report: PairReport) -> str:
    low, high = compute_interval(report.unlike, report.answers)
    pair = f"{report.executor} > {report.checker}"
    return (
        f"{pair:50s} {report.answers:5d} answers  unlike {report.unlike} ({low:.4f} to {high:.4f})  "
        f"rejected {report.rejected}  highest sum {report.highest_micronats / 1e6:.2f} nats of 13.82"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="answer and check; without it, judge")
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--split", choices=SPLITS, default=EVALUATION)
    parser.add_argument("--count", type=int, help="answers of each executor, else what EXECUTORS says")
    parser.add_argument("--executor", action="append", choices=EXECUTORS)
    args = parser.parse_args()
    (collect if args.cache else judge)(args)


if __name__ == "__main__":
    main()
