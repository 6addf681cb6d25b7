"""Outer optimisers: what a round's combined pseudo-gradient does to the anchor, the parameters all trainers share.

They refuse to know trainers, codecs and rounds. Invariant: `apply` is pure, and every product and sum is a kernel of
its own: a fused multiply-add rounds once instead of twice, and only some devices have it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.errors import ConfigError

State = tuple[Tensor, ...]


class OuterOptimizer(ABC):
    """A frozen dataclass; its state is a tuple of tensors, so that it travels and is kept like parameters."""

    @abstractmethod
    def make_state(self, anchor: Tensor) -> State:
        """The state before the first round."""

    @abstractmethod
    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        """The next anchor and state. An update is anchor minus local: it is subtracted."""


@dataclass(frozen=True, kw_only=True)
class Sgd(OuterOptimizer):
    """Heavy-ball SGD: m' = momentum * m + update; anchor' = anchor - rate * m'. Momentum 0 keeps no state.

    Source: FedOpt, arXiv 2003.00295; with rate 1 and no momentum it averages (FedAvg, arXiv 1602.05629).
    """

    rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_decay("outer.momentum", self.momentum)

    def make_state(self, anchor: Tensor) -> State:
        return () if self.momentum == 0 else (torch.zeros_like(anchor),)

    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        if self.momentum == 0:
            return anchor - update * self.rate, ()
        moved = state[0] * self.momentum + update
        return anchor - moved * self.rate, (moved,)


@dataclass(frozen=True, kw_only=True)
class Nesterov(OuterOptimizer):
    """m' = momentum * m + update; anchor' = anchor - rate * (update + momentum * m').

    Source: DiLoCo, arXiv 2311.08105: rate 0.7, momentum 0.9. The long-run gain is rate / (1 - momentum).
    """

    rate: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_decay("outer.momentum", self.momentum)

    def make_state(self, anchor: Tensor) -> State:
        return (torch.zeros_like(anchor),)

    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        moved = state[0] * self.momentum + update
        return anchor - (moved * self.momentum + update) * self.rate, (moved,)


@dataclass(frozen=True, kw_only=True)
class AdaptiveOuter(OuterOptimizer):
    """FedAdam, FedYogi and FedAdagrad: the mean of updates over the root of a running second moment.

    Without bias correction, and with `floor` added to the root, as the paper has it.
    Source: arXiv 2003.00295, algorithm 2: first 0.9, second 0.99, floor 1e-3.
    """

    kind: str = "adam"
    rate: float = 1e-2
    first_decay: float = 0.9
    second_decay: float = 0.99
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in {"adam", "yogi", "adagrad"}:
            raise ConfigError(f"outer.kind {self.kind!r}: choose adam, yogi or adagrad")
        _require_rate(self.rate)
        _require_decay("outer.first_decay", self.first_decay)
        _require_decay("outer.second_decay", self.second_decay)
        if not 0 < self.floor < math.inf:
            raise ConfigError(f"outer.floor {self.floor}: must be above 0 and finite")

    def make_state(self, anchor: Tensor) -> State:
        return torch.zeros_like(anchor), torch.full_like(anchor, self.floor * self.floor)

    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        first = state[0] * self.first_decay + update * (1 - self.first_decay)
        square = update * update
        if self.kind == "adagrad":
            second = state[1] + square
        elif self.kind == "adam":
            second = state[1] * self.second_decay + square * (1 - self.second_decay)
        else:
            second = state[1] - square * torch.sign(state[1] - square) * (1 - self.second_decay)
        step = first / (torch.sqrt(second) + self.floor)
        return anchor - step * self.rate, (first, second)


@dataclass(frozen=True, kw_only=True)
class DelayedNesterov(OuterOptimizer):
    """Each arriving update moves the anchor at once by its share; the momentum changes only every `every` arrivals.

    Between those, `activation` of the momentum is applied (0 in the paper's runs, at most 1 / every); at them, what
    is left of it. State: momentum, sum of the updates since, and their number.
    Source: Asynchronous Local-SGD, arXiv 2401.09135, algorithm 3: rate 0.7, momentum 0.9, every = trainers.
    """

    every: int
    rate: float = 0.7
    momentum: float = 0.9
    activation: float = 0.0

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_decay("outer.momentum", self.momentum)
        if self.every < 1:
            raise ConfigError(f"outer.every {self.every}: must be at least 1")
        if not 0 <= self.activation <= 1 / self.every:
            raise ConfigError(f"outer.activation {self.activation}: must be within 0 and 1 / every")

    def make_state(self, anchor: Tensor) -> State:
        return torch.zeros_like(anchor), torch.zeros_like(anchor), torch.zeros(1, dtype=torch.int64)

    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        momentum, summed, count = state[0], state[1] + update, int(state[2]) + 1
        share = self.activation
        if count == self.every:
            momentum = momentum * self.momentum + summed / self.every
            summed, count = torch.zeros_like(summed), 0
            share = 1 - self.activation * self.every + self.activation
        moved = momentum * (self.momentum * share) + update / self.every
        return anchor - moved * self.rate, (momentum, summed, torch.tensor([count]))


@dataclass(frozen=True, kw_only=True)
class PairwiseNesterov(OuterOptimizer):
    """NoLoCo's outer step: the combined vector holds the group's mean update and its mean anchor, one after the other.

    m' = momentum * m + rate * mean update + pull * (anchor - mean anchor); anchor' = anchor - m'.
    Source: NoLoCo, arXiv 2506.10911: rate 0.7, momentum 0.5, pull 0.7.
    """

    rate: float = 0.7
    momentum: float = 0.5
    pull: float = 0.7

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_decay("outer.momentum", self.momentum)
        if not 0 <= self.pull < math.inf:
            raise ConfigError(f"outer.pull {self.pull}: must not be negative, and finite")

    def make_state(self, anchor: Tensor) -> State:
        return (torch.zeros_like(anchor),)

    def apply(self, anchor: Tensor, state: State, update: Tensor) -> tuple[Tensor, State]:
        mean, middle = update[: anchor.numel()], update[anchor.numel() :]
        moved = state[0] * self.momentum + mean * self.rate + (anchor - middle) * self.pull
        return anchor - moved, (moved,)


def _require_rate(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ConfigError(f"outer.rate {rate}: must be above 0 and finite")


def _require_decay(field: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{field} {value}: must be at least 0 and below 1")
