"""Everything that a node keeps for its API keys, opened together.

Refuses to know: HTTP. Invariant: all parts stand on one database file, so that what one of them promises is on disk
before another shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from paceline.node.api.batches import BatchStore
from paceline.node.api.database import ApiDatabase
from paceline.node.api.files import DEFAULT_QUOTA_BYTES, FileStore
from paceline.node.api.replies import ReplyStore
from paceline.node.api.usage import Meter, UsageBook


class ApiDesk:
    """Files, batches, kept answers, usage and limits. `path` None keeps them in memory."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = ApiDatabase(path)
        self.now = now
        self.files = FileStore(self._database, quota_bytes)
        self.batches = BatchStore(self._database)
        self.replies = ReplyStore(self._database)
        self.usage = UsageBook(self._database)
        self.meter = Meter(self.usage, now)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
