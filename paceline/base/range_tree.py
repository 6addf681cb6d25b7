"""A Merkle tree over strictly increasing integers whose every node also carries its count and its range.

Openings show that counts add up and ranges do not touch along the whole path, so a tree that holds a number twice,
or claims more leaves than it has, is caught by every opening that passes the place. The root binds the count.
Invariant: a parent's digest binds count and range of both children, so an opening cannot tell another range of a
sibling than an opening inside that sibling computes; any two openings of one root stand in strict order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_parts
from paceline.base.integers import MAX_UINT64


class RangeNode(NamedTuple):
    """One subtree: how many numbers, the least, the greatest, and the digest that binds them."""

    size: int
    low: int
    high: int
    digest: bytes


class RangeOpening(NamedTuple):
    """The number at one position with the siblings up to the root, lowest first."""

    position: int
    value: int
    siblings: list[RangeNode]


class RangeTree:
    """The prover's side: holds the numbers and opens any position."""

    def __init__(self, values: Sequence[int]) -> None:
        """Errors: InvalidClaim when the values do not strictly increase or do not fit 64 bits."""
        if any(low >= high for low, high in pairwise(values)):
            raise InvalidClaim("range-order", "values must strictly increase")
        if values and not 0 <= values[0] <= values[-1] <= MAX_UINT64:
            raise InvalidClaim("range-width", "values must fit 64 bits")
        self._levels: list[list[RangeNode]] = [[_leaf(value) for value in values]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            above = [_join(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            self._levels.append(above + below[len(above) * 2 :])

    @property
    def root(self) -> bytes:
        """32 bytes that bind every number and the count."""
        top = self._levels[-1]
        return top[0].digest if top else hash_parts("range-empty")

    @property
    def count(self) -> int:
        """How many numbers the tree holds."""
        return len(self._levels[0])

    def open(self, position: int) -> RangeOpening:
        """The opening of one position."""
        siblings: list[RangeNode] = []
        index = position
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index //= 2
        return RangeOpening(position, self._levels[0][position].low, siblings)


def verify_range_opening(root: bytes, count: int, opening: RangeOpening) -> bool:
    """True when the opened number stands at its position of a tree of `count` strictly increasing numbers."""
    if not (0 <= opening.position < count and 0 <= opening.value <= MAX_UINT64):
        return False
    node, position, width, used = _leaf(opening.value), opening.position, count, 0
    while width > 1:
        if position ^ 1 < width:
            if used == len(opening.siblings):
                return False
            sibling, used = opening.siblings[used], used + 1
            left, right = (node, sibling) if position % 2 == 0 else (sibling, node)
            if not _is_plausible(sibling) or left.high >= right.low:
                return False
            node = _join(left, right)
        position, width = position // 2, (width + 1) // 2
    return used == len(opening.siblings) and node.size == count and node.digest == root


def _is_plausible(node: RangeNode) -> bool:
    """A range of integers must be wide enough for its count."""
    return 0 <= node.low <= node.high <= MAX_UINT64 and 1 <= node.size <= node.high - node.low + 1


def _leaf(value: int) -> RangeNode:
    return RangeNode(1, value, value, hash_parts("range-leaf", value.to_bytes(8, "little")))


def _join(left: RangeNode, right: RangeNode) -> RangeNode:
    # Bound to the sum and the outer ends only, a forger could tell every opening other inner ends and overlap ranges.
    ends = (left.size, left.low, left.high, right.size, right.low, right.high)
    numbers = b"".join(number.to_bytes(8, "little") for number in ends)
    digest = hash_parts("range-node", left.digest, right.digest, numbers)
    return RangeNode(left.size + right.size, left.low, right.high, digest)
