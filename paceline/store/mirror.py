"""The whole committed state in memory: values, sorted keys and the trie over them.

Knows nothing of blocks and disks. The three parts always describe the same set of pairs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from paceline.store.trie import Trie, TrieProof

# Above this many new or dropped keys one sort of the whole list costs less than moving its tail for each.
_FEW_KEYS = 64


class Staged(NamedTuple):
    """Changes that differ from the committed state, and the trie that has them."""

    changes: dict[bytes, bytes | None]
    trie: Trie


class StateMirror:
    """Committed pairs with fast reads by key and by prefix."""

    def __init__(self, pairs: Mapping[bytes, bytes] | None = None) -> None:
        self._values = dict(pairs or {})
        self._keys = sorted(self._values)
        self._trie = Trie.build(self._values.items())

    @property
    def root(self) -> bytes:
        """Root of the trie."""
        return self._trie.root

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return self._values.get(key)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with `prefix`, sorted by key."""
        start = bisect_left(self._keys, prefix)
        after = _find_successor(prefix)
        end = len(self._keys) if after is None else bisect_left(self._keys, after, start)
        return ((key, self._values[key]) for key in self._keys[start:end])

    def prove(self, key: bytes) -> TrieProof:
        """Evidence of the committed value of a key, or of its absence."""
        return self._trie.prove(key)

    def prepare(self, changes: Mapping[bytes, bytes | None]) -> Staged:
        """The changes that change something, with their trie. Nothing here is touched."""
        real = {key: value for key, value in changes.items() if self._values.get(key) != value}
        return Staged(real, self._trie.with_changes(real))

    def apply(self, staged: Staged) -> None:
        """Make a stage the committed state. It must have been prepared from this very state."""
        dropped = [key for key, value in staged.changes.items() if value is None]
        added = [key for key, value in staged.changes.items() if value is not None and key not in self._values]
        for key, value in staged.changes.items():
            if value is None:
                del self._values[key]
            else:
                self._values[key] = value
        self._reindex(dropped, added)
        self._trie = staged.trie

    def _reindex(self, dropped: list[bytes], added: list[bytes]) -> None:
        if len(dropped) > _FEW_KEYS:
            self._keys = [key for key in self._keys if key in self._values]
        else:
            for key in dropped:
                del self._keys[bisect_left(self._keys, key)]
        if len(added) > _FEW_KEYS:
            self._keys.extend(added)
            self._keys.sort()
        else:
            for key in added:
                insort(self._keys, key)


def _find_successor(prefix: bytes) -> bytes | None:
    """The least byte string above everything that starts with `prefix`; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
