"""Public lotteries: from a beacon value to a draw that anyone can recompute, in integers only.

A draw never sees who asks for it; its inputs are the beacon value, a purpose tag and the ids concerned.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate

from paceline.base.hashing import hash_parts

_WIDE = 2**256


def derive_seed(beacon: bytes, purpose: str, *parts: bytes) -> bytes:
    """32 bytes for one purpose. Two purposes never share a seed."""
    return hash_parts("derive:" + purpose, beacon, *parts)


def draw_below(seed: bytes, bound: int) -> int:
    """Uniform integer in [0, bound). The bias is below bound / 2**256."""
    assert bound > 0
    return int.from_bytes(seed, "big") % bound


def draw_happens(seed: bytes, numerator: int, denominator: int) -> bool:
    """True with probability min(1, numerator / denominator)."""
    assert numerator >= 0 and denominator > 0
    return int.from_bytes(seed, "big") * denominator < numerator * _WIDE


def draw_order(seed: bytes, weights: Mapping[bytes, int]) -> list[bytes]:
    """All keys of positive weight, drawn one after another without replacement, each time by weight."""
    left = {key: weights[key] for key in sorted(weights) if weights[key] > 0}
    order: list[bytes] = []
    while left:
        point = draw_below(hash_parts("draw-order", seed, len(order).to_bytes(4, "little")), sum(left.values()))
        drawn = _find_at(left, point)
        order.append(drawn)
        del left[drawn]
    return order


class WeightLine:
    """All keys of positive weight laid on one line, each as long as its weight; for many draws with replacement."""

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self._keys = [key for key in sorted(weights) if weights[key] > 0]
        self._ends = list(accumulate(weights[key] for key in self._keys))

    def draw_slots(self, seed: bytes, count: int, without: bytes) -> list[bytes]:
        """`count` keys, each drawn by weight among all but one; none when nobody else has weight."""
        start, end = self._find_stretch(without)
        length = (self._ends[-1] if self._ends else 0) - (end - start)
        if length == 0:
            return []
        points = (
            draw_below(hash_parts("draw-slot", seed, slot.to_bytes(4, "little")), length) for slot in range(count)
        )
        return [self._find_key(point if point < start else point + end - start) for point in points]

    def _find_stretch(self, key: bytes) -> tuple[int, int]:
        place = bisect_right(self._keys, key) - 1
        if place < 0 or self._keys[place] != key:
            return 0, 0
        return (self._ends[place - 1] if place else 0), self._ends[place]

    def _find_key(self, point: int) -> bytes:
        return self._keys[bisect_right(self._ends, point)]


def draw_sample(seed: bytes, population: int, count: int) -> list[int]:
    """`min(count, population)` distinct indices below `population`, sorted (Floyd's algorithm)."""
    chosen: dict[int, None] = {}
    take = min(count, population)
    for step, top in enumerate(range(population - take, population)):
        index = draw_below(hash_parts("draw-sample", seed, step.to_bytes(4, "little")), top + 1)
        chosen[top if index in chosen else index] = None
    return sorted(chosen)


def generate_words(seed: bytes) -> Iterator[int]:
    """Endless 64-bit words of a seed, for draws that need many."""
    block = 0
    while True:
        digest = hash_parts("words", seed, block.to_bytes(8, "little"))
        for start in range(0, 32, 8):
            yield int.from_bytes(digest[start : start + 8], "little")
        block += 1


def _find_at(weights: Mapping[bytes, int], point: int) -> bytes:
    """The key whose stretch of the line of all weights holds the point."""
    for key, weight in weights.items():
        point -= weight
        if point < 0:
            return key
    raise AssertionError("the point must lie below the sum of the weights")
