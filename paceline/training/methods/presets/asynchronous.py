"""DiLoCo without a common beat: trainers push to a synchroniser and nobody waits for the slowest."""

from __future__ import annotations

import math

from paceline.base.errors import ConfigError
from paceline.training.methods.exchanges import Syncer
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import DelayedNesterov, Nesterov
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger


def async_diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 50,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
    activation: float = 0.0,
    by_speed: bool = True,
) -> Strategy:
    """Each pseudo-gradient moves the anchor when it arrives; the momentum changes once per `trainers` arrivals.

    `activation` of the momentum is applied between those, at most 1 / trainers. With `by_speed` a slower trainer takes
    proportionally fewer inner steps, so that pushes arrive in turn.
    Source: Asynchronous Local-SGD, arXiv 2401.09135, with delayed Nesterov and dynamic local updates.
    """
    outer = DelayedNesterov(every=trainers, rate=outer_rate, momentum=outer_momentum, activation=activation)
    trigger = Trigger(interval=inner_steps, by_speed=by_speed)
    rule = Rule(subject=Subject.DELTA, trigger=trigger, exchange=Syncer(quorum=1), outer=outer)
    return Strategy(name="async-diloco", local=local, rules=(rule,))


def decoupled_diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 100,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
    quorum_share: float = 0.5,
    grace_seconds: float = 0.0,
    by_tokens: bool = True,
    by_speed: bool = True,
    fragments: int = 1,
) -> Strategy:
    """The synchroniser merges once a share of the trainers has pushed and `grace_seconds` have passed since.

    Pushes weigh by the tokens behind them; with `by_speed` slower trainers take fewer steps, which excludes fragments.
    The abstract names the parts without numbers; rates are DiLoCo's.
    Source: Decoupled DiLoCo, arXiv 2604.21428.
    """
    if not 0 < quorum_share <= 1:
        raise ConfigError(f"quorum_share {quorum_share}: must be above 0 and at most 1")
    quorum = math.ceil(quorum_share * trainers)
    rule = Rule(
        subject=Subject.DELTA,
        trigger=Trigger(interval=inner_steps, fragments=fragments, by_speed=by_speed),
        exchange=Syncer(quorum=quorum, grace_seconds=grace_seconds, by_tokens=by_tokens),
        outer=Nesterov(rate=outer_rate, momentum=outer_momentum),
    )
    return Strategy(name="decoupled-diloco", local=local, rules=(rule,))


PRESETS = (
    Preset(
        name="async-diloco",
        build=async_diloco,
        replaces={"outer": ("outer_rate", "outer_momentum", "activation")},
    ),
    Preset(
        name="decoupled-diloco",
        build=decoupled_diloco,
        replaces={
            "outer": ("outer_rate", "outer_momentum"),
            "exchange": ("quorum_share", "grace_seconds", "by_tokens"),
        },
    ),
)
