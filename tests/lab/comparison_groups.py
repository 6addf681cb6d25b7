"""Records and groups that no run made, for tests of what is told about them."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.lab.training.compare import Group, make_groups
from paceline.lab.training.config import RunConfig, parse_config
from paceline.lab.training.record import PointRecord, RunRecord
from paceline.lab.training.rows import Row, TuneTable
from paceline.lab.training.tuning import Choice, Trial


def make_config(**strategy: object) -> RunConfig:
    return parse_config({"run": {"steps": 100}, "strategy": strategy or {"name": "ddp"}}, "test")


def make_row(label: str, *, seeds: int = 3, baseline: bool = False, against: tuple[str, ...] = ()) -> Row:
    return Row(
        label=label,
        group="methods",
        config=make_config(),
        seeds=tuple(range(1, seeds + 1)),
        tune=TuneTable(),
        baseline=baseline,
        against=against,
        target_margin=0.0,
        swept={},
        family=label,
        note="",
        measures="loss",
        published=None,
    )


def fake_record(
    losses: Sequence[float | None], *, bytes_per_step: float = 600.0, step_seconds: float = 1.0
) -> RunRecord:
    """Evaluated every 10 steps."""
    points = tuple(
        PointRecord(
            step=10 * place,
            tokens=1000 * place,
            seconds=10 * place * step_seconds,
            bytes_sent=round(40 * place * bytes_per_step),
            loss=loss,
            correlation=1.0,
        )
        for place, loss in enumerate(losses, 1)
    )
    return RunRecord(
        method="made up",
        param_count=100,
        trainers=4,
        steps=(10 * len(losses),) * 4,
        loss=losses[-1],
        seconds=points[-1].seconds,
        rounds=3,
        utilisation=0.5,
        bytes_per_step=bytes_per_step,
        sent={"update": points[-1].bytes_sent} if bytes_per_step else {},
        received={"update": points[-1].bytes_sent} if bytes_per_step else {},
        points=points,
        events=(),
    )


def make_example_group() -> Group:
    """A baseline, a row that is clearly worse, one that is not told apart from it, and one that sends nothing."""
    rows = [
        make_row("DDP", baseline=True),
        make_row("worse", against=("same",)),
        make_row("same"),
        make_row("silent", seeds=1),
    ]
    losses = {"DDP": (2.0, 2.1, 1.9), "worse": (2.2, 2.31, 2.1), "same": (2.01, 2.08, 1.91), "silent": (2.5,)}
    sends = {"DDP": 600.0, "worse": 20.0, "same": 300.0, "silent": 0.0}
    records = {
        f"row {place} seed {seed}": fake_record([4.0, 3.0, loss], bytes_per_step=sends[row.label])
        for place, row in enumerate(rows)
        for seed, loss in zip(row.seeds, losses[row.label], strict=True)
    }
    tried = tuple(Trial(settings={"optimizer.rate": rate}, loss=loss) for rate, loss in ((1e-3, 2.0), (2e-3, None)))
    choices = [Choice(settings={"optimizer.rate": 1e-3}, trials=tried, steps=50), *[Choice(settings={})] * 3]
    return make_groups(rows, choices, records)[0]
