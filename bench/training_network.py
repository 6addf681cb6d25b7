"""Training through the network against three plain PyTorch loops at once: same model, batch and steps, one run.

Run: python bench/training_network.py [--steps N] [--rounds N]. Counts the whole run: inner steps, commits, audits, outer
step, reports. The plain loops are three processes with one thread each, started together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from paceline.cli.network import Network, local_network
from paceline.models.threads import use_one_thread
from paceline.training.claim import build_initial_state, compute_start_state
from paceline.training.data import compute_data_hash, load_corpus
from paceline.training.plan import TrainingPlan, derive_assignments

TRAINERS = 3


def run_plain(steps: int, index: int) -> None:
    """One plain loop; what it runs is the loop that `training_engine.py` compares with."""
    from training_engine import run_plain_loop  # noqa: PLC0415 - beside this file

    use_one_thread()
    corpus = load_corpus()
    plan = make_plan(corpus, steps)
    assignment = derive_assignments(b"\2" * 32, b"bench", 0, [bytes([index]) * 20])[bytes([index]) * 20]
    start = compute_start_state(plan, build_initial_state(plan), None)
    run_plain_loop(plan, assignment, corpus, start)


def make_plan(corpus: bytes, steps: int) -> TrainingPlan:
    return TrainingPlan(data_hash=compute_data_hash(corpus), seed=b"\1" * 32, inner_steps=steps)


def measure_plain(steps: int) -> float:
    """Seconds of three loops at once, less the seconds of three empty starts (imports, corpus)."""
    return _time_processes(steps) - _time_processes(10)


def _time_processes(steps: int) -> float:
    context = multiprocessing.get_context("spawn")
    loops = [context.Process(target=run_plain, args=(steps, index)) for index in range(TRAINERS)]
    begin = time.perf_counter()
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return time.perf_counter() - begin


def measure_network(network: Network, corpus: bytes, steps: int, rounds: int) -> float:
    network.wait(lambda report: report.race.phase == "done", 180, "the end of the Race")
    begin = time.perf_counter()
    found = network.train(corpus, rounds=rounds, inner_steps=steps, trainers=TRAINERS, timeout_seconds=3000)
    seconds = time.perf_counter() - begin
    assert not found.rejected_nodes
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=1)
    settings = parser.parse_args()
    corpus = load_corpus()
    plan = make_plan(corpus, settings.steps)
    tokens = TRAINERS * settings.steps * plan.batch_size * (plan.sequence_bytes - 1)
    plain = tokens / measure_plain(settings.steps)
    with TemporaryDirectory() as folder, local_network(nodes=5, home=Path(folder) / "home", seed=1) as network:
        through = tokens * settings.rounds / measure_network(network, corpus, settings.steps, settings.rounds)
    print(f"{settings.rounds} round(s) of {settings.steps} steps, {TRAINERS} trainers, batch {plan.batch_size}")
    print(f"  three plain loops at once   {plain:>10,.0f} tokens/s")
    print(f"  through the network         {through:>10,.0f} tokens/s   (audits, outer step and reports included)")
    print(f"  ratio                       {through / plain:>10.2f}   (goal: at least 0.90)")


if __name__ == "__main__":
    main()
