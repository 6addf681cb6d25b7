"""A path-compressed binary Merkle trie over hashed keys: one root binds every key and value.

Knows nothing of what keys mean, nor of disks. Nodes are immutable and shared between versions, so a new version
costs only the touched paths and the old one stays whole. The same pairs give the same root in whatever order
they came, and a deletion gives back the root from before the insertion.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from paceline.base.hashing import DIGEST_BYTES, hash_parts

PATH_BITS = 256
EMPTY_TRIE_ROOT = hash_parts("trie-empty")

# The same bytes as `hash_parts` feeds, put together by hand: the general function takes twice as long per node.
_LENGTH = [length.to_bytes(8, "little") for length in range(DIGEST_BYTES * 2 + 2)]
_KEY_HEAD = _LENGTH[8] + b"trie-key"
_VALUE_HEAD = _LENGTH[10] + b"trie-value"
_LEAF_HEAD = _LENGTH[9] + b"trie-leaf" + _LENGTH[2 * DIGEST_BYTES]
_FORK_HEADS = [_LENGTH[9] + b"trie-fork" + _LENGTH[2 * DIGEST_BYTES + 1] + bytes([bit]) for bit in range(PATH_BITS)]


class _Node(NamedTuple):
    """A leaf (bit 256, value hash) or a fork at `bit`. `path` is that of any leaf below: they agree before `bit`."""

    digest: bytes
    path: int
    bit: int
    left: _Node | None
    right: _Node | None
    value_hash: bytes


class TrieProof(NamedTuple):
    """The leaf that a walk along the key's path ends at, and the forks passed, lowest first, as (bit, sibling).

    In an empty trie both hashes are empty. The same shape proves presence and absence.
    """

    leaf_path: bytes
    leaf_value_hash: bytes
    forks: tuple[tuple[int, bytes], ...]


class Trie:
    """One version of the trie. Immutable: `with_changes` returns another one."""

    __slots__ = ("_top",)

    def __init__(self, top: _Node | None = None) -> None:
        self._top = top

    @staticmethod
    def build(pairs: Iterable[tuple[bytes, bytes]]) -> Trie:
        """The trie of these pairs."""
        return Trie().with_changes(dict(pairs))

    @property
    def root(self) -> bytes:
        """32 bytes that bind every pair."""
        return self._top.digest if self._top else EMPTY_TRIE_ROOT

    def with_changes(self, changes: Mapping[bytes, bytes | None]) -> Trie:
        """The trie after these changes (None deletes; deleting what is absent changes nothing)."""
        if not changes:
            return self
        digests = sorted((_hash_key(key), value) for key, value in changes.items())
        batch = _Batch(
            [int.from_bytes(digest, "big") for digest, _ in digests],
            [None if value is None else _make_leaf(digest, _hash_value(value)) for digest, value in digests],
        )
        return Trie(_apply(self._top, batch, 0, len(digests)))

    def prove(self, key: bytes) -> TrieProof:
        """Evidence that the key has its value, or that it has none."""
        node, forks = self._top, []
        if node is None:
            return TrieProof(b"", b"", ())
        path = int.from_bytes(_hash_key(key), "big")
        while node.left is not None and node.right is not None:
            goes_right = _goes_right(path, node.bit)
            sibling = node.left if goes_right else node.right
            forks.append((node.bit, sibling.digest))
            node = node.right if goes_right else node.left
        return TrieProof(node.path.to_bytes(DIGEST_BYTES, "big"), node.value_hash, tuple(reversed(forks)))


def verify_proof(root: bytes, key: bytes, value: bytes | None, proof: TrieProof) -> bool:
    """True when the proof shows that under `root` the key has this value (None: has no value).

    Absence rests on the root being that of a well-formed trie, which is what honest nodes agree on.
    """
    if not _is_well_shaped(proof):
        return False
    if not proof.leaf_path:
        return value is None and root == EMPTY_TRIE_ROOT
    key_hash = _hash_key(key)
    if value is None and proof.leaf_path == key_hash:
        return False
    if value is not None and (proof.leaf_path != key_hash or proof.leaf_value_hash != _hash_value(value)):
        return False
    path, digest = int.from_bytes(key_hash, "big"), _hash_leaf(proof.leaf_path, proof.leaf_value_hash)
    for bit, sibling in proof.forks:
        digest = _hash_fork(bit, sibling, digest) if _goes_right(path, bit) else _hash_fork(bit, digest, sibling)
    return digest == root


class _Batch(NamedTuple):
    """Changes sorted by path: the new leaf of each, None for a deletion."""

    paths: Sequence[int]
    leaves: Sequence[_Node | None]


def _apply(node: _Node | None, batch: _Batch, low: int, high: int) -> _Node | None:
    """The subtree `node` with the changes low..high, all of which share the bits that led here."""
    if low == high:
        return node
    if node is None:
        return _grow(batch, low, high)
    # The changes are sorted, so the first or the last is the earliest to leave the bits that the subtree shares.
    first, last = batch.paths[low] ^ node.path, batch.paths[high - 1] ^ node.path
    cut = min(node.bit, PATH_BITS - max(first, last).bit_length())
    if cut == PATH_BITS:
        return batch.leaves[low]
    middle = _find_middle(batch, low, high, node.path, cut)
    if cut < node.bit:
        goes_right = _goes_right(node.path, cut)
        left = _grow(batch, low, middle) if goes_right else _apply(node, batch, low, middle)
        right = _apply(node, batch, middle, high) if goes_right else _grow(batch, middle, high)
        return _join(cut, left, right)
    left, right = _apply(node.left, batch, low, middle), _apply(node.right, batch, middle, high)
    return node if left is node.left and right is node.right else _join(cut, left, right)


def _grow(batch: _Batch, low: int, high: int) -> _Node | None:
    """The subtree of the changes low..high where nothing stood before."""
    if high - low <= 1:
        return batch.leaves[low] if low < high else None
    first, last = batch.paths[low], batch.paths[high - 1]
    cut = PATH_BITS - (first ^ last).bit_length()
    middle = _find_middle(batch, low, high, first, cut)
    return _join(cut, _grow(batch, low, middle), _grow(batch, middle, high))


def _find_middle(batch: _Batch, low: int, high: int, path: int, cut: int) -> int:
    """The first change that goes right at bit `cut`, given that all share the bits of `path` before it."""
    below = PATH_BITS - 1 - cut
    if high - low == 1:
        return low if batch.paths[low] >> below & 1 else high
    return bisect_left(batch.paths, (path >> below | 1) << below, low, high)


def _join(bit: int, left: _Node | None, right: _Node | None) -> _Node | None:
    """A fork of two subtrees; a lone subtree moves up, so that no fork has one child."""
    if left is None or right is None:
        return left or right
    digest = sha256(_FORK_HEADS[bit] + left.digest + right.digest).digest()
    return _Node(digest, left.path, bit, left, right, b"")


def _make_leaf(key_hash: bytes, value_hash: bytes) -> _Node:
    digest = _hash_leaf(key_hash, value_hash)
    return _Node(digest, int.from_bytes(key_hash, "big"), PATH_BITS, None, None, value_hash)


def _goes_right(path: int, bit: int) -> int:
    return path >> (PATH_BITS - 1 - bit) & 1


def _is_well_shaped(proof: TrieProof) -> bool:
    """Lengths and order only: bits fall strictly from the leaf up, every hash is empty (empty trie) or 32 bytes."""
    if not proof.leaf_path:
        return not proof.leaf_value_hash and not proof.forks
    if len(proof.leaf_path) != DIGEST_BYTES or len(proof.leaf_value_hash) != DIGEST_BYTES:
        return False
    above = PATH_BITS
    for bit, sibling in proof.forks:
        if not 0 <= bit < above or len(sibling) != DIGEST_BYTES:
            return False
        above = bit
    return True


def _hash_key(key: bytes) -> bytes:
    return sha256(_KEY_HEAD + len(key).to_bytes(8, "little") + key).digest()


def _hash_value(value: bytes) -> bytes:
    return sha256(_VALUE_HEAD + len(value).to_bytes(8, "little") + value).digest()


def _hash_leaf(key_hash: bytes, value_hash: bytes) -> bytes:
    return sha256(_LEAF_HEAD + key_hash + value_hash).digest()


def _hash_fork(bit: int, left: bytes, right: bytes) -> bytes:
    return sha256(_FORK_HEADS[bit] + left + right).digest()
