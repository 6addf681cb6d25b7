"""One small strategy of every kind, a toy model with layers and dropout, and runs of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from paceline.lab.training.fleet import Fleet, Machine, make_fleet
from paceline.lab.training.run import Plan, Run, derive_run_seed
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.masks import RandomMask
from paceline.training.codecs.quantisers import Float4, Half, Int8
from paceline.training.codecs.top_k import TopK
from paceline.training.methods.exchanges import AllGather, Neighbours, Pairs, Syncer
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import (
    AdaptiveOuter,
    DelayedNesterov,
    Nesterov,
    PairwiseNesterov,
    Sgd,
)
from paceline.training.methods.replica import Course
from paceline.training.methods.strategy import Mixer, Rule, Strategy, Subject, Trigger
from paceline.training.methods.workbench import Workbench

STEPS = 24
SGD = LocalOptimizer(name="sgd", rate=0.05, settings={"momentum": 0.9}, schedule=Schedule(kind="constant"))
ADAMW = LocalOptimizer(name="adamw", rate=0.01, schedule=Schedule(warmup_steps=3), clip=1.0)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(6, 1)

    def forward(self, batch):
        hidden = batch[:, :6]
        for layer in self.layers:
            hidden = self.dropout(torch.tanh(layer(hidden)))
        return ((self.out(hidden)[:, 0] - batch[:, 6]) ** 2).mean()


def draw_batch(trainer, step):
    generator = torch.Generator().manual_seed(trainer * 100003 + step)
    return torch.randn(8, 7, generator=generator)


def delta(interval=8, **settings):
    chosen = {"outer": Nesterov()} | settings
    trigger = chosen.pop("trigger", Trigger(interval=interval))
    return Rule(subject=Subject.DELTA, trigger=trigger, **chosen)


def params(interval, **settings):
    return Rule(subject=Subject.PARAMS, trigger=Trigger(interval=interval), **settings)


def gradient(**settings):
    return Rule(subject=Subject.GRADIENT, **settings)


def make_kinds():
    sparse = TopK(k=4, chunk=16)
    distro = replace(sparse, values=Sign(), exact_feedback=True)
    noloco = Rule(
        subject=Subject.DELTA_AND_ANCHOR, trigger=Trigger(interval=4), exchange=Pairs(), outer=PairwiseNesterov()
    )
    rules = {
        "none": (),
        "ddp": (gradient(),),
        "ddp-int8": (gradient(codec=Int8()),),
        "demo": (gradient(codec=Dct(sparse, block=4), feedback=0.9, exchange=AllGather(), sign=True),),
        "distro": (
            gradient(
                codec=Dct(distro, block=4),
                feedback=0.9,
                exchange=AllGather(relay=True),
                sign=True,
                look_ahead=True,
                trigger=Trigger(delay=1),
            ),
        ),
        "fedavg": (params(4),),
        "sparta": (params(1, mask=RandomMask(0.1)),),
        "sparta-diloco": (params(1, mask=RandomMask(0.1)), delta()),
        "diloco": (delta(),),
        "diloco-int8": (delta(codec=Int8()),),
        "diloco-tokens": (delta(by_tokens=True, outer=AdaptiveOuter()),),
        "sparseloco": (
            delta(4, codec=TopK(k=4, chunk=16, values=TwoBit()), feedback=0.95, exchange=AllGather(), outer=Sgd()),
        ),
        "streaming": (delta(trigger=Trigger(interval=8, fragments=4, delay=1), codec=Float4(), mixer=Mixer(keep=0.5)),),
        "eager": (delta(trigger=Trigger(interval=4, delay=4), mixer=Mixer(eager=True)),),
        "noloco": (noloco,),
        "ring": (params(4, exchange=Neighbours(), codec=Half()),),
        "decoupled": (delta(4, exchange=Syncer(quorum=2, grace_seconds=0.5, by_tokens=True)),),
        "asynchronous": (
            delta(
                trigger=Trigger(interval=8, by_speed=True),
                exchange=Syncer(quorum=1),
                outer=DelayedNesterov(every=4),
            ),
        ),
    }
    local = {"ddp": SGD, "demo": SGD, "distro": SGD}
    return {name: Strategy(name=name, local=local.get(name, ADAMW), rules=found) for name, found in rules.items()}


KINDS = make_kinds()


def make_course(strategy, *, steps=STEPS, seed=1, get_batch=draw_batch):
    torch.manual_seed(0)
    bench = Workbench(FlatModel(Toy(), strategy.fragments))
    return Course(
        strategy=strategy,
        bench=bench,
        total_steps=steps,
        seed=derive_run_seed(seed),
        get_batch=get_batch,
        batch_tokens=8,
    )


def make_evaluate(course):
    batches = [draw_batch(999, index) for index in range(2)]
    return lambda values: course.bench.evaluate(values, batches)


def make_plan(course, trainers=3, fleet=None, **settings):
    machine = Machine(up_bits=1e5, down_bits=1e5, latency_seconds=0.01, jitter=0.1)
    fleet = fleet or make_fleet(trainers, machine, speed_skew=2.0)
    return Plan(fleet=fleet, evaluate_every=8, evaluate=make_evaluate(course), **settings)


def make_run(strategy, **settings):
    course = make_course(strategy)
    return Run(course, make_plan(course, **settings), course.bench.model.values.clone())


def make_changing_fleet():
    """One crashes, one goes, one loses messages and is slow, one joins."""
    base = Machine(up_bits=1e5, down_bits=1e5, jitter=0.1)
    machines = (
        base,
        replace(base, crashes_at=9.5),
        replace(base, leaves_at=13.0),
        replace(base, lost_share=0.3, step_seconds=1.6),
        replace(base, joins_at=11.0),
    )
    return Fleet(machines=machines)
