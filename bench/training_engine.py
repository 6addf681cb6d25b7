"""Tokens per second of `train_round` against a plain PyTorch loop: same model, batches and AdamW, one thread.

Run: python bench/training_engine.py [--repeats N]. Prints a table; medians over alternating runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from paceline.training.check import check_segment
from paceline.training.claim import build_initial_state, compute_start_state, decode_trainer_state
from paceline.training.data import compute_data_hash, get_batch, load_corpus
from paceline.training.outer import compute_outer_step
from paceline.training.plan import RoundAssignment, TrainingPlan, derive_assignments
from paceline.training.run import evaluate, load_model, train_round


def run_plain_loop(plan: TrainingPlan, assignment: RoundAssignment, corpus: bytes, start: bytes) -> None:
    """What anyone would write: no committed states, no claim, a constant rate, a loss read each step."""
    model = load_model(plan, decode_trainer_state(plan, start).params)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step in range(plan.inner_steps):
        loss = model(get_batch(plan, assignment, corpus, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def measure(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    corpus = load_corpus()
    plan = TrainingPlan(data_hash=compute_data_hash(corpus), seed=b"\1" * 32)
    assignment = derive_assignments(b"\2" * 32, b"bench", 0, [b"a" * 20])[b"a" * 20]
    base = build_initial_state(plan)
    start = compute_start_state(plan, base, None)
    work = train_round(plan, assignment, corpus, start, base)
    plain: list[float] = []
    engine: list[float] = []
    for _ in range(repeats):
        plain.append(measure(lambda: run_plain_loop(plan, assignment, corpus, start)))
        engine.append(measure(lambda: train_round(plan, assignment, corpus, start, base)))
    tokens = plan.inner_steps * plan.batch_size * (plan.sequence_bytes - 1)
    ratio = median(slow / fast for slow, fast in zip(engine, plain, strict=True))
    segment = measure(lambda: check_segment(plan, assignment, corpus, work.states[0], work.states[1], 0))
    outer = measure(lambda: compute_outer_step(plan, base, [(bytes([i]) * 20, work.update) for i in range(3)]))
    print(f"{plan.model}: {plan.inner_steps} inner steps of {plan.batch_size} sequences, {repeats} alternations")
    print(f"plain loop      {tokens / median(plain):>9,.0f} tokens/s")
    print(f"train_round     {tokens / median(engine):>9,.0f} tokens/s, {100 * (ratio - 1):+.1f} % time")
    print(f"check_segment   {segment:>9.3f} s for {plan.segment_steps} steps")
    print(f"outer step      {outer:>9.3f} s for 3 updates")
    print(f"evaluate        {measure(lambda: evaluate(plan, base, corpus)):>9.3f} s")
    print(f"blobs           {sum(map(len, work.blobs.values())):>9,} bytes a round")
    print(f"update          {len(work.update):>9,} bytes of them")


if __name__ == "__main__":
    main()
