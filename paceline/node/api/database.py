"""The one file in which a node keeps what belongs to API keys: files, batches, stored answers, usage.

Refuses to know: what the rows mean. Invariant: every change is one transaction, so that after a kill at any moment a
file, a batch's line or a count is there whole or not at all. Nothing in here is part of what nodes agree on.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from paceline.base.errors import ConfigError

FORMAT_VERSION: Final = 1
_APPLICATION_ID: Final = 0x7061_6170  # "paap": no other database is taken for this one
_SCHEMA: Final = """
CREATE TABLE files (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    name TEXT NOT NULL, purpose TEXT NOT NULL, created INTEGER NOT NULL, size INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX files_by_owner ON files (owner, number);
CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    status TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE batch_lines (batch TEXT NOT NULL, line INTEGER NOT NULL, failed INTEGER NOT NULL, result BLOB NOT NULL,
    PRIMARY KEY (batch, line)) WITHOUT ROWID;
CREATE TABLE replies (id TEXT PRIMARY KEY, owner TEXT NOT NULL, created INTEGER NOT NULL, shown BLOB NOT NULL,
    turns BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX replies_by_owner ON replies (owner, created);
CREATE TABLE repeats (owner TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, created INTEGER NOT NULL,
    headers BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (owner, key)) WITHOUT ROWID;
CREATE TABLE usage (owner TEXT NOT NULL, hour INTEGER NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost INTEGER NOT NULL,
    PRIMARY KEY (owner, hour, model)) WITHOUT ROWID
"""


class ApiDatabase:
    """A SQLite file, or memory when `path` is None; safe to call from several threads.

    Errors: ConfigError when the file is another kind of database or cannot be opened.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
            self._open(path)
        except sqlite3.Error as problem:
            raise ConfigError(f"{path}: {problem}; move the file away to start without files and batches") from problem

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All statements inside happen, or none."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def select(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of one question."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _open(self, path: Path | None) -> None:
        connection = self._connection
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and (found, version) != (_APPLICATION_ID, FORMAT_VERSION):
            raise ConfigError(f"{path}: not a database of this node's API, or of another version ({version})")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if tables:
            return
        with self.transaction():
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
