"""From hits to race weight: half from before, nothing for who does not race, nothing to gain by turns or by splitting."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from paceline.economy.voting import compute_race_weights

HALF = 500_000
KEYS = [bytes([number]) * 20 for number in range(8)]


def share(weights, key):
    return Fraction(weights.get(key, 0), sum(weights.values()))


def name(counts):
    return {key: count for key, count in zip(KEYS, counts, strict=False) if count}


def test_half_of_a_weight_is_carried_in_units_of_this_races_hits():
    assert compute_race_weights(name([700, 1_000, 1_000]), name([10, 10, 10]), HALF) == name([800, 950, 950])


def test_the_length_of_a_race_does_not_matter():
    once = compute_race_weights(name([700, 1_000]), name([300, 100]), HALF)
    twice = compute_race_weights(name([1_400, 2_000]), name([300, 100]), HALF)
    assert all(0 <= twice[key] - 2 * weight <= 1 for key, weight in once.items())


def test_without_former_weight_among_the_racers_hits_alone_decide():
    assert compute_race_weights(name([7, 5]), {}, HALF) == name([7, 5])
    assert compute_race_weights(name([7, 5]), {KEYS[5]: 9}, HALF) == name([7, 5])
    assert compute_race_weights({}, name([7, 5]), HALF) == {}


def test_boundaries_of_the_carried_part():
    assert compute_race_weights(name([30, 10]), name([1, 3]), 0) == name([30, 10])
    assert compute_race_weights(name([30, 10]), name([1, 3]), 1_000_000) == name([10, 30])


def test_invalid_weight_without_hits_is_not_kept():
    assert compute_race_weights(name([0, 10]), name([100, 100]), HALF) == name([0, 10])
    assert compute_race_weights({KEYS[0]: 0}, name([100]), HALF) == {}


def test_a_newcomer_has_half_of_its_share_at_first_and_all_of_it_soon():
    weights, shares = name([100, 100, 100]), []
    for _ in range(6):
        weights = compute_race_weights(name([10_000] * 4), weights, HALF)
        shares.append(share(weights, KEYS[3]))
    assert abs(shares[0] - Fraction(1, 8)) < Fraction(1, 10_000)
    assert abs(shares[-1] - Fraction(1, 4)) < Fraction(1, 200)


def test_many_keys_of_one_hit_do_not_round_themselves_up():
    weights = compute_race_weights({**name([1_000]), **{bytes([99, n]) * 10: 1 for n in range(50)}}, name([10]), HALF)
    assert list(weights) == [KEYS[0]]


COUNTS = st.lists(st.integers(1, 10**9), min_size=2, max_size=8)


@given(COUNTS, st.lists(st.integers(0, 10**9), min_size=8, max_size=8), st.integers(0, 100))
def test_serving_with_a_share_takes_at_most_half_of_it_times_the_share_of_hits(counts, former, percent):
    """Against the same Race without serving, for every network and history; a unit of rounding for each node aside."""
    quiet, carried = name(counts), name(former)
    hits = {**quiet, KEYS[0]: quiet[KEYS[0]] * (100 - percent) // 100}
    before = compute_race_weights(quiet, carried, HALF)
    after = compute_race_weights(hits, carried, HALF)
    if not sum(carried.get(key, 0) for key in quiet) or not hits[KEYS[0]] or not before or not after:
        return
    bound = share(before, KEYS[0]) - Fraction(percent, 200) * share(quiet, KEYS[0])
    assert share(after, KEYS[0]) >= bound - Fraction(len(counts) + 2, sum(after.values()))


@given(COUNTS, st.lists(st.integers(0, 10**9), min_size=8, max_size=8))
def test_weights_never_exceed_the_hits_they_share(counts, former):
    weights = compute_race_weights(name(counts), name(former), HALF)
    assert sum(counts) - len(counts) <= sum(weights.values()) <= sum(counts)
    assert weights


@given(COUNTS, st.lists(st.integers(1, 10**9), min_size=8, max_size=8), st.integers(1, 99))
def test_splitting_an_identity_gains_nothing(counts, former, percent):
    part, other = counts[0] * percent // 100, former[0] * percent // 100
    whole = compute_race_weights(name(counts), name(former), HALF)
    halves = {KEYS[0]: counts[0] - part, b"split" * 4: part}
    carried = {KEYS[0]: former[0] - other, b"split" * 4: other}
    split = compute_race_weights({**name(counts), **halves}, {**name(former), **carried}, HALF)
    assert split.get(KEYS[0], 0) + split.get(b"split" * 4, 0) <= whole.get(KEYS[0], 0) + 1


def test_racing_and_serving_in_turns_gains_nothing():
    """A node that races in every second Race only, with one hit in the others, and one that races with half of its compute."""
    weights, turns, steady = name([1_000] * 3), Fraction(0), Fraction(0)
    for number in range(40):
        weights = compute_race_weights(name([2_000 if number % 2 else 1, 1_000, 7_000]), weights, HALF)
        turns += share(weights, KEYS[0]) / 40
        steady += share(weights, KEYS[1]) / 40
    assert turns <= steady * Fraction(101, 100)
