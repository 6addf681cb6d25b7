"""Many methods on equal terms: equal tokens, equal first parameters, settings tuned for each, paired by seed.

It refuses to know pages and terminals. Invariant: two rows of a group are compared by runs of the same seed, whose batches
and first parameters are equal; what was not measured is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from paceline.lab.training.config import RunConfig
from paceline.lab.training.pool import Progress, Store, count_steps, play_all
from paceline.lab.training.record import PointRecord, RunRecord
from paceline.lab.training.rows import Row, get_baseline, make_single_row
from paceline.lab.training.tuning import Choice, choose_all, plan_trials

# Student's t for 95 %, by degrees of freedom; beyond the table that of the normal distribution is close enough.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_Z95 = 1.96

Tell = Callable[[str, int], None]
"""Called with the name of a stage and the trainers' steps it will take, before it begins."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with the 95 % interval of Student's t; a single seed has none."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_clear(self) -> bool:
        """True when the interval does not contain zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """A row with the records of its seeds, in their order."""

    row: Row
    choice: Choice
    records: tuple[RunRecord, ...]

    @property
    def losses(self) -> list[float]:
        """Of the seeds that ended with a finite one."""
        return [record.loss for record in self.records if record.loss is not None]

    @property
    def loss(self) -> float | None:
        """Mean over the seeds; None when one of them diverged."""
        return fmean(self.losses) if len(self.losses) == len(self.records) else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return stdev(self.losses) if len(self.losses) > 1 else None

    def compute_mean(self, name: str) -> float | None:
        """Mean of a figure of the records over the seeds."""
        found = [getattr(record, name) for record in self.records]
        known = [value for value in found if value is not None]
        return fmean(known) if len(known) == len(found) else None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How far a row's loss lies above another's, relative to the other's, seed by seed; None when one diverged."""

    label: str
    other: str
    gap: Estimate | None
    times_less: float
    """How many times fewer bytes it sends."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows that are compared with one another."""

    name: str
    rows: tuple[RowResult, ...]
    baseline: RowResult
    pairs: tuple[Pair, ...]
    """Each row with the baseline, then with those that it names."""

    def get_gap(self, found: RowResult) -> Estimate | None:
        """Against the baseline."""
        for pair in self.pairs:
            if pair.label == found.row.label and pair.other == self.baseline.row.label:
                return pair.gap
        return None

    def compute_seconds_to_target(self, found: RowResult) -> float | None:
        """Virtual seconds until the loss is first at the baseline's target, mean over common seeds; None when never."""
        reached = []
        margin = 1 + self.baseline.row.target_margin
        for record, base in match_seeds(found, self.baseline):
            if base.loss is None:
                return None
            target = base.loss * margin
            at = next((point.seconds for point in record.points if _is_below(point, target)), None)
            if at is None:
                return None
            reached.append(at)
        return fmean(reached) if reached else None


def compare(
    rows: Sequence[Row], store: Store, *, jobs: int = 2, tell: Tell | None = None, on_progress: Progress | None = None
) -> list[Group]:
    """Tune every row, then train it with every seed.

    Errors: those of the runs; what is finished is kept and not played again.
    """
    say = tell or (lambda _stage, _steps: None)
    trials = plan_trials(rows)
    say("tuning", sum(count_steps(config) for config in trials.values()))
    tried = play_all(trials, store, jobs=jobs, on_progress=on_progress) if trials else {}
    choices = choose_all(rows, tried)
    finals = {
        f"row {place} seed {seed}": row.get_config(choices[place].settings, seed=seed)
        for place, row in enumerate(rows)
        for seed in row.seeds
    }
    say("training", sum(count_steps(config) for config in finals.values()))
    records = play_all(finals, store, jobs=jobs, on_progress=on_progress)
    return make_groups(rows, choices, records)


def make_groups(rows: Sequence[Row], choices: Sequence[Choice], records: Mapping[str, RunRecord]) -> list[Group]:
    """The finished rows by group, in the order in which groups first appear."""
    results = [
        RowResult(row=row, choice=choice, records=tuple(records[f"row {place} seed {seed}"] for seed in row.seeds))
        for place, (row, choice) in enumerate(zip(rows, choices, strict=True))
    ]
    names = list(dict.fromkeys(row.group for row in rows))
    return [_make_group(name, [result for result in results if result.row.group == name]) for name in names]


def make_single(config: RunConfig, record: RunRecord) -> Group:
    """One finished run as a group of one row."""
    row = make_single_row(config)
    return make_groups([row], [Choice(settings={})], {f"row 0 seed {config.run.seed}": record})[0]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of at least one value."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean=mean, low=None, high=None, count=1)
    freedom = len(values) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else _Z95
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Estimate(mean=mean, low=mean - half, high=mean + half, count=len(values))


def match_seeds(one: RowResult, other: RowResult) -> list[tuple[RunRecord, RunRecord]]:
    """The records of both for the seeds that both have."""
    theirs = dict(zip(other.row.seeds, other.records, strict=True))
    return [(record, theirs[seed]) for seed, record in zip(one.row.seeds, one.records, strict=True) if seed in theirs]


def _make_group(name: str, results: list[RowResult]) -> Group:
    by_label = {result.row.label: result for result in results}
    baseline = by_label[get_baseline([result.row for result in results]).label]
    pairs = [_make_pair(result, baseline) for result in results if result is not baseline]
    pairs += [
        _make_pair(result, by_label[other])
        for result in results
        for other in result.row.against
        if other != baseline.row.label
    ]
    return Group(name=name, rows=tuple(results), baseline=baseline, pairs=tuple(pairs))


def _make_pair(one: RowResult, other: RowResult) -> Pair:
    losses = [(record.loss, base.loss) for record, base in match_seeds(one, other)]
    gaps = [mine / theirs - 1 for mine, theirs in losses if mine is not None and theirs is not None]
    sends, other_sends = one.compute_mean("bytes_per_step") or 0.0, other.compute_mean("bytes_per_step") or 0.0
    return Pair(
        label=one.row.label,
        other=other.row.label,
        gap=estimate(gaps) if gaps and len(gaps) == len(losses) else None,
        times_less=other_sends / sends if sends else math.inf,
    )


def _is_below(point: PointRecord, target: float) -> bool:
    return point.loss is not None and point.loss <= target
