"""Merkle trees over lists: one root binds many leaves, a short path proves one of them.

Leaf and inner hashes carry different tags, and the root binds the number of leaves, so neither a node nor a
shorter list can be passed off as something else.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.hashing import hash_parts

EMPTY_ROOT = hash_parts("merkle-empty")


def compute_root(leaves: Sequence[bytes]) -> bytes:
    """Root over the leaves in the given order (32 bytes)."""
    if not leaves:
        return EMPTY_ROOT
    return _seal(_build_levels(leaves)[-1][0], len(leaves))


class GrowingTree:
    """The root over leaves that come one after another, without keeping them: one digest per full subtree."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []
        """Size and digest of the full subtrees, greatest first."""
        self.count = 0

    def append(self, leaf: bytes) -> None:
        """Add the next leaf."""
        size, digest = 1, hash_parts("merkle-leaf", leaf)
        while self._peaks and self._peaks[-1][0] == size:
            digest = hash_parts("merkle-node", self._peaks.pop()[1], digest)
            size *= 2
        self._peaks.append((size, digest))
        self.count += 1

    def copy(self) -> GrowingTree:
        """Another tree with the same leaves, which grows apart from this one."""
        other = GrowingTree()
        other._peaks, other.count = list(self._peaks), self.count
        return other

    @property
    def root(self) -> bytes:
        """What `compute_root` gives for the same leaves."""
        if not self._peaks:
            return EMPTY_ROOT
        digest = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            digest = hash_parts("merkle-node", peak, digest)
        return _seal(digest, self.count)


def build_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Sibling digests from the leaf to the root, lowest first."""
    return build_paths(leaves, [index])[0]


def build_paths(leaves: Sequence[bytes], indices: Sequence[int]) -> list[list[bytes]]:
    """The paths of several leaves, for the price of one tree."""
    levels = _build_levels(leaves)
    return [_climb(levels, index) for index in indices]


def verify_path(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """True when `leaf` stands at `index` of the `count` leaves under `root`."""
    if not 0 <= index < count:
        return False
    digest, position, width, used = hash_parts("merkle-leaf", leaf), index, count, 0
    while width > 1:
        sibling = position ^ 1
        if sibling < width:
            if used == len(path):
                return False
            pair = (digest, path[used]) if position % 2 == 0 else (path[used], digest)
            digest, used = hash_parts("merkle-node", *pair), used + 1
        position, width = position // 2, (width + 1) // 2
    return used == len(path) and _seal(digest, count) == root


def _climb(levels: list[list[bytes]], index: int) -> list[bytes]:
    path: list[bytes] = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
    return path


def _build_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    levels = [[hash_parts("merkle-leaf", leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [hash_parts("merkle-node", below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def _seal(digest: bytes, count: int) -> bytes:
    return hash_parts("merkle-root", digest, count.to_bytes(8, "little"))
