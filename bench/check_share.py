"""Share of tasks that are checked, and of compute that checking takes, epoch by epoch and in the steady state.

    python bench/check_share.py [--nodes 16] [--tasks 100] [--epochs 40]

Every task asks the ledger's own `check_rate_ppm`. Nodes are honest and begin without reputation; in the steady state a share of
them is replaced each epoch. Answers of 1, 16, 64 and 256 tokens in turn, prompt 64.
"""

from __future__ import annotations

import argparse
import statistics

import msgspec

from paceline.lab.checking import EpochShare, Scene, simulate_checking
from paceline.protocol.params import TINY

FLOORS_PPM = (10_000, 20_000, 50_000, 100_000)
TURNOVERS = (0.0, 0.01, 0.05)
STEADY_FROM = 0.75
"""Of the epochs, what comes later is called steady."""


def simulate(args: argparse.Namespace, turnover: float, floor_ppm: int, tasks: int) -> list[EpochShare]:
    params = msgspec.structs.replace(TINY, check_floor_ppm=floor_ppm)
    scene = Scene(nodes=args.nodes, tasks=tasks, epochs=args.epochs, turnover=turnover)
    return list(simulate_checking(scene, params))


def describe(shares: list[EpochShare]) -> str:
    steady = shares[int(len(shares) * STEADY_FROM) :]
    checked, compute = (
        statistics.mean(values) for values in zip(*((s.checked, s.compute) for s in steady), strict=True)
    )
    return f"tasks checked {checked:7.2%}   compute {compute:7.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=100, help="of each node in an epoch")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    shipped = TINY.check_floor_ppm
    print(f"from the start, nobody leaves, floor {shipped / 1e6:.0%}")
    for share in simulate(args, 0.0, shipped, args.tasks):
        print(f"  epoch {share.epoch:3d}   tasks checked {share.checked:7.2%}   compute {share.compute:7.2%}")
    print(f"steady state: the last {1 - STEADY_FROM:.0%} of {args.epochs} epochs")
    for floor in FLOORS_PPM:
        for turnover in TURNOVERS:
            shares = simulate(args, turnover, floor, args.tasks)
            print(f"  floor {floor / 1e6:4.0%}  replaced an epoch {turnover:3.0%}  {describe(shares)}")
    for tasks in (10, 50, 1_000):
        shares = simulate(args, 0.0, shipped, tasks)
        print(f"  floor {shipped / 1e6:4.0%}  {tasks:5d} tasks a node and epoch  {describe(shares)}")


if __name__ == "__main__":
    main()
