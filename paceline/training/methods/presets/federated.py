"""Federated averaging and its adaptive outer steps: rounds of inner steps, then the mean of what they changed."""

from __future__ import annotations

from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import AdaptiveOuter, OuterOptimizer, Sgd
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

PLAIN_SGD = LocalOptimizer(name="sgd", rate=0.1, schedule=Schedule(kind="constant"))


def fedavg(*, trainers: int, local: LocalOptimizer, inner_steps: int = 500) -> Strategy:
    """Every `inner_steps` steps the trainers go on from the mean of their parameters.

    The paper counts epochs on each client's data; steps stand for them here, 500 as in DiLoCo, to compare with it.
    Source: FedAvg, arXiv 1602.05629.
    """
    return _make("fedavg", local, inner_steps, Sgd(rate=1.0))


def localsgd(*, trainers: int, local: LocalOptimizer, inner_steps: int = 8) -> Strategy:
    """FedAvg under its other name, with SGD inside and short rounds.

    Source: Local SGD, arXiv 1805.09767; up to 8 and 16 steps a round in Don't Use Large Mini-Batches, arXiv 1808.07217.
    """
    return _make("localsgd", local, inner_steps, Sgd(rate=1.0))


def fedadam(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 500,
    outer_rate: float = 1e-2,
    first_decay: float = 0.9,
    second_decay: float = 0.99,
    floor: float = 1e-3,
) -> Strategy:
    """Adam on the pseudo-gradient. `floor` is added to the root of the second moment: the paper's adaptivity.

    Source: FedOpt, arXiv 2003.00295: decays 0.9 and 0.99, floor 1e-3; the rate is tuned there, 1e-2 is a common result.
    """
    outer = AdaptiveOuter(kind="adam", rate=outer_rate, first_decay=first_decay, second_decay=second_decay, floor=floor)
    return _make("fedadam", local, inner_steps, outer)


def fedyogi(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 500,
    outer_rate: float = 1e-2,
    first_decay: float = 0.9,
    second_decay: float = 0.99,
    floor: float = 1e-3,
) -> Strategy:
    """Yogi on the pseudo-gradient: as fedadam, but the second moment moves by the square's size alone.

    Source: FedOpt, arXiv 2003.00295.
    """
    outer = AdaptiveOuter(kind="yogi", rate=outer_rate, first_decay=first_decay, second_decay=second_decay, floor=floor)
    return _make("fedyogi", local, inner_steps, outer)


def fedadagrad(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 500,
    outer_rate: float = 1e-2,
    first_decay: float = 0.0,
    floor: float = 1e-3,
) -> Strategy:
    """Adagrad on the pseudo-gradient; its squares are summed, not decayed.

    Source: FedOpt, arXiv 2003.00295, where FedAdagrad takes no momentum.
    """
    outer = AdaptiveOuter(kind="adagrad", rate=outer_rate, first_decay=first_decay, floor=floor)
    return _make("fedadagrad", local, inner_steps, outer)


def _make(name: str, local: LocalOptimizer, inner_steps: int, outer: OuterOptimizer) -> Strategy:
    rule = Rule(subject=Subject.DELTA, trigger=Trigger(interval=inner_steps), outer=outer)
    return Strategy(name=name, local=local, rules=(rule,))


_OUTER = ("outer_rate", "first_decay", "second_decay", "floor")

PRESETS = (
    Preset(name="fedavg", build=fedavg),
    Preset(name="localsgd", build=localsgd, local=PLAIN_SGD),
    Preset(name="fedadam", build=fedadam, replaces={"outer": _OUTER}),
    Preset(name="fedyogi", build=fedyogi, replaces={"outer": _OUTER}),
    Preset(name="fedadagrad", build=fedadagrad, replaces={"outer": ("outer_rate", "first_decay", "floor")}),
)
