"""SPARTA: every step a small random share of the parameters is averaged; alone, or between DiLoCo's rounds."""

from __future__ import annotations

from dataclasses import replace

from paceline.training.codecs.masks import RandomMask
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import Nesterov
from paceline.training.methods.presets.preset import ADAMW, Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger


def sparta(
    *, trainers: int, local: LocalOptimizer, share: float = 0.005, interval: int = 1, delay: int = 0
) -> Strategy:
    """Every `interval` steps a random `share` of the parameters is averaged; both sides draw it, no mask travels.

    What was averaged comes into effect `delay` steps later, as a difference that is added.
    Source: SPARTA, report of exo labs, 2025: shares of 0.0005 to 0.005.
    """
    return Strategy(name="sparta", local=local, rules=(_average(share, interval, delay),))


def sparta_diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    share: float = 0.005,
    interval: int = 1,
    inner_steps: int = 100,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
) -> Strategy:
    """SPARTA between the rounds of DiLoCo. Tables for parts mean those of DiLoCo's rule.

    Source: SPARTA, report of exo labs, 2025, which doubles DiLoCo's inner rate; rounds as in its code.
    """
    outer = Nesterov(rate=outer_rate, momentum=outer_momentum)
    rounds = Rule(subject=Subject.DELTA, trigger=Trigger(interval=inner_steps), outer=outer)
    return Strategy(name="sparta-diloco", local=local, rules=(_average(share, interval, 0), rounds))


def _average(share: float, interval: int, delay: int) -> Rule:
    return Rule(subject=Subject.PARAMS, trigger=Trigger(interval=interval, delay=delay), mask=RandomMask(share))


PRESETS = (
    Preset(name="sparta", build=sparta),
    Preset(
        name="sparta-diloco",
        build=sparta_diloco,
        local=replace(ADAMW, rate=8e-4),
        replaces={"outer": ("outer_rate", "outer_momentum")},
    ),
)
