"""How surely the tests of answers catch each attack, and how long a node that cheats now and then stays unsuspected.

    python bench/inference_detection.py --cache ~/.cache/paceline --samples answers.npz [--answers 384] [--attacked 192]
    python bench/inference_detection.py --samples answers.npz --calibrate --json bench/inference_detection.json

The first command answers and compares (about 3 s an honest answer, 8 s an attacked one on a busy core) and writes samples; the
second judges them. `--calibrate` also writes the shipped calibration from the answers that were not attacked; `--samples` may
be repeated. `--html` writes the curves as one page.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch

from paceline.lab.audit import Curve, build_chart, build_curves, measure_forgeries
from paceline.lab.detection import (
    Patience,
    Power,
    build_honest_scores,
    collect_logs,
    count_crossings,
    join_samples,
    measure_power,
    simulate_patience,
)
from paceline.lab.forgeries import FORGERIES
from paceline.lab.prompts import EVALUATION, SPLITS, plan_questions
from paceline.lab.samples import ATTACKS, BATCH, CHEAPER, HONEST, Laboratory, Sample, load_samples, save_samples
from paceline.models.catalogue import DEFAULT_MODEL as MODEL_ID
from paceline.models.catalogue import ENGINE
from paceline.models.language import prepare_model
from paceline.verification.calibration import HonestScores

CALIBRATIONS = Path(__file__).parent.parent / "paceline" / "verification" / "calibrations"
SHARE = 0.02
SHORT_TOKENS = 10
LONG = {
    "draft-int4-g128": (100,),
    "draft-dropped-layer": (100,),
    "wrong-seed": (64,),
    "greedy": (300,),
    "temperature": (300, 1500),
}
HONEST_RUNS, HONEST_AUDITS = 2_000, 2_000


def collect(args: argparse.Namespace) -> None:
    """A file that holds some of the answers already is completed."""
    torch.set_num_threads(1)
    path = args.samples[0]
    laboratory = Laboratory(prepare_model(args.cache, progress=print), args.cheaper or CHEAPER)
    samples = load_samples(path) if path.exists() else []
    done = {sample.number for sample in samples}
    questions = plan_questions(laboratory.model, args.split, args.answers, attacked=args.answers, first=args.first)
    for sample in laboratory.sample([q for q in questions if q.number not in done], print):
        samples.append(sample)
        if len(samples) % BATCH == 0:
            save_samples(path, samples)
    save_samples(path, samples)


def judge(args: argparse.Namespace) -> None:
    samples = [sample for path in args.samples for sample in load_samples(path)]
    attacked = [sample for sample in samples if "wrong-seed" in sample.margins]
    scores = build_honest_scores([s for s in samples if "wrong-seed" not in s.margins], MODEL_ID, ENGINE)
    if args.calibrate:
        text = msgspec.json.encode(scores)
        (CALIBRATIONS / f"{MODEL_ID}.{ENGINE}.json").write_bytes(text + b"\n")
    curves = build_curves(attacked, scores, ATTACKS) + [measure_forgeries(name) for name in FORGERIES]
    long = measure_long(attacked, scores)
    patience = [
        simulate_patience(attacked, scores, name, share=SHARE, longest=SHORT_TOKENS, runs=args.runs) for name in ATTACKS
    ]
    logs = collect_logs(attacked, scores, HONEST, SHORT_TOKENS)
    crossings = count_crossings(logs, runs=HONEST_RUNS, audits=HONEST_AUDITS)
    report(curves, long, patience)
    print(f"honest nodes suspected: {crossings} of {HONEST_RUNS}, {HONEST_AUDITS} audits each")
    if args.html:
        args.html.write_text(build_chart(curves), "utf-8")
    if args.json:
        found = {
            "model": MODEL_ID,
            "engine": ENGINE,
            "calibration_answers": len(samples) - len(attacked),
            "attacked_answers": len(attacked),
            "curves": [asdict(curve) for curve in curves],
            "long": [asdict(power) for power in long],
            "patience": [asdict(item) for item in patience],
            "honest_suspected": [crossings, HONEST_RUNS, HONEST_AUDITS],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measure_long(samples: list[Sample], scores: HonestScores) -> list[Power]:
    return [
        measure_power(join_samples(samples, tokens), scores, name, tokens)
        for name, lengths in LONG.items()
        for tokens in lengths
    ]


def report(curves: list[Curve], long: list[Power], patience: list[Patience]) -> None:
    print("share of answers caught (95 % interval), by tokens")
    for curve in curves:
        cells = [f"{p.tokens}: {p.caught / p.answers:.3f} ({p.low:.3f}-{p.high:.3f})" for p in curve.points]
        print(f"{curve.name:18s}", "  ".join(cells))
    for p in long:
        print(f"{p.attack:18s} {p.tokens} tokens: {p.caught} of {p.answers} ({p.low:.3f}-{p.high:.3f})")
    print(f"audits until suspect, {SHARE:.0%} of answers of 1 to {SHORT_TOKENS} tokens cheated")
    for item in patience:
        print(
            f"{item.attack:18s} median {item.median:.0f}, 95 % {item.quantile_95:.0f}, never {item.never} of {item.runs}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, help="answer and compare; without it, judge")
    parser.add_argument("--samples", type=Path, action="append", required=True)
    parser.add_argument("--split", choices=SPLITS, default=EVALUATION)
    parser.add_argument("--answers", type=int, default=160)
    parser.add_argument("--first", type=int, default=0, help="number of the first question within its set")
    parser.add_argument("--cheaper", action="append", help="variants to play, all by default")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    args = parser.parse_args()
    (collect if args.cache else judge)(args)


if __name__ == "__main__":
    main()
