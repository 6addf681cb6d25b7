"""DeMo and DisTrO: every step the few largest waves of each trainer's momentum, and a step by the sign of their mean."""

from __future__ import annotations

from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign
from paceline.training.codecs.top_k import TopK
from paceline.training.methods.exchanges import AllGather
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

DEMO_SGD = LocalOptimizer(name="sgd", rate=4e-4, schedule=Schedule(kind="cosine", warmup_steps=250))
DISTRO_SGD = LocalOptimizer(
    name="sgd", rate=2e-4, settings={"weight_decay": 0.1}, schedule=Schedule(kind="wsd"), clip=1.0
)
"""SGD without momentum: its weight decay acts on parameters alone, and the momentum is the error feedback."""


def demo(*, trainers: int, local: LocalOptimizer, decay: float = 0.999, k: int = 32, block: int = 64) -> Strategy:
    """What is not sent is kept with `decay`; `k` waves of each block of block * block numbers are sent at full precision.

    Source: DeMo, arXiv 2411.19870: decay 0.999, k 32 of 64 * 64; rate 4e-4 and 250 steps of warm-up for OLMo 300 M.
    """
    codec = Dct(TopK(k, block * block), block)
    rule = Rule(subject=Subject.GRADIENT, codec=codec, feedback=decay, exchange=AllGather(), sign=True)
    return Strategy(name="demo", local=local, rules=(rule,))


def distro(
    *,
    trainers: int,
    local: LocalOptimizer,
    decay: float = 0.995,
    k: int = 4,
    block: int = 64,
    look_ahead: bool = True,
) -> Strategy:
    """DeMo with one bit a wave. With `look_ahead` messages travel while the next gradient is computed, one step late.

    That gradient is computed where the trainer's own last message would lead.
    Source: DisTrO, report of Nous Research, 2024, and Psyche's runs: decay 0.995, k 4, weight decay 0.1, rate 2e-4.
    """
    codec = Dct(TopK(k, block * block, Sign(), exact_feedback=True), block)
    rule = Rule(
        subject=Subject.GRADIENT,
        trigger=Trigger(delay=1 if look_ahead else 0),
        codec=codec,
        feedback=decay,
        exchange=AllGather(),
        sign=True,
        look_ahead=look_ahead,
    )
    return Strategy(name="distro", local=local, rules=(rule,))


PRESETS = (
    Preset(name="demo", build=demo, local=DEMO_SGD, replaces={"codec": ("k", "block")}),
    Preset(name="distro", build=distro, local=DISTRO_SGD, replaces={"codec": ("k", "block")}),
)
