"""Decentralised SGD: each trainer averages its parameters with its neighbours' on a fixed graph."""

from __future__ import annotations

from paceline.training.methods.exchanges import Neighbours
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger


def gossip_ring(*, trainers: int, local: LocalOptimizer, inner_steps: int = 1) -> Strategy:
    """Two neighbours on a ring, heard every `inner_steps` steps. The mean over all trainers is kept.

    Source: D-PSGD, arXiv 1705.09056: a ring, every step.
    """
    return _make("gossip-ring", local, inner_steps, Neighbours(graph="ring"))


def gossip_expander(*, trainers: int, local: LocalOptimizer, inner_steps: int = 1, degree: int = 4) -> Strategy:
    """At most `degree` neighbours on the union of degree / 2 random cycles: news reaches all in few rounds.

    Source: D-PSGD, arXiv 1705.09056, on an expander graph (Friedman, A Proof of Alon's Second Eigenvalue Conjecture).
    """
    return _make("gossip-expander", local, inner_steps, Neighbours(graph="expander", degree=degree))


def gossip_small_world(
    *, trainers: int, local: LocalOptimizer, inner_steps: int = 1, degree: int = 4, rewire: float = 0.1
) -> Strategy:
    """`degree` nearest neighbours on a ring, of whose links a share `rewire` leads somewhere else.

    Source: D-PSGD, arXiv 1705.09056, on a graph of Watts and Strogatz, Nature 393, 1998.
    """
    exchange = Neighbours(graph="small-world", degree=degree, rewire=rewire)
    return _make("gossip-small-world", local, inner_steps, exchange)


def _make(name: str, local: LocalOptimizer, inner_steps: int, exchange: Neighbours) -> Strategy:
    rule = Rule(subject=Subject.PARAMS, trigger=Trigger(interval=inner_steps), exchange=exchange)
    return Strategy(name=name, local=local, rules=(rule,))


PRESETS = (
    Preset(name="gossip-ring", build=gossip_ring),
    Preset(name="gossip-expander", build=gossip_expander, replaces={"exchange": ("degree",)}),
    Preset(name="gossip-small-world", build=gossip_small_world, replaces={"exchange": ("degree", "rewire")}),
)
