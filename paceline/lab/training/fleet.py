"""The machines of a simulated run: how fast each computes and sends, when it comes and goes, whether it lies.

It refuses to know methods and models. Invariant: every draw (jitter, lost messages, lies) follows from the seed, the
trainer and the occasion, so no order of events changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts

LIES = ("flip", "scale", "noise", "zero", "nan")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One virtual trainer. Seconds are virtual; rates are bits a second in each direction."""

    step_seconds: float = 1.0
    jitter: float = 0.0
    """Largest relative deviation of a step's time."""
    up_bits: float = math.inf
    down_bits: float = math.inf
    latency_seconds: float = 0.0
    lost_share: float = 0.0
    """Probability that a message of its never arrives."""
    joins_at: float = 0.0
    leaves_at: float = math.inf
    """It says so and goes after its next message."""
    crashes_at: float = math.inf
    lie: str = ""
    lie_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.step_seconds < math.inf:
            raise ConfigError(f"fleet.step_seconds {self.step_seconds}: must be above 0")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"fleet.jitter {self.jitter}: must be at least 0 and below 1")
        if not (self.up_bits > 0 and self.down_bits > 0):
            raise ConfigError(f"fleet.bandwidth {min(self.up_bits, self.down_bits)}: must be above 0 bits a second")
        if not 0 <= self.latency_seconds < math.inf:
            raise ConfigError(f"fleet.latency_seconds {self.latency_seconds}: must not be negative")
        if not 0 <= self.lost_share < 1:
            raise ConfigError(f"fleet.lost_share {self.lost_share}: must be at least 0 and below 1")
        if self.lie and self.lie not in LIES:
            raise ConfigError(f"fleet.lie {self.lie!r}: choose one of {', '.join(LIES)}")

    def compute_step_seconds(self, seed: bytes, trainer: int, step: int) -> float:
        """Time of one inner step."""
        if self.jitter == 0:
            return self.step_seconds
        return self.step_seconds * (1 + self.jitter * (2 * draw_uniform(b"jitter", seed, trainer, step) - 1))

    def compute_transfer_seconds(self, sent: float, received: float, phases: int = 1) -> float:
        """Time of sending and receiving so many bytes at once."""
        return self.latency_seconds * phases + 8 * max(sent / self.up_bits, received / self.down_bits)

    def make_tamper(self) -> Callable[[Tensor, bytes], Tensor] | None:
        """What it does to the numbers it sends; None for an honest one."""
        lie, scale = self.lie, self.lie_scale
        if not lie:
            return None

        def tamper(values: Tensor, seed: bytes) -> Tensor:
            if lie == "flip":
                return values * -scale
            if lie == "scale":
                return values * scale
            if lie == "zero":
                return torch.zeros_like(values)
            if lie == "nan":
                return torch.full_like(values, math.nan)
            generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "little") >> 1)
            norm = float(torch.linalg.vector_norm(values)) / math.sqrt(max(1, values.numel()))
            noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
            return noise.to(values.device) * (norm * scale)

        return tamper


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All machines, by trainer number."""

    machines: tuple[Machine, ...]

    def __post_init__(self) -> None:
        if not self.machines:
            raise ConfigError("fleet.trainers 0: at least one trainer is needed")
        if all(machine.joins_at > 0 for machine in self.machines):
            raise ConfigError("fleet: every trainer joins later; at least one must be there at the start")

    @property
    def fastest_step_seconds(self) -> float:
        """Of all machines."""
        return min(machine.step_seconds for machine in self.machines)


def make_fleet(trainers: int, machine: Machine | None = None, *, speed_skew: float = 1.0, liars: float = 0.0) -> Fleet:
    """Machines that differ in speed alone: from `machine`'s down to `speed_skew` times slower, evenly; the last lie.

    `liars` is the share of machines that keep `machine.lie`; the others are honest.
    """
    if trainers < 1:
        raise ConfigError(f"fleet.trainers {trainers}: at least one trainer is needed")
    if not speed_skew >= 1:
        raise ConfigError(f"fleet.speed_skew {speed_skew}: must be at least 1 (the slowest takes so many times longer)")
    if not 0 <= liars <= 1:
        raise ConfigError(f"fleet.liars {liars}: must be within 0 and 1")
    base = machine or Machine()
    honest = trainers - round(liars * trainers)
    machines = []
    for trainer in range(trainers):
        slower = 1 + (speed_skew - 1) * trainer / max(1, trainers - 1)
        lie = base.lie if trainer >= honest else ""
        machines.append(replace(base, step_seconds=base.step_seconds * slower, lie=lie))
    return Fleet(machines=tuple(machines))


def draw_uniform(purpose: bytes, seed: bytes, *numbers: int) -> float:
    """A number in [0, 1) that follows from its arguments."""
    digest = hash_parts("simulated-draw", purpose, seed, *(number.to_bytes(8, "little") for number in numbers))
    return int.from_bytes(digest[:7], "big") / 2**56
