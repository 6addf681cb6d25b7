"""Time of an inner step in the simulator against a plain PyTorch loop: same model, batches and optimiser, one thread.

    python bench/training_overhead.py [--repeats N] [--steps N]

The plain loop trains one model; DiLoCo (a round every 30 steps) is played with one trainer and with four. Runs alternate,
and the figure is the median of the ratios of neighbours in processor time, so that other work on the machine cancels out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from paceline.lab.training.fleet import make_fleet
from paceline.lab.training.run import Plan, Run, derive_run_seed
from paceline.models.byte_gpt import ByteGpt, ByteGptConfig
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import Nesterov
from paceline.training.methods.replica import Course
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger
from paceline.training.methods.workbench import Workbench

CONFIG = ByteGptConfig(layers=4, width=96, heads=4, context=64)
ROWS = 4
INTERVAL = 30
LOCAL = LocalOptimizer(rate=1e-3)


def build_model() -> ByteGpt:
    torch.manual_seed(0)
    model = ByteGpt(CONFIG)
    for param in model.parameters():
        if param.ndim > 1:
            torch.nn.init.normal_(param, std=0.02)
    return model


def draw_tokens(trainer: int, step: int, rows: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * trainer + step)
    return torch.randint(256, (rows, CONFIG.context + 1), generator=generator)


def build_course(strategy: Strategy, steps: int, get_batch: Callable[[int, int], Tensor] = draw_tokens) -> Course:
    return Course(
        strategy=strategy,
        bench=Workbench(FlatModel(build_model(), strategy.fragments)),
        total_steps=steps,
        seed=derive_run_seed(1),
        get_batch=get_batch,
        batch_tokens=ROWS * CONFIG.context,
    )


def run_plain_loop(steps: int, trainers: int) -> float:
    """What anyone would write, as many steps as all trainers take together."""
    model = build_model()
    optimizer = LOCAL.build(list(model.parameters()))
    began = time.process_time()
    for step in range(steps * trainers):
        loss = model(draw_tokens(0, step))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = LOCAL.rate * LOCAL.schedule.compute_share(step, steps)
        optimizer.step()
        loss.item()
    return time.process_time() - began


def run_engine(steps: int, trainers: int) -> float:
    rule = Rule(subject=Subject.DELTA, trigger=Trigger(interval=INTERVAL), outer=Nesterov())
    course = build_course(Strategy(name="diloco", local=LOCAL, rules=(rule,)), steps)
    run = Run(course, Plan(fleet=make_fleet(trainers), evaluate_every=steps), course.bench.model.values.clone())
    began = time.process_time()
    run.play()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2 * INTERVAL)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for trainers in (1, 4):
        steps = asked.steps
        run_plain_loop(INTERVAL, 1)
        run_engine(INTERVAL, 1)
        ratios, plain = [], []
        for turn in range(asked.repeats):
            # Whoever is second finds warmer caches: they take turns.
            pair = [run_plain_loop, run_engine] if turn % 2 == 0 else [run_engine, run_plain_loop]
            taken = {action.__name__: action(steps, trainers) for action in pair}
            plain.append(taken["run_plain_loop"])
            ratios.append(taken["run_engine"] / taken["run_plain_loop"])
        each = median(plain) / (steps * trainers) * 1e3
        low, high = min(ratios), max(ratios)
        print(
            f"trainers {trainers}: plain step {each:.2f} ms, engine / plain {median(ratios):.3f} ({low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
