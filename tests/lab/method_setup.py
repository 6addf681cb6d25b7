"""A toy regression in float64 that every test of methods trains, and one function that plays a strategy on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from paceline.lab.training.fleet import Fleet, Machine, make_fleet
from paceline.lab.training.run import Plan, Run, derive_run_seed
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.replica import Course
from paceline.training.methods.strategy import Strategy
from paceline.training.methods.workbench import Workbench

torch.set_num_threads(1)

FEATURES, TOKENS = 6, 8
SGD = LocalOptimizer(name="sgd", rate=0.05, schedule=Schedule(kind="constant"))
ADAMW = LocalOptimizer(name="adamw", rate=0.01, schedule=Schedule(kind="cosine", warmup_steps=3), clip=1.0)


class Toy(nn.Module):
    """Four layers with 187 numbers in all, a count that 2, 3 and 8 trainers cannot share evenly."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.layers = nn.ModuleList([nn.Linear(FEATURES, FEATURES, dtype=dtype) for _ in range(4)])
        self.norm = nn.Parameter(torch.ones(FEATURES, dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(6, dtype=dtype))
        self.out = nn.Linear(FEATURES, 1, bias=False, dtype=dtype)
        self.gain = nn.Parameter(torch.ones(1, dtype=dtype))
        with torch.no_grad():
            for layer in (*self.layers, self.out):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64) * 0.4)
            for layer in self.layers:
                layer.bias.zero_()

    def forward(self, batch):
        found = batch[:, :FEATURES]
        for layer in self.layers:
            found = torch.tanh(layer(found))
        found = self.out(found * self.norm + self.shift)[:, 0] * self.gain
        return ((found - batch[:, FEATURES]) ** 2).mean()


def get_batch(trainer, step):
    generator = torch.Generator().manual_seed(trainer * 100_003 + step)
    batch = torch.randn(TOKENS, FEATURES + 1, generator=generator, dtype=torch.float64)
    batch[:, FEATURES] = torch.sin(batch[:, 0]) + 0.5 * batch[:, 1]
    return batch


def get_batch_fp32(trainer, step):
    return get_batch(trainer, step).float()


EVALUATION = [get_batch(999, step) for step in range(4)]


class Played:
    """A finished run with the module's tensors by name, so that methods with other fragments compare."""

    def __init__(self, run, names, layout):
        self.run, self.result = run, run.get_result()
        self.names, self.layout = names, layout
        self.params = self.sort(self.result.params)
        self.points, self.meters, self.events = self.result.points, self.result.meters, self.result.events

    def sort(self, vector):
        parts = dict(zip(self.names, self.layout.split(vector), strict=True))
        return torch.cat([parts[name].reshape(-1) for name in sorted(parts)])


def make_run(strategy, *, trainers=4, steps=24, fleet=None, dtype=torch.float64, module=None, batches=None, **plan):
    flat = FlatModel(module or Toy(dtype), strategy.fragments)
    bench = Workbench(flat)
    start = flat.values.clone()
    if batches is None:
        batches = get_batch if dtype == torch.float64 else get_batch_fp32
    evaluation = [batch.to(dtype) for batch in EVALUATION]
    course = Course(
        strategy=strategy,
        bench=bench,
        total_steps=steps,
        seed=derive_run_seed(1),
        get_batch=batches,
        batch_tokens=TOKENS,
    )
    made = Plan(
        fleet=fleet or make_fleet(trainers),
        evaluate_every=plan.pop("evaluate_every", steps),
        evaluate=lambda params: bench.evaluate(params, evaluation),
        **plan,
    )
    return Run(course, made, start), flat


def play(strategy, **settings):
    run, flat = make_run(strategy, **settings)
    assert run.play()
    return Played(run, flat.names, flat.layout)


def make_strategy(*rules, local=ADAMW):
    return Strategy(name="test", local=local, rules=rules)


def change(fleet, trainer, **changes):
    """A fleet with one machine changed."""
    machines = list(fleet.machines)
    machines[trainer] = replace(machines[trainer], **changes)
    return Fleet(machines=tuple(machines))


def add(fleet, **settings):
    return Fleet(machines=(*fleet.machines, Machine(**settings)))


def measure_gap(one, other):
    return float((one.params - other.params).abs().max())
