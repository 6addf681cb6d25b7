"""From hits to race weight, and from race weight to block-signing power: seats, a cap per key, a limit on growth.

Only block signing is bent by seats, cap and limit; draws, duties and pay follow the race weight itself. It sees keys and
integers, no nodes and no heights.
Invariants: powers add up to the total exactly; no key is above max(cap, an equal share among the seated), so with fewer
than four holders the cap gives way to equal shares (three hold a third each at least, two a half, one everything); a set
is never empty once it held somebody.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.integers import PPM, mul_div_floor, split_proportionally


def compute_race_weights(hits: Mapping[bytes, int], former: Mapping[bytes, int], carried_ppm: int) -> dict[bytes, int]:
    """Weights in units of this Race's hits: the carried part by former weights, the rest by hits; zeros are left out.

    Former weights count only among keys with hits now, brought to the sum of hits, so that no key keeps weight without
    racing and the length of a Race does not matter. With no former weight among them, hits alone decide. A key that loses
    a share s of its hits loses at most the part 1 - carried of s of its share; since every Race's shares count the same
    in all, nobody gains by racing and serving in turns. Floors, or many keys of one hit each would round themselves up.
    """
    racing = {key: count for key, count in sorted(hits.items()) if count > 0}
    kept = {key: former.get(key, 0) for key in racing}
    total, before = sum(racing.values()), sum(kept.values())
    if before == 0:
        return racing
    fresh_ppm = PPM - carried_ppm
    weights = {
        key: (count * fresh_ppm * before + kept[key] * carried_ppm * total) // (PPM * before)
        for key, count in racing.items()
    }
    return {key: weight for key, weight in weights.items() if weight > 0}


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

    `former` counts only as far as its keys still have weight: power of a key that lost its weight is gone at once, and
    its return to the others, as far as the cap lets them take it, is no gain. Beyond that all keys together gain at
    most `growth_ppm` of all power, by moving only part of the way. Where few former keys are left, the cap goes before
    the limit and passes what they may not hold to the newcomers. Ties for a seat go to the lower key.
    """
    seated = sorted((key for key in weights if weights[key] > 0), key=lambda key: (-weights[key], key))[:seats]
    if not seated:
        return dict(sorted(former.items()))
    target = _cap(split_proportionally(power_total, {key: weights[key] for key in seated}), power_total, cap_ppm)
    kept = {key: former.get(key, 0) for key in sorted(seated)}
    if sum(kept.values()) == 0:
        return target
    base = _cap(split_proportionally(power_total, kept), power_total, cap_ppm)
    return _move_towards(base, target, mul_div_floor(power_total, growth_ppm, PPM))


def compute_updates(sent: Mapping[bytes, int], desired: Mapping[bytes, int]) -> list[tuple[bytes, int]]:
    """Sorted difference against the set last sent; power 0 removes a key."""
    keys = sorted({**sent, **desired})
    return [(key, desired.get(key, 0)) for key in keys if sent.get(key, 0) != desired.get(key, 0)]


def _move_towards(base: dict[bytes, int], target: dict[bytes, int], limit: int) -> dict[bytes, int]:
    """All the way when gains stay within the limit, else the same part of every gain and of every loss."""
    gains = {key: max(0, target[key] - base[key]) for key in sorted(base)}
    gained = sum(gains.values())
    if gained <= limit:
        return target
    granted = {key: mul_div_floor(gain, limit, gained) for key, gain in gains.items()}
    losses = {key: max(0, base[key] - target[key]) for key in sorted(base)}
    taken = split_proportionally(sum(granted.values()), losses)
    return {key: base[key] + granted[key] - taken[key] for key in base}


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
