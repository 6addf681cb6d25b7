"""Peak memory of simulated trainers, by method and number, against a full copy of everything for each of them.

    python bench/training_memory.py [--trainers 10 100] [--methods ddp diloco ...]

Each measurement runs in a process of its own, on a byte transformer of 4 layers and width 96 in fp32. What counts is the
peak of the resident set above that of the same process after a run of one trainer. A full copy is parameters, gradient,
two moments, anchor and outer momentum: six vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

import psutil
import torch
from training_overhead import build_course, draw_tokens

from paceline.lab.training.fleet import make_fleet
from paceline.lab.training.run import Plan, Run
from paceline.training.codecs.few_bits import TwoBit
from paceline.training.codecs.quantisers import Int8
from paceline.training.codecs.top_k import TopK
from paceline.training.methods.exchanges import AllGather, Syncer
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import Nesterov, Sgd
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

VECTORS = 6
INTERVAL, STEPS = 4, 8
ADAMW = LocalOptimizer(rate=1e-3)
PLAIN = LocalOptimizer(name="sgd", rate=0.05, schedule=Schedule(kind="constant"))
SPARSE = TopK(k=64, chunk=4096, values=TwoBit())


def make_strategies() -> dict[str, Strategy]:
    trigger = Trigger(interval=INTERVAL)

    def diloco(name: str, local: LocalOptimizer, rule: Rule | None = None) -> Strategy:
        plain = Rule(subject=Subject.DELTA, trigger=trigger, outer=Nesterov())
        return Strategy(name=name, local=local, rules=(rule or plain,))

    gathered = AllGather()
    fed = Rule(subject=Subject.DELTA, trigger=trigger, codec=SPARSE, feedback=0.95, exchange=gathered, outer=Sgd())
    bare = Rule(subject=Subject.DELTA, trigger=trigger, codec=SPARSE, exchange=gathered, outer=Sgd())
    eight = Rule(subject=Subject.DELTA, trigger=trigger, codec=Int8(), exchange=gathered, outer=Nesterov())
    pushed = Rule(subject=Subject.DELTA, trigger=trigger, exchange=Syncer(quorum=0), outer=Nesterov())
    found = [
        Strategy(name="ddp", local=ADAMW, rules=(Rule(subject=Subject.GRADIENT),)),
        diloco("diloco, AdamW inside", ADAMW),
        diloco("diloco, SGD inside", PLAIN),
        diloco("diloco, SGD inside, int8 gathered", PLAIN, eight),
        diloco("diloco, SGD inside, synchroniser", PLAIN, pushed),
        diloco("sparseloco, AdamW inside", ADAMW, fed),
        diloco("top-k without feedback, SGD inside", PLAIN, bare),
    ]
    return {strategy.name: strategy for strategy in found}


def play(name: str, trainers: int) -> int:
    """Returns the bytes of one vector."""
    course = build_course(make_strategies()[name], steps=STEPS, get_batch=lambda t, s: draw_tokens(t, s, rows=1))
    plan = Plan(fleet=make_fleet(trainers), evaluate_every=STEPS)
    Run(course, plan, course.bench.model.values.clone()).play()
    return course.bench.model.values.numel() * course.bench.model.values.element_size()


def measure_one(name: str, trainers: int) -> dict[str, float]:
    torch.set_num_threads(1)
    vector = play(name, 1)
    before = psutil.Process().memory_info().rss
    play(name, trainers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"vectors": (peak - before) / vector, "megabytes": (peak - before) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--methods", nargs="+", default=list(make_strategies()), choices=list(make_strategies()))
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "TRAINERS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure_one(asked.one[0], int(asked.one[1]))))
        return
    print(f"{'method':36} {'trainers':>8} {'MB':>7} {'vectors/trainer':>16} {'of full copies':>15}")
    for name in asked.methods:
        for trainers in asked.trainers:
            command = [sys.executable, __file__, "--one", name, str(trainers)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            found = json.loads(output.splitlines()[-1])
            each = found["vectors"] / trainers
            print(f"{name:36} {trainers:8} {found['megabytes']:7.0f} {each:16.2f} {each / VECTORS:15.1%}", flush=True)


if __name__ == "__main__":
    main()
