"""State stores: the committed state, the blocks behind it, and one atomic step from height to height.

Knows nothing of what keys and blocks mean. After a kill at any moment the file holds exactly one height: its
state, its block and its app hash belong together, and opening it proves so by building the trie again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from paceline.base.errors import ConfigError, WorkError
from paceline.store.mirror import Staged, StateMirror
from paceline.store.trie import TrieProof

FORMAT_VERSION: Final = 2
_APPLICATION_ID: Final = 0x7061636C  # "pacl": says whose file it is, so that no other database is taken for a chain
_SCHEMA: Final = (
    "CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE blocks (height INTEGER PRIMARY KEY, block BLOB NOT NULL)",
    "CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 0), height INTEGER NOT NULL, app_hash BLOB NOT NULL)",
)


class MemoryStateStore:
    """A state store that lives and dies with the process."""

    def __init__(self) -> None:
        self._mirror = StateMirror()
        self._staged: Staged | None = None
        self._height = 0
        self._blocks: dict[int, bytes] = {}

    @property
    def height(self) -> int:
        """Height of the last committed block; 0 before the first."""
        return self._height

    @property
    def first_block_height(self) -> int:
        """Lowest height whose block is kept; one above the height when none is."""
        return min(self._blocks, default=self._height + 1)

    @property
    def app_hash(self) -> bytes:
        """Root of the committed state."""
        return self._mirror.root

    def get(self, key: bytes) -> bytes | None:
        """The committed value of a key."""
        return self._mirror.get(key)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under a prefix, sorted by key."""
        return self._mirror.iterate(prefix)

    def prove(self, key: bytes) -> TrieProof:
        """Evidence under `app_hash` of a key's value or absence."""
        return self._mirror.prove(key)

    def stage(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        """The app hash with these changes; replaces the former stage."""
        self._staged = self._mirror.prepare(changes)
        return self._staged.trie.root

    def commit(self, height: int, block: bytes) -> None:
        """Make the stage and the block the committed state."""
        assert self._staged is not None, "commit needs a stage, be it an empty one"
        assert height == self.height + 1, f"height {height} does not follow {self.height}"
        self._mirror.apply(self._staged)
        self._staged = None
        self._blocks[height] = block
        self._height = height

    def restore(
        self, height: int, app_hash: bytes, pairs: list[tuple[bytes, bytes]], block: bytes | None = None
    ) -> None:
        """Replace everything by a state at a height; no block is kept but the one of that height, when it is given.

        Errors: WorkError when the pairs do not hash to the app hash; nothing has changed then.
        """
        self._mirror = _build_mirror(pairs, app_hash)
        self._height, self._staged = height, None
        self._blocks = {} if block is None else {height: block}

    def prune(self, retain_height: int) -> None:
        """Drop blocks below a height, never the last one."""
        for height in [height for height in self._blocks if height < min(retain_height, self._height)]:
            del self._blocks[height]

    def get_block(self, height: int) -> bytes | None:
        """The bytes of one block; None when it is pruned or not there yet."""
        return self._blocks.get(height)

    def get_blocks(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Consecutive blocks from `first`."""
        wanted = range(first, min(first + max(limit, 0), self._height + 1)) if first in self._blocks else range(0)
        return _take_within((self._blocks[height] for height in wanted), max_bytes)


class SqliteStateStore:
    """A state store in one SQLite file, opened by one process at a time.

    All committed state is also held in memory (about 1 kB a key), so reads never touch the disk.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        """Open or create the file. `durable` makes every commit survive a power cut, not only a killed process.

        Errors: ConfigError when the file is in use, foreign, of another format or damaged; whoever runs the node acts.
        """
        self._path = path
        self._staged: Staged | None = None
        self._connection = _open_database(path, durable=durable)
        try:
            self._height, self._mirror = _load(self._connection, path)
        except BaseException:
            self._connection.close()
            raise

    @property
    def height(self) -> int:
        """Height of the last committed block; 0 before the first."""
        return self._height

    @property
    def app_hash(self) -> bytes:
        """Root of the committed state."""
        return self._mirror.root

    def get(self, key: bytes) -> bytes | None:
        """The committed value of a key."""
        return self._mirror.get(key)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under a prefix, sorted by key."""
        return self._mirror.iterate(prefix)

    def prove(self, key: bytes) -> TrieProof:
        """Evidence under `app_hash` of a key's value or absence."""
        return self._mirror.prove(key)

    def stage(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        """The app hash with these changes; replaces the former stage."""
        self._staged = self._mirror.prepare(changes)
        return self._staged.trie.root

    def commit(self, height: int, block: bytes) -> None:
        """Write the stage, the block, the height and the app hash in one transaction.

        Errors: WorkError when SQLite refuses (disk full, say); nothing has changed then.
        """
        staged = self._staged
        assert staged is not None, "commit needs a stage, be it an empty one"
        assert height == self._height + 1, f"height {height} does not follow {self._height}"
        try:
            _write_commit(self._connection, height, block, staged)
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise WorkError(f"{self._path}: block {height} could not be written: {error}") from error
        self._mirror.apply(staged)
        self._height, self._staged = height, None

    @property
    def first_block_height(self) -> int:
        """Lowest height whose block is kept; one above the height when none is."""
        row = self._connection.execute("SELECT min(height) FROM blocks").fetchone()
        return self._height + 1 if row[0] is None else int(row[0])

    def restore(
        self, height: int, app_hash: bytes, pairs: list[tuple[bytes, bytes]], block: bytes | None = None
    ) -> None:
        """Replace everything by a state at a height, in one transaction; of the blocks only the given one is kept.

        Errors: WorkError when the pairs do not hash to the app hash or SQLite refuses; nothing has changed then.
        """
        mirror = _build_mirror(pairs, app_hash)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM state")
            self._connection.execute("DELETE FROM blocks")
            self._connection.executemany("INSERT INTO state VALUES (?, ?)", pairs)
            if block is not None:
                self._connection.execute("INSERT INTO blocks VALUES (?, ?)", (height, block))
            self._connection.execute("UPDATE meta SET height = ?, app_hash = ?", (height, app_hash))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise WorkError(f"{self._path}: the state could not be written: {error}") from error
        self._mirror, self._height, self._staged = mirror, height, None

    def prune(self, retain_height: int) -> None:
        """Drop blocks below a height, never the last one. Their space is used again; `compact` gives it back."""
        self._connection.execute("DELETE FROM blocks WHERE height < ?", (min(retain_height, self._height),))

    def compact(self) -> None:
        """Give space that is not used any more back to the disk. Errors: WorkError when SQLite refuses."""
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise WorkError(f"{self._path} could not be compacted: {error}") from error

    def get_block(self, height: int) -> bytes | None:
        """The bytes of one block; None when it is pruned or not there yet."""
        row = self._connection.execute("SELECT block FROM blocks WHERE height = ?", (height,)).fetchone()
        return None if row is None else bytes(row[0])

    def get_blocks(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Consecutive blocks from `first`."""
        if first < 1:
            return []
        query = "SELECT block FROM blocks WHERE height >= ? ORDER BY height LIMIT ?"
        if first < self.first_block_height:
            return []
        rows = self._connection.execute(query, (first, max(limit, 0)))
        return _take_within((bytes(row[0]) for row in rows), max_bytes)

    def close(self) -> None:
        """Let go of the file. A stage that was not committed is gone."""
        self._connection.close()


def _build_mirror(pairs: list[tuple[bytes, bytes]], app_hash: bytes) -> StateMirror:
    mirror = StateMirror(dict(pairs))
    if mirror.root != app_hash:
        raise WorkError(f"the state hashes to {mirror.root.hex()}, not to the app hash {app_hash.hex()}")
    return mirror


def _take_within(blocks: Iterator[bytes], max_bytes: int) -> list[bytes]:
    taken: list[bytes] = []
    size = 0
    for block in blocks:
        size += len(block)
        if taken and size > max_bytes:
            break
        taken.append(block)
    return taken


def _open_database(path: Path, *, durable: bool) -> sqlite3.Connection:
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        # Exclusive before WAL: SQLite then holds the file lock for as long as the process lives, and drops it on kill.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        _create_or_recognise(connection, path)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise _describe_open_failure(path, error) from error
    except ConfigError:
        if connection is not None:
            connection.close()
        raise
    return connection


def _describe_open_failure(path: Path, error: Exception) -> ConfigError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return ConfigError(f"{path} is in use by another process: stop that one, or choose another home")
    if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return ConfigError(f"{path} cannot be opened: {error}; check the folder and its permissions")
    return _describe_damage(path, str(error))


def _describe_damage(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} is damaged ({reason}): move it away together with its -wal file and start again; "
        "the node then fetches all blocks from its peers and replays them"
    )


def _create_or_recognise(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES (0, 0, ?)", (StateMirror().root,))
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    elif owner != _APPLICATION_ID:
        raise ConfigError(f"{path} is a database of another program: choose another home")
    elif version != FORMAT_VERSION:
        raise ConfigError(f"{path} has format {version}, this program reads {FORMAT_VERSION}: choose another home")
    connection.execute("COMMIT")


def _load(connection: sqlite3.Connection, path: Path) -> tuple[int, StateMirror]:
    """Read everything and hold it against the stored app hash and height."""
    try:
        pairs = {bytes(key): bytes(value) for key, value in connection.execute("SELECT key, value FROM state")}
        meta = connection.execute("SELECT height, app_hash FROM meta").fetchone()
        blocks = connection.execute("SELECT count(*), min(height), max(height) FROM blocks").fetchone()
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise _describe_damage(path, str(error)) from error
    mirror = StateMirror(pairs)
    if meta is None:
        raise _describe_damage(path, "height is missing")
    height, app_hash = meta
    if mirror.root != app_hash:
        raise _describe_damage(path, f"state hashes to {mirror.root.hex()}, stored app hash differs")
    count, first, last = blocks
    # Blocks below the first one were pruned, or never were here when the state came as a whole.
    if count and (last != height or count != last - first + 1):
        raise _describe_damage(path, f"height {height}, but {count} blocks from {first} to {last}")
    return height, mirror


def _write_commit(connection: sqlite3.Connection, height: int, block: bytes, staged: Staged) -> None:
    # Sorted by key: neighbouring rows share pages, which halves the time of large commits.
    changes = sorted(staged.changes.items(), key=lambda change: change[0])
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO state VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [change for change in changes if change[1] is not None],
    )
    connection.executemany("DELETE FROM state WHERE key = ?", [(key,) for key, value in changes if value is None])
    connection.execute("INSERT INTO blocks VALUES (?, ?)", (height, block))
    connection.execute("UPDATE meta SET height = ?, app_hash = ?", (height, staged.trie.root))
    connection.execute("COMMIT")
