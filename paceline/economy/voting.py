"""From race weight to block-signing power: seats, a cap per key, a limit on how fast power may move.

Only block signing is bent this way; draws, duties and pay follow the race weight itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.integers import PPM, mul_div_floor, split_proportionally


def compute_voting_powers(
    weights: Mapping[bytes, int],
    former: Mapping[bytes, int],
    *,
    seats: int,
    power_total: int,
    cap_ppm: int,
    growth_ppm: int,
) -> dict[bytes, int]:
    """Powers that add up to `power_total`, for the `seats` heaviest keys; an empty result keeps `former`.

    `former` counts only as far as its keys still have weight: power of a key that lost its weight is gone at once
    and its return to the others is no gain. What the others gain beyond that is limited to `growth_ppm` of all power
    by moving only part of the way. The cap is max(cap, an equal share); ties for a seat go to the lower key.
    """
    seated = sorted((key for key in weights if weights[key] > 0), key=lambda key: (-weights[key], key))[:seats]
    if not seated:
        return dict(sorted(former.items()))
    target = _cap(split_proportionally(power_total, {key: weights[key] for key in seated}), power_total, cap_ppm)
    kept = {key: former.get(key, 0) for key in sorted(seated)}
    if sum(kept.values()) == 0:
        return target
    base = split_proportionally(power_total, kept)
    gained = sum(max(0, target[key] - base[key]) for key in target)
    limit = mul_div_floor(power_total, growth_ppm, PPM)
    if gained <= limit:
        return target
    mixed = {key: base[key] * (gained - limit) + target[key] * limit for key in target}
    return _cap(split_proportionally(power_total, mixed), power_total, cap_ppm)


def compute_updates(sent: Mapping[bytes, int], desired: Mapping[bytes, int]) -> list[tuple[bytes, int]]:
    """Sorted difference against the set last sent; power 0 removes a key."""
    keys = sorted({**sent, **desired})
    return [(key, desired.get(key, 0)) for key in keys if sent.get(key, 0) != desired.get(key, 0)]


def _cap(powers: dict[bytes, int], total: int, cap_ppm: int) -> dict[bytes, int]:
    """Cut every key to the cap and give the excess to the others in proportion, until nobody is above it."""
    cap = max(mul_div_floor(total, cap_ppm, PPM), -(-total // len(powers)))
    capped: dict[bytes, int] = {}
    free = dict(powers)
    while True:
        over = [key for key in sorted(free) if free[key] > cap]
        if not over:
            return dict(sorted({**capped, **free}.items()))
        for key in over:
            capped[key] = cap
            del free[key]
        left = total - sum(capped.values())
        weights = free if sum(free.values()) else dict.fromkeys(free, 1)
        free = split_proportionally(left, weights)
