"""Powers over random weight histories: sums, caps, growth, and differences that no engine could choke on."""

from __future__ import annotations

import random

import pytest
from comet_model import Halt, apply_changes
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


def cap_of(count):
    return max(TOTAL * CAP // 1_000_000, -(-TOTAL // count))


def compute_gain(former, desired):
    return sum(max(0, power - former.get(key, 0)) for key, power in desired.items())


@given(st.lists(WEIGHTS, min_size=1, max_size=6))
def test_any_history_of_weights(history):
    sent = {}
    for weights in history:
        desired = powers(weights, sent, seats=5)
        if any(weights.values()):
            assert sum(desired.values()) == TOTAL
            assert len(desired) <= 5
            assert max(desired.values()) <= cap_of(len(desired))
        else:
            assert desired == sent
        sent = {key: power for key, power in desired.items() if power > 0}


def make_weights(rng, keys):
    """One epoch's outcome: rejected Races, joins, leaves, giants, ties, dust."""
    kind = rng.randrange(8)
    if kind == 0:
        return {}
    if kind == 1:
        return dict.fromkeys(keys, 0)
    if kind == 2:
        return dict.fromkeys(keys, 7)
    weights = {key: rng.randrange(1, 2_000) for key in keys if rng.random() < rng.choice((0.2, 0.5, 0.9))}
    if kind == 3 and weights:
        weights[rng.choice(list(weights))] = 10**15
    if kind == 4:
        weights.update(dict.fromkeys(rng.sample(keys, len(keys) // 2), 1))
    return weights


@pytest.mark.parametrize("seed", range(4))
def test_differences_replayed_by_the_engine_rules_always_give_the_desired_set(seed):
    """4 x 750 histories of 8 epochs; the engine's model accepts every difference and ends at the same set."""
    rng = random.Random(seed)
    for _ in range(750):
        keys = [rng.randbytes(4) for _ in range(rng.randrange(1, 14))]
        seats, sent = rng.choice((1, 3, 4, 8, 100)), {}
        engine = sent = {key: power for key, power in powers({keys[0]: 1}, {}).items() if power}
        for _ in range(8):
            weights = make_weights(rng, keys)
            desired = {key: power for key, power in powers(weights, sent, seats=seats).items() if power}
            changes = compute_updates(sent, desired)
            engine = apply_changes(engine, changes)
            assert engine == desired
            assert sum(desired.values()) == TOTAL
            if not any(weights.values()):
                assert changes == []
            sent = desired


@pytest.mark.parametrize("seed", range(2))
def test_gains_stay_within_a_quarter_while_everybody_stays(seed):
    rng = random.Random(seed)
    for _ in range(1_000):
        keys = [bytes([index]) for index in range(rng.randrange(4, 12))]
        former = powers({key: rng.randrange(1, 500) for key in keys}, {})
        newcomers = [bytes([100 + index]) for index in range(rng.randrange(20))]
        weights = {key: rng.randrange(1, 10 ** rng.randrange(1, 9)) for key in [*keys, *newcomers]}
        assert compute_gain(former, powers(weights, former)) <= TOTAL // 4


def test_a_flood_of_identities_gains_no_more_than_one_would():
    """The aggregate limit, not the cap, is the defence against split identities; without it they take what they like."""
    honest = {bytes([index]): 100 for index in range(4)}
    former = powers(honest, {})
    flood = {bytes([50 + index]): 1_000 for index in range(40)}
    after = powers({**honest, **flood}, former)
    assert TOTAL // 4 - 40 <= sum(after[key] for key in flood) <= TOTAL // 4
    unlimited = powers({**honest, **flood}, former, growth=1_000_000)
    assert sum(unlimited[key] for key in flood) > 0.98 * TOTAL


def test_the_cap_goes_before_the_limit_when_few_former_keys_are_left():
    """One of four stays: it may hold the cap only, so newcomers take the rest at once, in equal parts."""
    former = powers({b"a": 1, b"b": 1, b"c": 1, b"d": 1}, {})
    after = powers({b"a": 9, b"w": 1, b"x": 1, b"y": 1}, former)
    assert after[b"a"] == cap_of(4)
    assert sum(after.values()) == TOTAL


def test_when_everybody_is_replaced_the_weights_rule_at_once():
    former = powers({b"a": 1, b"b": 1}, {})
    assert set(powers({b"x": 1, b"y": 1, b"z": 1, b"w": 1}, former).values()) == {TOTAL // 4}


@pytest.mark.parametrize(
    ("validators", "changes"),
    [
        ({b"a": 5}, [(b"a", 1), (b"a", 2)]),
        ({b"a": 5}, [(b"b", 0)]),
        ({b"a": 5}, [(b"a", 0)]),
        ({b"a": 5}, [(b"b", 1), (b"a", 1)]),
        ({b"a": 5}, [(b"a", -1)]),
        ({b"a": 5}, [(b"b", 2**60)]),
    ],
)
def test_invalid_changes_halt_the_model(validators, changes):
    with pytest.raises(Halt):
        apply_changes(validators, changes)


def test_equal_weights_are_equal_powers():
    assert set(powers({b"a": 7, b"b": 7, b"c": 7, b"d": 7}, {}).values()) == {TOTAL // 4}


@pytest.mark.parametrize(("count", "most"), [(1, TOTAL), (2, TOTAL // 2), (3, -(-TOTAL // 3)), (4, TOTAL * 3 // 10)])
def test_fewer_than_four_holders_cannot_keep_the_cap_and_share_equally(count, most):
    giant = {bytes([index]): 1 for index in range(count)} | {bytes([0]): 10**12}
    found = powers(giant, {})
    assert max(found.values()) == most
    assert sum(found.values()) == TOTAL


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
