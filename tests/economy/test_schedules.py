"""Seats of top hosts, vesting, and the price of a unit of compute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import Invalid
from paceline.economy.prices import MAX_PRICE, compute_next_price, compute_token_price, require_price
from paceline.economy.supply import TOP_HOSTS
from paceline.economy.top_hosts import DAYS, Seat, open_seats, pay_day
from paceline.economy.vesting import add_vesting, compute_vesting, take_vested

A, B, C = b"a", b"b", b"c"


def test_a_host_that_stays_gets_its_share_over_four_years_and_not_a_unit_more():
    seats, total = open_seats(2), 0
    for day in range(DAYS):
        paid, seats = pay_day(seats, [A], 30)
        total += paid.get(A, 0)
        assert (day < DAYS - 1) == (total < TOP_HOSTS // 2)
    assert total == TOP_HOSTS // 2
    assert pay_day(seats, [A, B], 30)[0] == {B: -(-TOP_HOSTS // 2 // DAYS)}


def test_the_first_eligible_get_the_seats_and_others_wait():
    paid, seats = pay_day(open_seats(2), [C, A, B], 1)
    assert sorted(paid) == [A, C] and [seat.holder for seat in seats] == [C, A]


def test_a_host_below_is_not_paid_and_loses_its_seat_after_the_days_of_grace():
    _, seats = pay_day(open_seats(1), [A], 2)
    for below in (1, 2):
        paid, seats = pay_day(seats, [B], 2)
        assert paid == {} and seats[0].below == below and seats[0].holder == A
    paid, after = pay_day(seats, [B], 2)
    assert list(paid) == [B] and after[0].holder == B and after[0].paid > seats[0].paid
    back, _ = pay_day(seats, [A, B], 2)
    assert list(back) == [A], "back in time it goes on"


def test_an_empty_seat_stays_locked_and_is_inherited_with_its_rest():
    seats = (Seat(paid=TOP_HOSTS - 1),)
    paid, seats = pay_day(seats, [], 0)
    assert paid == {} and seats == (Seat(paid=TOP_HOSTS - 1),)
    assert pay_day(seats, [B], 0)[0] == {B: 1}
    assert pay_day((Seat(paid=TOP_HOSTS),), [B], 0) == ({}, (Seat(paid=TOP_HOSTS),))


@given(st.lists(st.tuples(st.integers(0, 10**20), st.integers(1, 6)), max_size=12))
def test_vesting_parts_add_up_and_come_free_in_time(amounts):
    held, total, free = (), 0, 0
    for now, (amount, periods) in enumerate(amounts):
        got, held = take_vested(held, now)
        free += got
        held = add_vesting(held, amount, now, periods)
        total += amount
        assert free + compute_vesting(held) == total
        assert all(period > now for period, _ in held) and len(held) <= 6
    assert take_vested(held, len(amounts) + 6) == (total - free, ())


def test_what_does_not_divide_comes_last():
    assert add_vesting((), 10, 5, 4) == ((6, 2), (7, 2), (8, 2), (9, 4))
    assert add_vesting(((6, 1),), 1, 5, 4) == ((6, 1), (9, 1))
    assert take_vested(((6, 2), (7, 3)), 6) == (2, ((7, 3),))


def test_silence_is_a_vote_for_the_last_price():
    assert compute_next_price({A: 1, B: 1, C: 1}, {A: 7}, 100) == 100
    assert compute_next_price({A: 2, B: 1}, {A: 7}, 100) == 7
    assert compute_next_price({A: 1, B: 1, C: 1}, {}, 100) == 100
    assert compute_next_price({}, {A: 7}, 100) == compute_next_price({A: 0}, {A: 7}, 100) == 100


def test_an_absurd_vote_of_a_minority_moves_nothing():
    weights = {A: 49, B: 26, C: 25}
    assert compute_next_price(weights, {A: MAX_PRICE, B: 10, C: 12}, 10) == 12
    assert compute_next_price(weights, {A: 1, B: 10, C: 12}, 10) == 10


@pytest.mark.parametrize("price", [0, -1, MAX_PRICE + 1])
def test_invalid_prices(price):
    with pytest.raises(Invalid, match="bad-price"):
        require_price(price)


def test_prices_at_the_edges():
    assert require_price(1) == 1 and require_price(MAX_PRICE) == MAX_PRICE
    assert (
        compute_token_price(1, 1) == 1
        and compute_token_price(1_000_000, 3) == 3
        and compute_token_price(1_000_001, 3) == 4
    )
