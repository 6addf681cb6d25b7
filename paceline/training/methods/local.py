"""The inner loop's optimiser: any of torch's by name, its learning rate over the run, and gradient clipping.

It refuses to know what is synchronised. Invariant: the rate at a step follows from the step and the run's length.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paceline.base.errors import ConfigError

_SHORT = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "adagrad": "Adagrad"}
_NEEDS_CLOSURE = {"LBFGS"}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Climbs over `warmup_steps`, then falls to `final_share` of the peak by the run's last step.

    `wsd` stays at the peak and falls linearly over the last fifth.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_steps: int = 0
    final_share: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in {"constant", "linear", "cosine", "wsd"}:
            raise ConfigError(f"schedule.kind {self.kind!r}: choose constant, linear, cosine or wsd")
        if self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps {self.warmup_steps}: must not be negative")
        if not 0 <= self.final_share <= 1:
            raise ConfigError(f"schedule.final_share {self.final_share}: must be within 0 and 1")

    def compute_share(self, step: int, total_steps: int) -> float:
        """Share of the peak rate at a step of the run."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        if self.kind == "constant":
            return 1.0
        if self.kind == "wsd":
            done = max(0.0, (done - 0.8) / 0.2)
        fallen = (1 - math.cos(math.pi * done)) / 2 if self.kind == "cosine" else done
        return 1 - (1 - self.final_share) * fallen


@dataclass(frozen=True, kw_only=True)
class LocalOptimizer:
    """A torch optimiser by class name (or adamw, sgd, adam, nadam, adagrad), with its own settings.

    Errors: ConfigError for a name that is no torch optimiser, a setting it does not have, or a rate that is not
    positive.
    """

    name: str = "adamw"
    rate: float = 4e-4
    settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    clip: float | None = None
    """Largest norm of a gradient; None does not clip."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"optimizer.rate {self.rate}: must be above 0 and finite")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"optimizer.clip {self.clip}: must be above 0; leave it out to not clip")
        known = set(inspect.signature(self._get_class()).parameters) - {"params", "lr"}
        for name in self.settings:
            if name not in known:
                raise ConfigError(f"optimizer.settings.{name}: {self.name} has no such setting; it has {sorted(known)}")

    def build(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser over some parameters."""
        try:
            made = self._get_class()(params, lr=self.rate, **_as_tuples(self.settings))
        except (TypeError, ValueError) as problem:
            raise ConfigError(f"optimizer.settings: {self.name} refuses them: {problem}") from None
        assert isinstance(made, torch.optim.Optimizer)
        return made

    def clip_gradient(self, gradient: Tensor) -> None:
        """Scale a gradient down to the largest norm, in place."""
        if self.clip is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_(torch.clamp(self.clip / (norm + 1e-6), max=1.0))

    def compute_rate(self, step: int, total_steps: int) -> float:
        """The rate at a step of the run."""
        return self.rate * self.schedule.compute_share(step, total_steps)

    def take_step(self, optimizer: torch.optim.Optimizer, step: int, total_steps: int) -> None:
        """Set the rate of this step, and let the optimiser move its parameters."""
        rate = self.compute_rate(step, total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    def _get_class(self) -> Any:
        name = _SHORT.get(self.name, self.name)
        found = getattr(torch.optim, name, None)
        if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)) or name in _NEEDS_CLOSURE:
            raise ConfigError(f"optimizer.name {self.name!r}: no optimiser of torch.optim that steps without a closure")
        return found


def _as_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists where torch wants tuples (betas)."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
