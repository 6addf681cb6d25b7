"""Which settings each row of a comparison gets: the same effort for every method, on shorter runs of the first seed.

It refuses to know processes and reports. Invariant: the choice follows from the losses and the order of candidates alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paceline.lab.training.config import RunConfig
from paceline.lab.training.record import RunRecord
from paceline.lab.training.rows import Row, show_value


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate and what it reached; None when it diverged."""

    settings: dict[str, Any]
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a row trains with, and all that was tried for it."""

    settings: dict[str, Any]
    trials: tuple[Trial, ...] = ()
    steps: int = 0
    """Of each trial."""

    @property
    def on_edge(self) -> list[str]:
        """Settings whose chosen number is the least or the greatest that was tried: a wider grid may find better ones."""
        found = []
        for name, value in self.settings.items():
            tried = [trial.settings[name] for trial in self.trials]
            numbers = [number for number in tried if isinstance(number, (int, float)) and not isinstance(number, bool)]
            if len(numbers) == len(tried) and len(set(numbers)) > 2 and value in {min(numbers), max(numbers)}:
                found.append(name)
        return found

    def describe(self) -> str:
        """The chosen settings in one line."""
        return show_settings(self.settings)


def plan_trials(rows: Sequence[Row]) -> dict[str, RunConfig]:
    """The shorter runs of all rows that tune something, by name."""
    return {
        name_trial(place, number): row.get_config(settings, seed=row.seeds[0], steps=row.tune.steps)
        for place, row in enumerate(rows)
        for number, settings in enumerate(row.list_candidates())
        if row.tune.grid
    }


def choose_all(rows: Sequence[Row], records: Mapping[str, RunRecord]) -> list[Choice]:
    """What every row trains with: its own best candidate, or that of the row it names."""
    own = [choose(place, row, records) for place, row in enumerate(rows)]
    by_label = {(row.group, row.label): choice for row, choice in zip(rows, own, strict=True)}
    return [
        choice if row.tune.like is None else Choice(settings=by_label[row.group, row.tune.like].settings)
        for row, choice in zip(rows, own, strict=True)
    ]


def choose(place: int, row: Row, records: Mapping[str, RunRecord]) -> Choice:
    """The candidate with the lowest loss, the first of equals; the first when all diverged."""
    candidates = row.list_candidates()
    if not row.tune.grid:
        return Choice(settings=candidates[0])
    trials = [
        Trial(settings=settings, loss=records[name_trial(place, number)].loss)
        for number, settings in enumerate(candidates)
    ]
    best = min(trials, key=lambda trial: float("inf") if trial.loss is None else trial.loss)
    return Choice(settings=best.settings, trials=tuple(trials), steps=row.tune.steps)


def name_trial(place: int, number: int) -> str:
    """The name of a trial among all runs of a comparison."""
    return f"row {place} trial {number}"


def show_settings(settings: Mapping[str, Any]) -> str:
    """Settings in one line, without their table's name."""
    return ", ".join(f"{name.rpartition('.')[2]} {show_value(value)}" for name, value in settings.items())
