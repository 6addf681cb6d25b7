"""What a simulated run measures: bytes by kind and trainer, seconds at work and idle, loss over tokens, events.

It refuses to know why. Invariant: what one trainer sends, others receive, unless it was lost on the way.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

UPDATE, ANCHOR, STATE = "update", "anchor", "state"
"""Rounds of a rule; what a syncer sends back; what a joiner downloads."""

MAX_COMPARED = 8
"""Replicas between which the correlation is computed."""


@dataclass
class Meter:
    """One trainer's totals."""

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    compute_seconds: float = 0.0
    idle_seconds: float = 0.0
    steps: int = 0

    def count(self, kind: str, *, sent: int = 0, received: int = 0) -> None:
        """Bytes of one message."""
        self.sent[kind] += sent
        self.received[kind] += received


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation."""

    step: int
    tokens: int
    seconds: float
    bytes_sent: int
    """Of all trainers since the start."""
    loss: float
    correlation: float
    """Mean Pearson correlation between replicas' parameters; 1 when they are equal."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished or stopped run."""

    method: str
    param_count: int
    points: tuple[Point, ...]
    meters: tuple[Meter, ...]
    seconds: float
    """Virtual time of the last event."""
    rounds: int
    events: tuple[str, ...]
    params: Tensor
    """The average of the replicas, or the syncer's anchor."""

    @property
    def loss(self) -> float:
        """Of the last evaluation."""
        return self.points[-1].loss if self.points else float("nan")

    @property
    def bytes_sent(self) -> int:
        """Of all trainers."""
        return sum(sum(meter.sent.values()) for meter in self.meters)

    @property
    def bytes_sent_per_step(self) -> float:
        """Of one trainer in one inner step, joins left out."""
        sent = sum(amount for meter in self.meters for kind, amount in meter.sent.items() if kind != STATE)
        return sent / max(1, sum(meter.steps for meter in self.meters))

    @property
    def utilisation(self) -> float:
        """Share of the trainers' time that went into inner steps."""
        busy = sum(meter.compute_seconds for meter in self.meters)
        idle = sum(meter.idle_seconds for meter in self.meters)
        return busy / (busy + idle) if busy + idle else 0.0


@dataclass
class Evaluation:
    """Replicas that have reached an evaluation's step."""

    step: int
    seconds: float = 0.0
    vectors: list[Tensor] = field(default_factory=list)
    trainers: set[int] = field(default_factory=set)


class Evaluations:
    """Gathers the replicas of each evaluation until everyone alive has come by."""

    def __init__(self) -> None:
        self._open: dict[int, Evaluation] = {}
        self._done: set[int] = set()

    def add(self, step: int, trainer: int, params: Tensor, seconds: float) -> None:
        """A trainer stands at an evaluation's step; whoever comes when it is over is not counted."""
        if step in self._done:
            return
        found = self._open.setdefault(step, Evaluation(step))
        found.trainers.add(trainer)
        found.vectors.append(params)
        found.seconds = max(found.seconds, seconds)

    def take_complete(self, alive: set[int]) -> list[Evaluation]:
        """Those for which nobody alive is missing, in order of steps."""
        complete = [self._open[step] for step in sorted(self._open) if alive <= self._open[step].trainers]
        for found in complete:
            del self._open[found.step]
            self._done.add(found.step)
        return complete


def compute_correlation(vectors: list[Tensor]) -> float:
    """Mean Pearson correlation over all pairs."""
    if _are_equal(vectors):
        return 1.0
    table = torch.corrcoef(torch.stack(vectors))
    count = len(vectors)
    return float((table.sum() - table.diagonal().sum()) / (count * (count - 1)))


def select_finite(vectors: list[Tensor]) -> list[Tensor]:
    """Those without NaN and infinity; all of them when none is finite, since there is nothing better."""
    finite = {id(vector): bool(torch.isfinite(vector).all()) for vector in vectors}
    return [vector for vector in vectors if finite[id(vector)]] or vectors


def compute_average(vectors: list[Tensor]) -> Tensor:
    """Mean in the order given; the very vector when all are equal, because a mean of equal numbers may round."""
    if _are_equal(vectors):
        return vectors[0]
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total += vector
    return total / len(vectors)


def _are_equal(vectors: list[Tensor]) -> bool:
    first = vectors[0]
    return all(vector is first or torch.equal(vector, first) for vector in vectors[1:])
