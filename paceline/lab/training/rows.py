"""Rows of a comparison, read from run files: what is swept, tuned and repeated, and what `--quick` makes of it.

It refuses to know how runs are played. Invariant: a row's configuration is complete; two rows never share a label in one
group.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table
from paceline.lab.training.config import RunConfig, Share, parse_config, read_tables

MAX_CANDIDATES = 64
QUICK_STEPS, QUICK_TUNE_STEPS, QUICK_BATCH, QUICK_CANDIDATES = 24, 6, 2, 2
_TUNABLE = ("strategy.", "optimizer.", "run.batch_size")

Label = Annotated[str, Meta(min_length=1, max_length=80)]
Grid = dict[str, list[Any]]


class TuneTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings to try on a shorter run, every combination; the lowest loss wins, the first one of equals.

    `like` names a row of the group whose choice this one takes instead, so that a comparison by seed measures nothing but
    what the two files differ in.
    """

    steps: Annotated[int, Meta(ge=1, le=10_000_000)] = 500
    grid: Grid = msgspec.field(default_factory=dict)
    like: Label | None = None


class CompareTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row's place in the report. `against` lists rows of its group beside the baseline to compare it with by seed."""

    label: Label | None = None
    group: Label = "methods"
    seeds: Annotated[int, Meta(ge=1, le=100)] = 1
    baseline: bool = False
    against: tuple[Label, ...] = ()
    target_margin: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Of a baseline: the loss that the others' virtual time is measured to lies this share above its last one."""
    sweep: Grid = msgspec.field(default_factory=dict)
    note: str = ""
    """A sentence for the report."""
    measures: Literal["loss", "utilisation"] = "loss"
    """What the group is about; of a baseline."""
    published: dict[str, Share] = msgspec.field(default_factory=dict)
    """Utilisation that others measured, by the swept value."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a comparison."""

    label: str
    group: str
    config: RunConfig
    seeds: tuple[int, ...]
    tune: TuneTable
    baseline: bool
    against: tuple[str, ...]
    target_margin: float
    swept: dict[str, Any]
    family: str
    """Rows of one file; a chart over swept values joins them."""
    note: str
    measures: str
    published: float | None
    """Utilisation that others measured for this row."""

    def list_candidates(self) -> list[dict[str, Any]]:
        """Every combination of the grid; one empty one when nothing is tuned."""
        return list_combinations(self.tune.grid)

    def get_config(self, chosen: Mapping[str, Any], *, seed: int, steps: int | None = None) -> RunConfig:
        """The configuration with chosen settings; fewer steps for tuning, which evaluates at their end only.

        Errors: ConfigError naming the row and the setting.
        """
        tables = msgspec.to_builtins(self.config)
        for name, value in chosen.items():
            set_value(tables, name, value)
        tables["run"]["seed"] = seed
        if steps is not None:
            tables["run"] |= {"steps": steps, "evaluate_every": steps}
        return parse_config(tables, self.label)


def load_rows(paths: Sequence[Path], *, quick: bool = False) -> list[Row]:
    """The rows of several files, in their order.

    Errors: ConfigError naming file and key; two rows of one group with one label; a row to compare with that is missing.
    """
    rows = [row for path in paths for row in _load_file(path, quick=quick)]
    if not rows:
        raise ConfigError("no run file was given; examples/train/ has some")
    for group in sorted({row.group for row in rows}):
        _check_group(group, [row for row in rows if row.group == group])
    return rows


def get_baseline(rows: Sequence[Row]) -> Row:
    """The row of a group that the others are measured against: the one that says so, else the first."""
    return next((row for row in rows if row.baseline), rows[0])


def make_single_row(config: RunConfig) -> Row:
    """The row of a run that nobody compares."""
    name = str(config.strategy["name"])
    return Row(
        label=name,
        group=name,
        config=config,
        seeds=(config.run.seed,),
        tune=TuneTable(),
        baseline=True,
        against=(),
        target_margin=0.0,
        swept={},
        family=name,
        note="",
        measures="loss",
        published=None,
    )


