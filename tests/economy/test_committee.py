"""Committees: bounds against brute force over all coalitions, edges of weight, and the two tails of the draw."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paceline.base.errors import InvalidTransaction
from paceline.economy.committee import (
    MOST_SLOTS,
    Seat,
    choose_committee,
    compute_binomial_tail,
    compute_liveness,
    compute_secrecy,
)

SEED = b"s" * 32
WEIGHTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=10)
SEATS = st.lists(st.builds(Seat, st.integers(0, 1_000), st.integers(0, 12)), max_size=10)


def named(weights):
    return {bytes([index // 256, index % 256]): weight for index, weight in enumerate(weights)}


def coalitions(seats):
    return chain.from_iterable(combinations(seats, size) for size in range(len(seats) + 1))


def brute_bounds(seats, threshold):
    """Secrecy and liveness from the definition, over every coalition."""
    sums = [(sum(seat.weight for seat in some), sum(seat.slots for seat in some)) for some in coalitions(seats)]
    can = [weight for weight, slots in sums if slots >= threshold]
    return min(can, default=None), max(weight for weight, slots in sums if slots < threshold)


@given(SEATS, st.integers(1, 60))
def test_bounds_are_those_of_all_coalitions(seats, threshold):
    assert (compute_secrecy(seats, threshold), compute_liveness(seats, threshold)) == brute_bounds(seats, threshold)


@given(WEIGHTS, st.integers(1, 10))
def test_a_committee_of_the_heaviest_keeps_its_bounds(weights, largest):
    assume(any(weights))
    held = {key: weight for key, weight in named(weights).items() if weight}
    total = sum(held.values())
    committee = choose_committee(held, SEED, largest=largest)
    owned = dict(committee.members)
    seats = [Seat(weight, owned.get(key, 0)) for key, weight in held.items()]
    secrecy, liveness = brute_bounds(seats, committee.threshold)
    assert committee.secrecy_ppm == secrecy * 1_000_000 // total
    assert committee.liveness_ppm == -(-liveness * 1_000_000 // total)
    if not committee.drawn:
        assert 3 * secrecy >= total
        assert 3 * liveness <= 2 * total
        assert committee.threshold == committee.slots // 2 + 1
        assert len(committee.members) <= largest


@given(WEIGHTS, st.integers(1, 10))
def test_slots_and_members_fit_together(weights, largest):
    assume(any(weights))
    committee = choose_committee(named(weights), SEED, largest=largest)
    addresses = [address for address, _ in committee.members]
    assert addresses == sorted(addresses)
    assert all(slots > 0 for _, slots in committee.members)
    assert all(named(weights)[address] > 0 for address in addresses)
    ranges = [committee.get_slots(address) for address in addresses]
    assert list(chain.from_iterable(ranges)) == list(range(committee.slots))
    assert committee.slots <= MOST_SLOTS


def test_whoever_is_no_member_has_no_slots():
    assert list(choose_committee(named([1]), SEED).get_slots(b"stranger")) == []


def test_a_single_node():
    committee = choose_committee(named([7]), SEED)
    assert (committee.members, committee.slots, committee.threshold) == (((b"\0\0", 10),), 10, 6)
    assert (committee.secrecy_ppm, committee.liveness_ppm, committee.drawn) == (1_000_000, 0, False)


def test_two_equal_nodes_need_each_other():
    committee = choose_committee(named([5, 5]), SEED)
    assert (committee.slots, committee.threshold) == (20, 11)
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (1_000_000, 500_000)


def test_three_equal_nodes():
    committee = choose_committee(named([5, 5, 5]), SEED)
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (666_666, 333_334)


def test_sixty_four_equal_nodes_have_ten_slots_each():
    committee = choose_committee(named([3] * 64), SEED)
    assert {slots for _, slots in committee.members} == {10}
    assert (committee.slots, committee.threshold) == (640, 321)
    assert committee.secrecy_ppm == 33 * 1_000_000 // 64


def test_a_giant_signs_alone_and_the_small_ones_cannot_stop_it():
    committee = choose_committee(named([9_900, *[1] * 100]), SEED)
    assert not committee.drawn
    assert dict(committee.members)[b"\0\0"] > committee.threshold
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (990_000, 10_000)


def test_keys_without_weight_are_as_if_they_were_not_there():
    assert choose_committee(named([4, 0, 2, 0]), SEED) == choose_committee({b"\0\0": 4, b"\0\2": 2}, SEED)


@pytest.mark.parametrize("weights", [[], [0], [0, 0, 0]])
def test_invalid_weights_of_nobody(weights):
    with pytest.raises(InvalidTransaction) as caught:
        choose_committee(named(weights), SEED)
    assert caught.value.code == "no-committee"


def test_two_thirds_among_the_heaviest_is_the_border():
    """96 equal nodes: the first 64 hold two thirds exactly and keep both bounds; 97: slots are drawn."""
    committee = choose_committee(named([1] * 96), SEED)
    assert (committee.drawn, len(committee.members)) == (False, 64)
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (343_750, 666_667)
    assert choose_committee(named([1] * 97), SEED).drawn


def find_weights_near_the_border(wanted):
    """Weights of 98 nodes whose heaviest 64 hold barely two thirds, and what a choice with few slots makes of them."""
    for salt in range(200):
        weights = named([900 + (salt * 7_919 + index * 104_729) % 201 for index in range(98)])
        if wanted(weights):
            return weights
    raise AssertionError("no such weights among two hundred")


def holds_two_thirds(weights):
    return 3 * sum(sorted(weights.values())[-64:]) >= 2 * sum(weights.values())


def test_rounding_that_breaks_a_bound_is_met_with_more_slots():
    weights = find_weights_near_the_border(lambda found: choose_committee(found, SEED).slots > 640)
    committee = choose_committee(weights, SEED)
    assert not committee.drawn
    assert 640 < committee.slots <= MOST_SLOTS
    assert committee.slots % 64 == 0


def test_too_much_weight_that_cannot_sign_is_met_with_more_slots_too():
    """Ten slots each let 204 of 304 be unable to sign; of 42 slots the heaviest key owns 22 and signs alone."""
    committee = choose_committee(named([105, 100, 99]), SEED, largest=2)
    assert committee.members == ((b"\0\0", 22), (b"\0\1", 20))
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (345_394, 654_606)


def test_rounding_that_no_slots_mend_leads_to_the_draw():
    weights = find_weights_near_the_border(
        lambda found: holds_two_thirds(found) and choose_committee(found, SEED).drawn
    )
    assert choose_committee(weights, SEED).slots == 256


def test_a_draw_follows_seed_and_weight():
    weights = named([1] * 200 + [50])
    first, second = (choose_committee(weights, seed) for seed in (SEED, b"t" * 32))
    assert first == choose_committee(weights, SEED)
    assert first.members != second.members
    assert (first.slots, first.threshold, first.drawn) == (256, 129, True)
    heavy = sum(dict(choose_committee(weights, bytes([salt]) * 32).members).get(b"\0\xc8", 0) for salt in range(100))
    # 256 slots a draw, a fifth of them by weight: 5,120 expected, 64 is one standard deviation.
    assert abs(heavy - 5_120) < 6 * 64


@pytest.mark.parametrize(
    ("nodes", "secrecy", "liveness"), [(100, 280_000, 730_000), (1_000, 96_000, 905_000), (5_000, 25_000, 975_200)]
)
def test_the_bounds_of_a_draw_are_shown_and_may_be_demanded(nodes, secrecy, liveness):
    """Who buys nodes after the draw needs less than a third; what the tails promise is for a third fixed before it."""
    weights = named([1] * nodes)
    committee = choose_committee(weights, SEED)
    assert (committee.secrecy_ppm, committee.liveness_ppm) == (secrecy, liveness)
    assert choose_committee(weights, SEED, least_drawn_secrecy_ppm=secrecy) == committee
    with pytest.raises(InvalidTransaction) as caught:
        choose_committee(weights, SEED, least_drawn_secrecy_ppm=secrecy + 1)
    assert caught.value.code == "committee-below-bound"


def test_a_third_reaches_the_drawn_threshold_or_blocks_it_with_these_chances():
    """1.4e-8 to sign alone; to block it needs one slot less, 2.8e-8."""
    signs, blocks = (Fraction(*compute_binomial_tail(256, least, 1, 3)) for least in (129, 128))
    assert 1.35e-8 < signs < 1.36e-8
    assert 2.76e-8 < blocks < 2.77e-8


@given(st.integers(1, 30), st.integers(1, 9))
def test_tails_are_exact(trials, numerator):
    chances = [Fraction(*compute_binomial_tail(trials, least, numerator, 10)) for least in range(trials + 2)]
    assert chances[0] == 1
    assert chances[1] == 1 - (1 - Fraction(numerator, 10)) ** trials
    assert chances[trials] == Fraction(numerator, 10) ** trials
    assert chances[trials + 1] == 0
    assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize(("slots", "threshold"), [(64, 33), (256, 86), (256, 200), (256, 257)])
def test_invalid_draws_that_a_third_would_turn(slots, threshold):
    with pytest.raises(InvalidTransaction) as caught:
        choose_committee(named([1] * 200), SEED, drawn_slots=slots, drawn_threshold=threshold)
    assert caught.value.code == "committee-below-bound"
