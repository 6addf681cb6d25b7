"""Streaming DiLoCo: the model in fragments of layers that take turns, four bits a number, results mixed in late."""

from __future__ import annotations

from paceline.training.codecs.quantisers import Float4
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import Nesterov
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Mixer, Rule, Strategy, Subject, Trigger


def streaming_diloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 100,
    fragments: int = 4,
    delay: int = 1,
    keep: float = 0.5,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
    chunk: int = 4096,
) -> Strategy:
    """Every `inner_steps` steps each of `fragments` is sent once, evenly spread, each with an outer optimiser of its own.

    A fragment comes into effect `delay` steps after it was sent: keep * local + (1 - keep) * new. Numbers travel in four
    bits (E3M0), `chunk` of them under one scale. The paper puts three layers into a fragment: 4 stand for 12 layers.
    Source: Streaming DiLoCo, arXiv 2501.18512: rounds of 30 to 100 steps, delay 1 to 5, keep 0.5.
    """
    rule = Rule(
        subject=Subject.DELTA,
        trigger=Trigger(interval=inner_steps, fragments=fragments, delay=delay),
        codec=Float4(chunk=chunk),
        outer=Nesterov(rate=outer_rate, momentum=outer_momentum),
        mixer=Mixer(keep=keep),
    )
    return Strategy(name="streaming-diloco", local=local, rules=(rule,))


PRESETS = (
    Preset(
        name="streaming-diloco",
        build=streaming_diloco,
        replaces={"outer": ("outer_rate", "outer_momentum"), "codec": ("chunk",)},
    ),
)
