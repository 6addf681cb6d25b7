"""DiLoCo, the same with fewer bits a number, and the same with rounds that overlap."""

from __future__ import annotations

from paceline.training.codecs.codec import Codec
from paceline.training.codecs.quantisers import Half, Int8, Raw
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import Nesterov
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Mixer, Rule, Strategy, Subject, Trigger


def diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 500,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
) -> Strategy:
    """Rounds of `inner_steps` steps, then one Nesterov step on the mean pseudo-gradient.

    The outer step's long-run gain is outer_rate / (1 - outer_momentum), 7 here; runs of few rounds want less.
    Source: DiLoCo, arXiv 2311.08105.
    """
    return _make(
        "diloco", local, Trigger(interval=inner_steps), Raw(), Nesterov(rate=outer_rate, momentum=outer_momentum)
    )


def opendiloco_fp16(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 500,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
) -> Strategy:
    """DiLoCo whose pseudo-gradients travel as fp16, two bytes a number.

    Source: OpenDiLoCo, arXiv 2407.07852.
    """
    outer = Nesterov(rate=outer_rate, momentum=outer_momentum)
    return _make("opendiloco-fp16", local, Trigger(interval=inner_steps), Half(), outer)


def opendiloco_int8(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 100,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
    chunk: int = 4096,
) -> Strategy:
    """DiLoCo whose pseudo-gradients travel as int8; every `chunk` numbers share a scale.

    Source: INTELLECT-1, arXiv 2412.01152: rounds of 100 steps, 8-bit all-reduce.
    """
    outer = Nesterov(rate=outer_rate, momentum=outer_momentum)
    return _make("opendiloco-int8", local, Trigger(interval=inner_steps), Int8(chunk=chunk), outer)


def overlapped_diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 30,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
    eager: bool = True,
) -> Strategy:
    """DiLoCo whose rounds travel while the next one is computed, so that they come into effect one round late.

    `eager` lets a trainer's newest pseudo-gradient take the place of its own late one. Rates are DiLoCo's.
    Source: Eager Updates for Overlapped Communication, arXiv 2502.12996.
    """
    trigger, outer = (
        Trigger(interval=inner_steps, delay=inner_steps),
        Nesterov(rate=outer_rate, momentum=outer_momentum),
    )
    return _make("overlapped-diloco", local, trigger, Raw(), outer, Mixer(eager=eager))


def _make(
    name: str, local: LocalOptimizer, trigger: Trigger, codec: Codec, outer: Nesterov, mixer: Mixer | None = None
) -> Strategy:
    rule = Rule(subject=Subject.DELTA, trigger=trigger, codec=codec, outer=outer, mixer=mixer or Mixer())
    return Strategy(name=name, local=local, rules=(rule,))


_OUTER = ("outer_rate", "outer_momentum")

PRESETS = (
    Preset(name="diloco", build=diloco, replaces={"outer": _OUTER}),
    Preset(name="opendiloco-fp16", build=opendiloco_fp16, replaces={"outer": _OUTER}),
    Preset(name="opendiloco-int8", build=opendiloco_int8, replaces={"outer": _OUTER, "codec": ("chunk",)}),
    Preset(name="overlapped-diloco", build=overlapped_diloco, replaces={"outer": _OUTER}),
)
