"""What a preset is: a named function from settings to a strategy, and the inner optimiser of its paper.

It knows no method. Invariant: a preset's settings are the keyword arguments of its function, each with a type and a
default, so that a table of plain values can name them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.strategy import Strategy

GIVEN = ("trainers", "local")
"""Arguments of every preset that are no settings."""

ADAMW = LocalOptimizer(
    name="adamw",
    rate=4e-4,
    settings={"betas": (0.9, 0.95), "weight_decay": 0.1},
    schedule=Schedule(kind="cosine", warmup_steps=1000),
    clip=1.0,
)
"""DiLoCo's inner optimiser, arXiv 2311.08105, with the betas of its followers' code; for every method without its own."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A method by name. `replaces` lists the settings that describe a part, since a table for that part excludes them."""

    name: str
    build: Callable[..., Strategy]
    local: LocalOptimizer = ADAMW
    replaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """Every setting with its default."""
        found = inspect.signature(self.build).parameters
        return {name: entry.default for name, entry in found.items() if name not in GIVEN}

    @property
    def types(self) -> dict[str, Any]:
        """Every setting with its type."""
        hints = get_type_hints(self.build)
        return {name: hints[name] for name in self.defaults}

    @property
    def source(self) -> str:
        """Where the method is published, from its docstring."""
        text = inspect.getdoc(self.build) or ""
        lines = text.partition("Source:")[2].partition("\n\n")[0].split("\n")
        return " ".join(line.strip() for line in lines if line.strip())

    @property
    def purpose(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]
