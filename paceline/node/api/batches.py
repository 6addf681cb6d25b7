"""Batches of requests on disk: what was asked, how far it is, what each line gave.

Refuses to know: how a line is answered. Invariant: a line's result is kept in the moment it is known, so that a node
that starts again asks only what has no result.
"""

from __future__ import annotations

import secrets

import msgspec

from paceline.node.api.database import ApiDatabase
from paceline.node.api.files import Page, no_such, select_page
from paceline.node.views import RequestRefused

VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
OPEN = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)
MAX_OPEN = 16


class BatchProblem(msgspec.Struct, frozen=True):
    """One reason why an input file is refused."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch. Units: all `…_at` in Unix seconds."""

    batch_id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: str = VALIDATING
    metadata: dict[str, str] = {}
    problems: tuple[BatchProblem, ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    moments: dict[str, int] = {}
    """When each state was entered: `in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling`, `cancelled`."""

    def enter(self, status: str, now: int) -> Batch:
        """The same batch in another state."""
        moments = self.moments if status in self.moments else {**self.moments, status: now}
        return msgspec.structs.replace(self, status=status, moments=moments)


class BatchStore:
    """All batches of all keys."""

    def __init__(self, database: ApiDatabase) -> None:
        self._database = database

    def add(self, batch: Batch) -> Batch:
        """Keep a new batch, which gets its id here.

        Errors: RequestRefused when the key has too many open ones.
        """
        kept = msgspec.structs.replace(batch, batch_id=f"batch_{secrets.token_hex(12)}")
        with self._database.transaction() as connection:
            states = ", ".join("?" * len(OPEN))
            (running,) = connection.execute(
                f"SELECT count(*) FROM batches WHERE owner = ? AND status IN ({states})",  # noqa: S608 - question marks
                (batch.owner, *OPEN),
            ).fetchone()
            if running >= MAX_OPEN:
                raise RequestRefused(
                    None, "too_many_batches", f"This key has {running} open batches; wait for one.", 429
                )
            connection.execute(
                "INSERT INTO batches (id, owner, status, record) VALUES (?, ?, ?, ?)",
                (kept.batch_id, kept.owner, kept.status, msgspec.msgpack.encode(kept)),
            )
        return kept

    def get(self, owner: str, batch_id: str) -> Batch:
        """Errors: RequestRefused with status 404."""
        rows = self._database.select("SELECT record FROM batches WHERE owner = ? AND id = ?", owner, batch_id)
        if not rows:
            raise no_such("batch", batch_id)
        return msgspec.msgpack.decode(rows[0][0], type=Batch)

    def list_page(self, owner: str, page: Page) -> tuple[list[Batch], bool]:
        """Return a part of the list, newest first, and whether there is more."""
        rows, more = select_page(self._database, "batches", "record", owner, page)
        return [msgspec.msgpack.decode(row[0], type=Batch) for row in rows], more

    def list_open(self) -> list[Batch]:
        """Return what has to go on, oldest first."""
        states = ", ".join("?" * len(OPEN))
        text = f"SELECT record FROM batches WHERE status IN ({states}) ORDER BY number"  # noqa: S608 - question marks
        return [msgspec.msgpack.decode(row[0], type=Batch) for row in self._database.select(text, *OPEN)]

    def save(self, batch: Batch) -> None:
        """Write a batch's new state."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE batches SET status = ?, record = ? WHERE id = ?",
                (batch.status, msgspec.msgpack.encode(batch), batch.batch_id),
            )

    def save_line(self, batch_id: str, line: int, result: bytes, *, failed: bool) -> None:
        """Keep what one line gave."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO batch_lines (batch, line, failed, result) VALUES (?, ?, ?, ?)",
                (batch_id, line, int(failed), result),
            )

    def read_lines(self, batch_id: str) -> dict[int, tuple[bool, bytes]]:
        """Return the results so far, by line: whether it failed, and the result."""
        rows = self._database.select(
            "SELECT line, failed, result FROM batch_lines WHERE batch = ? ORDER BY line", batch_id
        )
        return {line: (bool(failed), result) for line, failed, result in rows}

    def count_lines(self, batch_id: str) -> tuple[int, int]:
        """Return how many lines succeeded and failed so far."""
        rows = dict(
            self._database.select("SELECT failed, count(*) FROM batch_lines WHERE batch = ? GROUP BY failed", batch_id)
        )
        return rows.get(0, 0), rows.get(1, 0)

    def drop_lines(self, batch_id: str) -> None:
        """Forget the lines of a batch whose output files are written."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM batch_lines WHERE batch = ?", (batch_id,))
