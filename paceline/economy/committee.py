"""Who holds the beacon's key: slots by weight, and the exact share of all weight that can sign, or prevent it.

It sees weights and a seed, no key and no height. Invariant: a committee of the heaviest is returned only when less
than a third of all weight, members or not, cannot sign, and more than two thirds always can; a drawn one only when a
third that is fixed before the draw reaches the threshold, or keeps the others from it, below the stated probability.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from typing import NamedTuple

from paceline.base.draws import draw_below
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM, split_proportionally

# A dealing grows with the slots: 1,000 slots make one of 80 KB.
MOST_SLOTS = 1_000
# SPEC: a sampled panel decides only when a third of dishonest weight turns it with less than one in a million.
DRAWN_RISK = 1_000_000


class Seat(NamedTuple):
    """A member as the bounds see it."""

    weight: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Committee:
    """Members by address, each with a run of slots; no member is without a slot.

    Units: `secrecy_ppm` is the least weight that can sign, `liveness_ppm` the most weight that cannot, both of all
    weight, members or not, and rounded to the careful side.
    """

    members: tuple[tuple[bytes, int], ...]
    slots: int
    threshold: int
    secrecy_ppm: int
    liveness_ppm: int
    drawn: bool

    def get_slots(self, address: bytes) -> range:
        """The slots of a member; none for anybody else."""
        first = 0
        for member, slots in self.members:
            if member == address:
                return range(first, first + slots)
            first += slots
        return range(0)


def choose_committee(
    weights: Mapping[bytes, int],
    seed: bytes,
    *,
    largest: int = 64,
    slots_per_member: int = 10,
    drawn_slots: int = 256,
    drawn_threshold: int = 129,
    least_drawn_secrecy_ppm: int = 0,
) -> Committee:
    """The heaviest keys when they can keep the bounds, otherwise slots drawn by weight from all keys.

    Errors: InvalidTransaction `no-committee` when nobody has weight, `committee-below-bound` when the draw would be too
    risky or came out below the stated secrecy; the caller starts no ceremony then.
    Source: decision 013.
    """
    held = {key: weights[key] for key in sorted(weights) if weights[key] > 0}
    if not held:
        raise InvalidTransaction("no-committee", "no key has weight")
    heaviest = sorted(held, key=lambda key: (-held[key], key))[:largest]
    committee = _seat_heaviest(held, heaviest, slots_per_member)
    if committee is not None:
        return committee
    _require_small_risk(drawn_slots, drawn_threshold)
    drawn, _ = _form_committee(held, _draw_slots(held, seed, drawn_slots), drawn_threshold, drawn=True)
    if drawn.secrecy_ppm < least_drawn_secrecy_ppm:
        raise InvalidTransaction(
            "committee-below-bound", f"{drawn.secrecy_ppm} ppm of weight could sign, {least_drawn_secrecy_ppm} must"
        )
    return drawn


def compute_secrecy(seats: Iterable[Seat], threshold: int) -> int | None:
    """The least weight that owns `threshold` slots; none when all seats together do not.

    Source: knapsack over slots; exact, because a seat is either bought or not.
    """
    least: list[int | None] = [0] + [None] * threshold
    for seat in seats:
        if seat.slots == 0:
            continue
        for reached in range(threshold, 0, -1):
            before = least[max(0, reached - seat.slots)]
            if before is None:
                continue
            now = least[reached]
            if now is None or before + seat.weight < now:
                least[reached] = before + seat.weight
    return least[threshold]


def compute_liveness(seats: Iterable[Seat], threshold: int) -> int:
    """The most weight that owns fewer than `threshold` slots; whoever owns none belongs to it."""
    most = [0] * threshold
    slotless = 0
    for seat in seats:
        if seat.slots == 0:
            slotless += seat.weight
            continue
        for used in range(threshold - 1, seat.slots - 1, -1):
            most[used] = max(most[used], most[used - seat.slots] + seat.weight)
    return most[-1] + slotless


def compute_binomial_tail(trials: int, least: int, numerator: int, denominator: int) -> tuple[int, int]:
    """Probability of at least `least` successes in `trials`, as an exact fraction (above, below).

    The chance of each is numerator / denominator.
    """
    other = denominator - numerator
    above = sum(
        comb(trials, hits) * numerator**hits * other ** (trials - hits) for hits in range(max(0, least), trials + 1)
    )
    return above, denominator**trials


def _seat_heaviest(weights: Mapping[bytes, int], heaviest: list[bytes], slots_per_member: int) -> Committee | None:
    """Slots in proportion to weight; more of them while rounding breaks a bound. None when no number helps."""
    total = sum(weights.values())
    if 3 * sum(weights[key] for key in heaviest) < 2 * total:
        return None
    for each in range(slots_per_member, max(slots_per_member, MOST_SLOTS // len(heaviest)) + 1):
        slots = each * len(heaviest)
        owned = split_proportionally(slots, {key: weights[key] for key in heaviest})
        committee, liveness = _form_committee(weights, owned, slots // 2 + 1, drawn=False)
        # Secrecy of a third follows: whoever can sign leaves the others too few slots, so they hold two thirds at most.
        if 3 * liveness <= 2 * total:
            return committee
    return None


def _require_small_risk(slots: int, threshold: int) -> None:
    """A third of weight, fixed before the seed, must not reach the threshold nor keep the others from it."""
    for least in (threshold, slots - threshold + 1):
        above, below = compute_binomial_tail(slots, least, 1, 3)
        if above * DRAWN_RISK >= below:
            raise InvalidTransaction(
                "committee-below-bound",
                f"a third of weight draws {least} of {slots} slots in {above * PPM // below} ppm of draws",
            )


def _draw_slots(weights: Mapping[bytes, int], seed: bytes, slots: int) -> dict[bytes, int]:
    """Slots drawn one by one, each by weight, whoever owns others already."""
    keys = sorted(weights)
    ends = list(accumulate(weights[key] for key in keys))
    owned = dict.fromkeys(keys, 0)
    for slot in range(slots):
        point = draw_below(hash_parts("committee-slot", seed, slot.to_bytes(4, "big")), ends[-1])
        owned[keys[bisect_right(ends, point)]] += 1
    return owned


def _form_committee(
    weights: Mapping[bytes, int], owned: Mapping[bytes, int], threshold: int, *, drawn: bool
) -> tuple[Committee, int]:
    """A committee with its exact liveness in weight."""
    seats: Sequence[Seat] = [Seat(weights[key], owned.get(key, 0)) for key in sorted(weights)]
    total = sum(weights.values())
    secrecy = compute_secrecy(seats, threshold)
    assert secrecy is not None
    liveness = compute_liveness(seats, threshold)
    committee = Committee(
        members=tuple((key, owned[key]) for key in sorted(owned) if owned[key] > 0),
        slots=sum(owned.values()),
        threshold=threshold,
        secrecy_ppm=secrecy * PPM // total,
        liveness_ppm=-(-liveness * PPM // total),
        drawn=drawn,
    )
    return committee, liveness
