"""Working state: a write journal over the committed store, and typed tables on top of it.

A transaction writes into its own layer, which is merged on success and dropped on failure, so nothing is ever half
applied. Iteration is sorted by key.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from paceline.base.errors import InvalidTransaction
from paceline.protocol.codec import decode_own, encode

T = TypeVar("T")

FEW = 32
"""So many new keys go into the sorted ones one by one; more are sorted in together."""


class Readable(Protocol):
    """What the journal needs of the layer below: reads of committed state."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def iterate(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]: ...


class Nothing:
    """The layer below a chain's first block."""

    def get(self, _: bytes, /) -> bytes | None:
        """No value."""
        return None

    def iterate(self, _: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """No pairs."""
        return iter(())


class Event:
    """Something worth telling people. Not hashed, never read by the ledger."""

    __slots__ = ("attributes", "kind")

    def __init__(self, kind: str, **attributes: str | int) -> None:
        self.kind = kind
        self.attributes: Mapping[str, str | int] = attributes

    def __repr__(self) -> str:
        return f"Event({self.kind}, {dict(self.attributes)})"


class State:
    """Reads through the journal to the layer below; writes stay here until the owner takes them."""

    def __init__(self, below: Readable, *, height: int) -> None:
        self._below = below
        self.height = height
        self.changes: dict[bytes, bytes | None] = {}
        self.events: list[Event] = []
        self._sorted: list[bytes] = []
        self._unsorted: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """The value at a key, or None."""
        if key in self.changes:
            return self.changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a value."""
        self._change(key, value)

    def delete(self, key: bytes) -> None:
        """Remove a key (no error when it is absent)."""
        self._change(key, None)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All pairs under a prefix, sorted by key."""
        # A snapshot of this layer's writes: the caller may write while it loops.
        mine = [(key, self.changes[key]) for key in self.list_changed(prefix)]
        if not mine:
            yield from self._below.iterate(prefix)
            return
        at = 0
        for key, value in self._below.iterate(prefix):
            while at < len(mine) and mine[at][0] < key:
                yield from _present(mine[at])
                at += 1
            if at < len(mine) and mine[at][0] == key:
                yield from _present(mine[at])
                at += 1
            else:
                yield key, value
        for pair in mine[at:]:
            yield from _present(pair)

    def list_changed(self, prefix: bytes) -> list[bytes]:
        """Keys under a prefix that this layer wrote or removed, sorted; a block of many changes is not searched for a few."""
        if len(self._unsorted) > FEW:
            self._sorted.extend(self._unsorted)
            self._sorted.sort()
        else:
            for key in self._unsorted:
                insort(self._sorted, key)
        self._unsorted.clear()
        found = []
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[at].startswith(prefix):
                break
            found.append(self._sorted[at])
        return found

    def emit(self, kind: str, **attributes: str | int) -> None:
        """Record an event."""
        self.events.append(Event(kind, **attributes))

    def branch(self) -> State:
        """A layer on top of this one, for one transaction."""
        return State(self, height=self.height)

    def merge(self, branch: State) -> None:
        """Take over a branch's writes and events."""
        for key, value in branch.changes.items():
            self._change(key, value)
        self.events.extend(branch.events)

    def _change(self, key: bytes, value: bytes | None) -> None:
        if key not in self.changes:
            self._unsorted.append(key)
        self.changes[key] = value


class Table(Generic[T]):
    """Values of one type under one key prefix. Keys are fixed-width bytes, so prefixes never collide."""

    def __init__(self, prefix: str, kind: type[T]) -> None:
        self._prefix = prefix.encode("ascii") + b"/"
        self._kind = kind

    def get(self, state: State, key: bytes = b"") -> T | None:
        """The value at a key, or None."""
        data = state.get(self._prefix + key)
        return None if data is None else decode_own(self._kind, data)

    def put(self, state: State, key: bytes, value: T) -> None:
        """Write a value. Errors: InvalidTransaction out-of-range, for a number that no record holds."""
        try:
            data = encode(value)
        except OverflowError:
            raise InvalidTransaction("out-of-range", "a number would leave the range that the ledger holds") from None
        state.put(self._prefix + key, data)

    def delete(self, state: State, key: bytes) -> None:
        """Remove a value."""
        state.delete(self._prefix + key)

    def list_written(self, state: State) -> list[bytes]:
        """Keys that this layer of the state wrote or removed, sorted."""
        return [key[len(self._prefix) :] for key in state.list_changed(self._prefix)]

    def items(self, state: State, prefix: bytes = b"") -> list[tuple[bytes, T]]:
        """All (key, value) pairs under a key prefix, sorted by key."""
        return list(self.scan(state, prefix))

    def scan(self, state: State, prefix: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """The same, one after another, for callers that stop early."""
        start = len(self._prefix)
        for key, data in state.iterate(self._prefix + prefix):
            yield key[start:], decode_own(self._kind, data)


def _present(pair: tuple[bytes, bytes | None]) -> Iterator[tuple[bytes, bytes]]:
    key, value = pair
    if value is not None:
        yield key, value
