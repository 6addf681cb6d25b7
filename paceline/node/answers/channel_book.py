"""What an executor keeps of its channels: every leaf with the state behind it and whose signatures it has.

A leaf and the own signature are on disk before either leaves the node, so a killed node neither loses what it earned nor ever
signs two states of one count. It refuses to know peers and the ledger's rules. Invariant: the states of one channel count one
leaf more each; a state is signed once and never changed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from paceline.base.errors import ConfigError, Invalid
from paceline.base.keys import AccountKey
from paceline.base.merkle import GrowingTree
from paceline.ledger.channel_records import needs_payloads
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.state import State
from paceline.protocol.channels import ChannelState, Leaf, SignedState
from paceline.protocol.codec import decode_own, encode

_SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (id BLOB PRIMARY KEY, refused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaves (channel BLOB NOT NULL, position INTEGER NOT NULL, leaf BLOB NOT NULL,
    state BLOB NOT NULL, own BLOB NOT NULL, owners BLOB, PRIMARY KEY (channel, position)) WITHOUT ROWID
"""


@dataclass
class Account:
    """One channel as it stands. `last` is the state behind its last leaf, signed by this node."""

    tree: GrowingTree = field(default_factory=GrowingTree)
    total: int = 0
    last: ChannelState | None = None
    last_leaf: Leaf | None = None
    signature: bytes = b""
    agreed: int = 0
    """Leaves of the latest state that the user signed as well."""
    refused: bool = False
    """This node signed that it has no room for it."""

    @property
    def count(self) -> int:
        """Leaves so far."""
        return self.tree.count


class ChannelBook:
    """A SQLite file; safe to call from several threads.

    Errors: ConfigError when the file is no such book.
    """

    def __init__(self, path: Path, key: AccountKey, chain_id: str) -> None:
        self._key = key
        self._chain_id = chain_id
        self._lock = threading.RLock()
        self._accounts: dict[bytes, Account] = {}
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._load()
        except sqlite3.Error as problem:
            raise ConfigError(f"{path}: {problem}; without it this node cannot claim its channels") from problem

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def list_channels(self) -> list[bytes]:
        """Channels that something is kept of."""
        with self._lock:
            return sorted(self._accounts)

    def get(self, channel: bytes) -> Account:
        """A channel as it stands; an empty account for one without leaves."""
        with self._lock:
            return self._accounts.get(channel, Account())

    def add_leaf(self, channel: bytes, leaf: Leaf) -> bytes:
        """Keep the next leaf and sign the state behind it; returns the signature.

        Errors: Invalid wrong-index when another leaf came first.
        """
        with self._lock:
            account = self._accounts.setdefault(channel, Account())
            if leaf.index != account.count or leaf.total != account.total + leaf.cost:
                raise Invalid("wrong-index", f"the channel has {account.count} leaves")
            data, grown = leaf.encode(), account.tree.copy()
            grown.append(data)
            state = ChannelState(
                channel=channel, executor=self._key.address, count=grown.count, total=leaf.total, root=grown.root
            )
            own = self._key.sign(state.signed_bytes(self._chain_id))
            with self._writing() as connection:
                connection.execute("INSERT OR IGNORE INTO channels (id) VALUES (?)", (channel,))
                row = (channel, leaf.index, data, encode(state), own)
                connection.execute(
                    "INSERT INTO leaves (channel, position, leaf, state, own) VALUES (?, ?, ?, ?, ?)", row
                )
            account.tree, account.total, account.last, account.last_leaf = grown, leaf.total, state, leaf
            account.signature = own
        return own

    def countersign(self, channel: bytes, count: int, signature: bytes) -> None:
        """Keep the user's signature, which the caller verified, over the state of so many leaves."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE leaves SET owners = ? WHERE channel = ? AND position = ?", (signature, channel, count - 1)
            )
            account = self._accounts[channel]
            account.agreed = max(account.agreed, count)

    def refuse(self, channel: bytes) -> None:
        """Note that this node said that it is busy: what it did for the channel now might be nobody's."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO channels (id, refused) VALUES (?, 1)", (channel,))
            self._accounts.setdefault(channel, Account()).refused = True

    def get_agreed(self, channel: bytes) -> SignedState | None:
        """The latest state with both signatures."""
        rows = self._select(
            "SELECT state, owners, own FROM leaves WHERE channel = ? AND owners NOT NULL ORDER BY position DESC LIMIT 1",
            channel,
        )
        return SignedState(decode_own(ChannelState, rows[0][0]), rows[0][1], rows[0][2]) if rows else None

    def list_leaves(self, channel: bytes, count: int) -> list[Leaf]:
        """The first `count` leaves."""
        rows = self._select("SELECT leaf FROM leaves WHERE channel = ? ORDER BY position LIMIT ?", channel, count)
        return [decode_own(Leaf, row[0]) for row in rows]

    def list_tasks(self, state: State) -> set[bytes]:
        """Task ids of all leaves whose payload may still be asked for."""
        with self._lock:
            counts = {channel: account.count for channel, account in self._accounts.items()}
        return {
            compute_task_id(channel, index)
            for channel, count in counts.items()
            if needs_payloads(state, channel)
            for index in range(count)
        }

    def forget(self, channel: bytes) -> None:
        """Drop a channel that the ledger no longer knows."""
        with self._writing() as connection:
            connection.execute("DELETE FROM leaves WHERE channel = ?", (channel,))
            connection.execute("DELETE FROM channels WHERE id = ?", (channel,))
            self._accounts.pop(channel, None)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _select(self, statement: str, *values: bytes | int) -> list[tuple[bytes, ...]]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _load(self) -> None:
        for channel, refused in self._connection.execute("SELECT id, refused FROM channels").fetchall():
            self._accounts[channel] = Account(refused=bool(refused))
        rows = self._connection.execute(
            "SELECT channel, leaf, state, own, owners FROM leaves ORDER BY channel, position"
        )
        for channel, data, state, own, owners in rows:
            account = self._accounts[channel]
            account.tree.append(data)
            account.last_leaf, account.last = decode_own(Leaf, data), decode_own(ChannelState, state)
            account.total, account.signature = account.last.total, own
            if owners is not None:
                account.agreed = account.count
