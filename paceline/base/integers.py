"""Bounded integers and exact proportions. Nothing here rounds silently: every quotient is a stated floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PPM = 1_000_000
MAX_UINT64 = 2**64 - 1
MAX_UINT128 = 2**128 - 1


def mul_div_floor(value: int, numerator: int, denominator: int) -> int:
    """floor(value * numerator / denominator) for non-negative integers."""
    assert value >= 0 and numerator >= 0 and denominator > 0
    return value * numerator // denominator


def split_proportionally(total: int, shares: Mapping[bytes, int]) -> dict[bytes, int]:
    """Divide `total` by integer shares so that the parts add up to `total` exactly.

    Largest remainder, ties to the lower key. All shares zero gives every key zero (the caller keeps the total).
    """
    assert total >= 0 and all(share >= 0 for share in shares.values())
    weight = sum(shares.values())
    if weight == 0:
        return dict.fromkeys(sorted(shares), 0)
    parts = {key: total * shares[key] // weight for key in sorted(shares)}
    left = total - sum(parts.values())
    by_remainder = sorted(shares, key=lambda key: (-(total * shares[key] % weight), key))
    for key in by_remainder[:left]:
        parts[key] += 1
    return parts


def compute_weighted_median(values: Sequence[tuple[int, int]]) -> int:
    """The least value whose cumulated weight reaches half of all weight. `values` holds (value, weight) pairs."""
    total = sum(weight for _, weight in values)
    assert values and total > 0
    reached = 0
    for value, weight in sorted(values):
        reached += weight
        if 2 * reached >= total:
            return value
    raise AssertionError("cumulated weight must reach the total")
