"""SparseLoCo: rounds like DiLoCo's, of which only the largest numbers travel, in two bits, and the rest is remembered."""

from __future__ import annotations

from paceline.training.codecs.few_bits import TwoBit
from paceline.training.codecs.top_k import TopK
from paceline.training.methods.exchanges import AllGather
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import Sgd
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

SPARSE_ADAMW = LocalOptimizer(
    name="adamw",
    rate=1e-3,
    settings={"betas": (0.9, 0.95), "weight_decay": 0.1},
    schedule=Schedule(kind="cosine", warmup_steps=1000),
    clip=1.0,
)


def sparseloco(
    *,
    trainers: int,
    local: LocalOptimizer,
    inner_steps: int = 30,
    decay: float = 0.95,
    k: int = 64,
    chunk: int = 4096,
    outer_rate: float = 1.0,
) -> Strategy:
    """The `k` largest of every `chunk` numbers of pseudo-gradient plus memory; the memory fades with `decay`.

    Two bits a value, twelve an index. The outer step is plain, `outer_rate` times the mean: the memory is its momentum.
    Source: SparseLoCo, arXiv 2508.15706: k 64, decay 0.95, rounds of 15 to 30 steps, inner rate 1e-3 at 512 M.
    """
    rule = Rule(
        subject=Subject.DELTA,
        trigger=Trigger(interval=inner_steps),
        codec=TopK(k, chunk, TwoBit()),
        feedback=decay,
        exchange=AllGather(),
        outer=Sgd(rate=outer_rate),
    )
    return Strategy(name="sparseloco", local=local, rules=(rule,))


PRESETS = (
    Preset(
        name="sparseloco",
        build=sparseloco,
        local=SPARSE_ADAMW,
        replaces={"codec": ("k", "chunk"), "outer": ("outer_rate",)},
    ),
)
