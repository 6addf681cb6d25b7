"""NoLoCo: DiLoCo without any collective, in random pairs whose anchors are drawn together."""

from __future__ import annotations

from paceline.training.methods.exchanges import Pairs
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import PairwiseNesterov
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

ADAM = LocalOptimizer(name="adam", rate=6e-4, schedule=Schedule(kind="cosine"))


def noloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 50,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.5,
    pull: float = 0.7,
) -> Strategy:
    """Every `inner_steps` steps random pairs swap pseudo-gradients and anchors.

    `pull` times the distance to the pair's mean anchor holds the replicas together; they stay different.
    Source: NoLoCo, arXiv 2506.10911: rate and pull 0.7, momentum 0.5, rounds of 50 steps, Adam at 6e-4 for 125 M.
    """
    rule = Rule(
        subject=Subject.DELTA_AND_ANCHOR,
        trigger=Trigger(interval=inner_steps),
        exchange=Pairs(),
        outer=PairwiseNesterov(rate=outer_rate, momentum=outer_momentum, pull=pull),
    )
    return Strategy(name="noloco", local=local, rules=(rule,))


PRESETS = (
    Preset(name="noloco", build=noloco, local=ADAM, replaces={"outer": ("outer_rate", "outer_momentum", "pull")}),
)