def split_tables(tables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's own tables, and those that only a comparison reads."""
    other: dict[str, Any] = {name: tables[name] for name in ("compare", "tune", "quick") if name in tables}
    return {name: value for name, value in tables.items() if name not in other}, other


def list_combinations(grid: Grid) -> list[dict[str, Any]]:
    """Every combination of values, the last key fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def set_value(tables: dict[str, Any], name: str, value: Any) -> None:
    """Set `table.key` in plain values. Errors: ConfigError for a name of another form."""
    table, dot, key = name.partition(".")
    if not dot or not key:
        raise ConfigError(f"{name}: name a setting as table.key")
    place = tables.setdefault(table, {})
    *path, last = key.split(".")
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value


def show_value(value: Any) -> str:
    """A setting's value as a label shows it."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {show_value(part)}" for key, part in value.items() if key != "name")
        return f"{value.get('name', '')} {rest}".strip()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _load_file(path: Path, *, quick: bool) -> list[Row]:
    tables, other = split_tables(read_tables(path))
    tune = convert_table(other.get("tune", {}), TuneTable, f"{path}: tune")
    if tune.like is not None and len(other["tune"]) > 1:
        raise ConfigError(f"{path}: tune.like: takes another row's settings; leave out all else under tune")
    compare = convert_table(other.get("compare", {}), CompareTable, f"{path}: compare")
    _check_grid(tune, compare, path)
    overrides = other.get("quick", {})
    if not isinstance(overrides, dict):
        raise ConfigError(f"{path}: quick: must be a table of settings")
    if quick:
        tables, tune, compare = _make_quick(tables, tune, compare, overrides)
    return [_make_row(tables, tune, compare, swept, path) for swept in list_combinations(compare.sweep)]


def _make_row(tables: dict[str, Any], tune: TuneTable, compare: CompareTable, swept: dict[str, Any], path: Path) -> Row:
    tables = copy.deepcopy(tables)
    for name, value in swept.items():
        set_value(tables, name, value)
    config = parse_config(tables, str(path))
    family = compare.label or str(config.strategy["name"])
    values = ", ".join(f"{name.rpartition('.')[2]} {show_value(value)}" for name, value in swept.items())
    row = Row(
        label=f"{family}, {values}" if values else family,
        group=compare.group,
        config=config,
        seeds=tuple(config.run.seed + number for number in range(compare.seeds)),
        tune=tune,
        baseline=compare.baseline,
        against=compare.against,
        target_margin=compare.target_margin,
        swept=swept,
        family=family,
        note=compare.note,
        measures=compare.measures,
        published=_get_published(compare, swept),
    )
    for chosen in row.list_candidates():
        row.get_config(chosen, seed=config.run.seed, steps=tune.steps if tune.grid else None)
    return row


def _get_published(compare: CompareTable, swept: dict[str, Any]) -> float | None:
    found = [compare.published[show_value(value)] for value in swept.values() if show_value(value) in compare.published]
    return found[0] if found else None


def _make_quick(
    tables: dict[str, Any], tune: TuneTable, compare: CompareTable, overrides: dict[str, Any]
) -> tuple[dict[str, Any], TuneTable, CompareTable]:
    """Fewer steps, small batches, one seed, two candidates, and what the file's own table `quick` says."""
    tables = copy.deepcopy(tables)
    run = tables.setdefault("run", {})
    run["steps"] = min(run.get("steps", QUICK_STEPS), QUICK_STEPS)
    run["batch_size"] = min(run.get("batch_size", QUICK_BATCH), QUICK_BATCH)
    overrides = copy.deepcopy(overrides)
    tune_steps = overrides.pop("tune", {}).pop("steps", QUICK_TUNE_STEPS)
    sweep = overrides.pop("compare", {}).pop("sweep", compare.sweep)
    for name, value in _flatten(overrides).items():
        set_value(tables, name, value)
    run["evaluate_every"] = max(1, run["steps"] // 2)
    grid, left = {}, QUICK_CANDIDATES
    for name, values in tune.grid.items():
        grid[name] = values[:left]
        left = max(1, left // len(grid[name]))
    return (
        tables,
        TuneTable(steps=min(run["steps"], tune_steps), grid=grid, like=tune.like),
        msgspec.structs.replace(compare, seeds=1, sweep=sweep),
    )


def _flatten(overrides: dict[str, Any]) -> dict[str, Any]:
    return {f"{table}.{key}": value for table, entries in overrides.items() for key, value in dict(entries).items()}


def _check_grid(tune: TuneTable, compare: CompareTable, path: Path) -> None:
    for name, values in tune.grid.items():
        if not name.startswith(_TUNABLE):
            raise ConfigError(f"{path}: tune.grid.{name}: only settings of strategy and optimizer are tuned")
        if not values:
            raise ConfigError(f"{path}: tune.grid.{name}: lists no value")
    for name, values in compare.sweep.items():
        if not values or name in tune.grid:
            raise ConfigError(f"{path}: compare.sweep.{name}: lists no value, or is tuned too")
    values = [show_value(value) for values in compare.sweep.values() for value in values]
    for name in compare.published:
        if name not in values:
            raise ConfigError(f"{path}: compare.published.{name}: is no value that compare.sweep lists")
    for what, grid in (("tune.grid", tune.grid), ("compare.sweep", compare.sweep)):
        if len(list_combinations(grid)) > MAX_CANDIDATES:
            raise ConfigError(f"{path}: {what}: more than {MAX_CANDIDATES} combinations; list fewer values")


def _check_group(group: str, rows: list[Row]) -> None:
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"compare.label {label!r}: two rows of group {group!r} have it; rename one")
    if sum(row.baseline for row in rows) > 1:
        raise ConfigError(f"compare.baseline: two rows of group {group!r} say so; keep one")
    for row in rows:
        for other in row.against:
            if other not in labels or other == row.label:
                raise ConfigError(f"compare.against {other!r}: no other row of group {group!r} has this label")
        _check_likeness(group, row, rows)


def _check_likeness(group: str, row: Row, rows: list[Row]) -> None:
    if row.tune.like is None:
        return
    found = next((other for other in rows if other.label == row.tune.like), None)
    if found is None or not found.tune.grid:
        raise ConfigError(f"tune.like {row.tune.like!r}: no row of group {group!r} with this label is tuned")
    for chosen in found.list_candidates():
        row.get_config(chosen, seed=row.seeds[0])
