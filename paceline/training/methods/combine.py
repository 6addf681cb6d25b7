"""How the updates of several trainers become one: the mean, or a rule that a minority of liars cannot steer.

It refuses to know who sent what; updates come in the order of trainers, and every sum follows that order, because
the sum of floats depends on it. Invariant: pure, and equal inputs give equal bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from paceline.base.errors import ConfigError

_STRETCH = 1 << 16


class Combine(ABC):
    """A frozen dataclass. `needs_whole`: it looks at whole updates, so the shards of an all-reduce do not serve it."""

    needs_whole: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    """True when it honours weights; the others count every update once."""

    @abstractmethod
    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        """One vector from at least one; weights are positive, one for each. Updates may be made as they are asked for."""


@dataclass(frozen=True)
class Mean(Combine):
    """The weighted mean; equal weights multiply nothing."""

    weighted: ClassVar[bool] = True

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        if len(set(weights)) == 1:
            return _sum(updates) / len(weights)
        total = float(sum(weights))
        return _sum(update * (weight / total) for update, weight in zip(updates, weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class NormClip(Combine):
    """Scales every update down to `factor` times the median norm, then takes the mean."""

    factor: float = 1.0
    needs_whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ConfigError(f"combine.factor {self.factor}: must be above 0")

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        updates = list(updates)
        norms = [float(torch.linalg.vector_norm(update.double())) for update in updates]
        limit = self.factor * _median(norms)
        clipped = [
            update if norm <= limit else update * (limit / norm) for update, norm in zip(updates, norms, strict=True)
        ]
        return _sum(clipped) / len(clipped)


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Combine):
    """Coordinate by coordinate, leaves out the `share` largest and as many smallest, and takes the mean of the rest.

    Source: arXiv 1803.01498.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 0.5:
            raise ConfigError(f"combine.share {self.share}: must be at least 0 and below 0.5")

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        updates = list(updates)
        cut = int(self.share * len(updates) + 1e-9)
        kept = len(updates) - 2 * cut
        return _sort_columns(updates, lambda ordered: _sum(ordered[cut : cut + kept]) / kept)


@dataclass(frozen=True)
class Median(Combine):
    """Coordinate by coordinate; the mean of the middle two when their number is even. Source: arXiv 1803.01498."""

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        updates = list(updates)
        middle = len(updates) // 2
        if len(updates) % 2:
            return _sort_columns(updates, lambda ordered: ordered[middle])
        return _sort_columns(updates, lambda ordered: (ordered[middle - 1] + ordered[middle]) / 2)


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Combine):
    """The point with the least sum of distances, by smoothed Weiszfeld steps. Source: RFA, arXiv 1912.13445."""

    iterations: int = 8
    smoothing: float = 1e-6
    needs_whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"combine.iterations {self.iterations}: must be at least 1")
        if not self.smoothing > 0:
            raise ConfigError(f"combine.smoothing {self.smoothing}: must be above 0")

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        updates = list(updates)
        # From the mean, a liar's distance would set how many steps are needed.
        point = Median().apply(updates, weights)
        for _ in range(self.iterations):
            near = [1 / max(self.smoothing, _compute_distance(update, point)) for update in updates]
            total = sum(near)
            point = _sum([update * (share / total) for update, share in zip(updates, near, strict=True)])
        return point


@dataclass(frozen=True, kw_only=True)
class Krum(Combine):
    """The mean of the `keep` updates nearest to their nearest neighbours, when at most `liars` lie.

    Source: arXiv 1703.02757; it asks for more than 2 * liars + 2 updates.
    """

    liars: int = 1
    keep: int = 1
    needs_whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.liars < 0 or self.keep < 1:
            raise ConfigError(f"combine.liars {self.liars}, combine.keep {self.keep}: at least 0 and at least 1")

    def apply(self, updates: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        updates = list(updates)
        # Fewer updates than the rule asks for (trainers crashed): it can tell nobody apart, so the median rules.
        if len(updates) <= 2 * self.liars + 2:
            return Median().apply(updates, weights)
        neighbours = len(updates) - self.liars - 2
        scores = []
        for index, update in enumerate(updates):
            others = [other for place, other in enumerate(updates) if place != index]
            gaps = sorted(_compute_distance(update, other) ** 2 for other in others)
            scores.append((sum(gaps[:neighbours]), index))
        chosen = sorted(index for _, index in sorted(scores)[: self.keep])
        return _sum([updates[index] for index in chosen]) / len(chosen)


def _sum(updates: Iterable[Tensor]) -> Tensor:
    following = iter(updates)
    total = next(following).clone()
    for update in following:
        total += update
    return total


def _sort_columns(updates: Sequence[Tensor], rule: Callable[[Tensor], Tensor]) -> Tensor:
    """A rule on the sorted values of each coordinate, a stretch of coordinates at a time: sorting takes much memory."""
    size = updates[0].numel()
    starts = range(0, max(1, size), _STRETCH)
    stretches = ([update[start : start + _STRETCH] for update in updates] for start in starts)
    return torch.cat([rule(torch.stack(stretch).sort(dim=0).values) for stretch in stretches])


def _median(numbers: Sequence[float]) -> float:
    ordered, middle = sorted(numbers), len(numbers) // 2
    return ordered[middle] if len(numbers) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _compute_distance(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.vector_norm(one.double() - other.double()))
