"""What is kept of a finished run: points, bytes by kind, figures, as plain values that become JSON and CSV.

It refuses to know tensors and how the run was played. Invariant: a record read back equals the one written; a loss that is
no finite number is None.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from paceline.base.errors import WorkError
from paceline.lab.training.accounts import Result


class PointRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One evaluation; bytes are those that all trainers have sent."""

    step: int
    tokens: int
    seconds: float
    bytes_sent: int
    loss: float | None
    correlation: float | None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished run."""

    method: str
    param_count: int
    trainers: int
    steps: tuple[int, ...]
    """Of each trainer."""
    loss: float | None
    """Of the average of the replicas (or the synchroniser's anchor) at the end."""
    seconds: float
    """Virtual."""
    rounds: int
    utilisation: float
    bytes_per_step: float
    """Sent by one trainer in one inner step, joins left out."""
    sent: dict[str, int]
    """Bytes of all trainers by kind."""
    received: dict[str, int]
    points: tuple[PointRecord, ...]
    events: tuple[str, ...]

    @property
    def correlation(self) -> float | None:
        """Between the replicas, mean over the evaluations; at a single one it depends on where in a round that falls."""
        known = [point.correlation for point in self.points if point.correlation is not None]
        return sum(known) / len(known) if known else None

    @property
    def ddp_bytes_per_step(self) -> float:
        """What a trainer of DDP sends in a step: a ring's share of all gradients in 32 bits."""
        return compute_ddp_bytes(self.param_count, self.trainers)

    @property
    def times_less(self) -> float:
        """How many times fewer bytes than DDP; infinite for a method that sends nothing."""
        return self.ddp_bytes_per_step / self.bytes_per_step if self.bytes_per_step else math.inf


def compute_ddp_bytes(params: int, trainers: int) -> float:
    """Bytes that each of so many trainers sends for one all-reduce of 32-bit numbers."""
    return 2 * (trainers - 1) / trainers * 4 * params


def make_record(result: Result, loss: float) -> RunRecord:
    """The record of a result; `loss` is that of its final parameters."""
    return RunRecord(
        method=result.method,
        param_count=result.param_count,
        trainers=len(result.meters),
        steps=tuple(meter.steps for meter in result.meters),
        loss=_keep_finite(loss),
        seconds=result.seconds,
        rounds=result.rounds,
        utilisation=result.utilisation,
        bytes_per_step=result.bytes_sent_per_step,
        sent=_sum_by_kind([meter.sent for meter in result.meters]),
        received=_sum_by_kind([meter.received for meter in result.meters]),
        points=tuple(
            PointRecord(
                step=point.step,
                tokens=point.tokens,
                seconds=point.seconds,
                bytes_sent=point.bytes_sent,
                loss=_keep_finite(point.loss),
                correlation=_keep_finite(point.correlation),
            )
            for point in result.points
        ),
        events=result.events,
    )


def write_points(record: RunRecord) -> str:
    """One row for each evaluation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, PointRecord.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(point) for point in record.points)
    return text.getvalue()


def write_record(record: RunRecord, path: Path) -> None:
    """Write a record beside and rename it, so that a name always holds a whole one.

    Errors: WorkError naming the path, when the disk is full.
    """
    write_file(path, msgspec.json.format(msgspec.json.encode(record)))


def read_record(path: Path) -> RunRecord | None:
    """A record, or None where there is none or a damaged one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside and rename it. Errors: WorkError naming the path."""
    building = path.with_name(f"{path.name}.{os.getpid()}.building")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building.write_bytes(data)
        building.replace(path)
    except OSError as problem:
        if building.is_file():
            building.unlink()
        raise WorkError(f"{path} was not written: {problem}; free space or name another folder") from None


def _sum_by_kind(tables: Sequence[dict[str, int]]) -> dict[str, int]:
    kinds = sorted({kind for table in tables for kind in table})
    summed = {kind: sum(table.get(kind, 0) for table in tables) for kind in kinds}
    return {kind: total for kind, total in summed.items() if total}


def _keep_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
