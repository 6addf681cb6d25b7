"""Powers over random weight histories: sums, caps, growth, and differences that no engine could choke on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.economy.supply import (
    CORE_RESERVE,
    DAILY_FLOOR,
    FOUNDERS,
    LIQUIDITY_POOL,
    TOP_HOSTS,
    TOTAL_SUPPLY,
    compute_floor_issuance,
)
from paceline.economy.voting import compute_updates, compute_voting_powers

TOTAL = 1_000_000_000
CAP = 300_000
WEIGHTS = st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(0, 10**9), max_size=12)


def powers(weights, former, seats=100, growth=250_000):
    return compute_voting_powers(weights, former, seats=seats, power_total=TOTAL, cap_ppm=CAP, growth_ppm=growth)


@given(st.lists(WEIGHTS, min_size=1, max_size=6))
def test_any_history_of_weights(history):
    sent = {}
    for weights in history:
        desired = powers(weights, sent, seats=5)
        if any(weights.values()):
            assert sum(desired.values()) == TOTAL
            assert len(desired) <= 5
            assert max(desired.values()) <= max(TOTAL * CAP // 1_000_000, -(-TOTAL // len(desired)))
        else:
            assert desired == sent
        updates = compute_updates(sent, desired)
        keys = [key for key, _ in updates]
        assert keys == sorted(dict.fromkeys(keys))
        for key, power in updates:
            assert power >= 0
            assert power > 0 or key in sent
        sent = {key: power for key, power in desired.items() if power > 0}


def test_equal_weights_are_equal_powers():
    assert set(powers({b"a": 7, b"b": 7, b"c": 7, b"d": 7}, {}).values()) == {TOTAL // 4}


def test_fewer_than_four_holders_cannot_keep_the_cap():
    assert sorted(powers({b"a": 1, b"b": 99}, {}).values()) == [TOTAL // 2, TOTAL // 2]


def test_ties_for_the_last_seat_go_to_the_lower_key():
    assert set(powers({b"a": 5, b"b": 5, b"c": 5}, {}, seats=2)) == {b"a", b"b"}


def test_a_key_without_weight_is_out_at_once():
    former = {b"a": TOTAL // 2, b"b": TOTAL // 2}
    found = powers({b"a": 0, b"b": 5, b"c": 5}, former)
    assert b"a" not in found


def test_the_supply_adds_up_and_the_floor_halves():
    assert CORE_RESERVE + TOP_HOSTS + LIQUIDITY_POOL + FOUNDERS == TOTAL_SUPPLY
    year = 365 * 1_000
    assert compute_floor_issuance(1, 1_000, 1_000, TOTAL_SUPPLY) == DAILY_FLOOR
    assert compute_floor_issuance(year, 1_000, 1_000, TOTAL_SUPPLY) == DAILY_FLOOR // 2
    assert compute_floor_issuance(1, 1_000, 1_000, 5) == 5
