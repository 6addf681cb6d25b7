"""How surely the tests of answers catch each attack, and how long a node that cheats now and then stays unsuspected.

    python bench/inference_detection.py --cache ~/.cache/paceline --samples answers.npz [--answers 160] [--split evaluation]
    python bench/inference_detection.py --samples answers.npz --json bench/inference_detection.json
    python bench/inference_detection.py --cache ~/.cache/paceline --samples honest.npz --split calibration --honest --answers 300
    python bench/inference_detection.py --samples honest.npz --calibrate

The first command answers and compares (about 3 s an attacked answer) and completes the file if it has some; the second judges them by the
calibration that ships. The last two make one from the first set of prompts, which is never judged. `--samples` may be
repeated. `--html` writes the curves as one page.
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
from paceline.lab.prompts import CALIBRATION, EVALUATION, SPLITS, get_split, plan_questions
from paceline.lab.samples import ATTACKS, BATCH, CHEAPER, HONEST, Laboratory, Sample, load_samples, save_samples
from paceline.models.catalogue import DEFAULT_MODEL, get_entry
from paceline.models.language import prepare_model
from paceline.verification.calibration import HonestScores, get_honest_scores

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
    torch.set_num_threads(1)
    path = args.samples[0]
    laboratory = Laboratory(
        prepare_model(args.cache, args.model, progress=print), () if args.honest else args.cheaper or CHEAPER
    )
    samples = load_samples(path) if path.exists() else []
    done = {sample.number for sample in samples}
    attacked = 0 if args.honest else args.answers
    questions = plan_questions(laboratory.model, args.split, args.answers, attacked=attacked, first=args.first)
    for sample in laboratory.sample([q for q in questions if q.number not in done], print):
        samples.append(sample)
        if len(samples) % BATCH == 0:
            save_samples(path, samples)
    save_samples(path, samples)


def calibrate(args: argparse.Namespace) -> None:
    samples = load_all(args)
    strange = {get_split(sample.number) for sample in samples} - {CALIBRATION}
    assert not strange, f"these answers belong to {strange}, whose answers are judged"
    entry = get_entry(args.model)
    scores = build_honest_scores(samples, entry.model_id, entry.engine)
    text = msgspec.json.encode(scores)
    (CALIBRATIONS / f"{entry.model_id}.{entry.engine}.json").write_bytes(text + b"\n")
    tails = scores.pairs[0].tokens
    print(f"{len(samples)} answers, each by {len(HONEST)} engines; lengths {[tail.tokens for tail in tails]}")


def judge(args: argparse.Namespace) -> None:
    samples = [sample for sample in load_all(args) if "wrong-seed" in sample.margins]
    strange = {get_split(sample.number) for sample in samples} - {args.split}
    assert not strange, f"these answers belong to {strange}, not to {args.split}"
    entry = get_entry(args.model)
    scores = get_honest_scores(entry.model_id, entry.engine)
    assert scores is not None, f"no calibration ships for {entry.model_id}"
    attacks = [name for name in ATTACKS if name in samples[0].margins]
    curves = build_curves(samples, scores, attacks) + [measure_forgeries(name) for name in FORGERIES]
    long = measure_long(samples, scores, attacks)
    patience = [
        simulate_patience(samples, scores, name, share=SHARE, longest=SHORT_TOKENS, runs=args.runs) for name in attacks
    ]
    logs = collect_logs(samples, scores, HONEST, SHORT_TOKENS)
    crossings = count_crossings(logs, runs=HONEST_RUNS, audits=HONEST_AUDITS)
    report(curves, long, patience)
    print(f"honest nodes suspected: {crossings} of {HONEST_RUNS}, {HONEST_AUDITS} audits each")
    if args.html:
        args.html.write_text(build_chart(curves), "utf-8")
    if args.json:
        found = {
            "model": entry.model_id,
            "engine": entry.engine,
            "split": args.split,
            "attacked_answers": len(samples),
            "curves": [asdict(curve) for curve in curves],
            "long": [asdict(power) for power in long],
            "patience": [asdict(item) for item in patience],
            "honest_suspected": [crossings, HONEST_RUNS, HONEST_AUDITS],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def load_all(args: argparse.Namespace) -> list[Sample]:
    return [sample for path in args.samples for sample in load_samples(path)]


def measure_long(samples: list[Sample], scores: HonestScores, attacks: list[str]) -> list[Power]:
    return [
        measure_power(join_samples(samples, tokens), scores, name, tokens)
        for name, lengths in LONG.items()
        if name in attacks
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
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--honest", action="store_true", help="play no attacks")
    parser.add_argument("--calibrate", action="store_true", help="write the calibration that ships")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    args = parser.parse_args()
    (collect if args.cache else calibrate if args.calibrate else judge)(args)


if __name__ == "__main__":
    main()
