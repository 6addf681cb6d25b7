"""What a run is made of besides its course, and what it knows of each trainer while it plays.

It refuses to know events and rounds. Invariant: a plan never changes; an actor is changed by its run alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from paceline.lab.training.fleet import Fleet
from paceline.training.methods.replica import Replica, RoundKey


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is made of besides its course."""

    fleet: Fleet
    evaluate_every: int
    """Inner steps of a trainer between two evaluations."""
    timeout_seconds: float = 0.0
    """How long a round waits after its first message; 0 waits for everyone."""
    pretend_params: int = 0
    """The clock takes messages for those of a model of this size; 0 takes them as they are."""
    evaluate: Callable[[Tensor], float] | None = None
    on_progress: Callable[[int, int], None] | None = None
    """Called with the tokens trained on so far and in all."""


@dataclass
class Actor:
    """A trainer in the run: its replica, its time, and how far it is."""

    trainer: int
    replica: Replica | None = None
    time: float = 0.0
    until: int = 0
    waiting_for: RoundKey | None = None
    is_alive: bool = False
    is_leaving: bool = False
    is_finished: bool = False
    undone: int = 0  # steps computed ahead of the clock that a crash prevents
