"""Fees count as far as they are spread by weight, and who serves too little for its weight gets less of the new coins."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.integers import PPM
from paceline.economy.spread import Spread, compute_part_ppm, measure_spread

FUND_PPM = 200_000
WEIGHTS = {b"a": 50, b"b": 30, b"c": 20}
FEES = st.lists(st.tuples(st.sampled_from(list(WEIGHTS)), st.integers(0, 10**12)), max_size=40)


def test_fees_by_weight_count_in_full():
    assert measure_spread([(b"a", 500), (b"b", 300), (b"c", 200)], WEIGHTS).counted == 1_000
    # A share that is no whole number is rounded up.
    assert measure_spread([(b"a", 51), (b"b", 30), (b"c", 20)], WEIGHTS).counted == 101


def test_what_one_node_is_paid_beyond_its_share_does_not_count():
    found = measure_spread([(b"c", 400), (b"c", 600)], WEIGHTS)
    assert found == Spread(counted=200, squares=400**2 + 600**2, weight=100)


def test_who_has_no_weight_is_paid_and_counts_for_nothing():
    assert measure_spread([(b"x", 1_000)], WEIGHTS).counted == 0
    assert measure_spread([(b"x", 1_000)], {}) == Spread(counted=0, squares=10**6, weight=0)
    assert compute_part_ppm(measure_spread([], {}), 0, 0, FUND_PPM) == PPM


@given(fees=FEES, steered=st.integers(0, 10**12))
def test_a_coin_put_to_one_node_counts_by_its_weight_at_most(fees, steered):
    before = measure_spread(fees, WEIGHTS).counted
    after = measure_spread([*fees, (b"c", steered)], WEIGHTS).counted
    paid = {node: sum(fee for at, fee in fees if at == node) for node in WEIGHTS}
    total = sum(paid.values())
    assert before <= after <= total + steered
    if all(paid[node] * 100 <= total * weight for node, weight in WEIGHTS.items()):
        # Everybody else stays below its share: only the part by weight is added, but for rounding up.
        assert after - before <= steered * WEIGHTS[b"c"] // 100 + len(WEIGHTS)


@given(fees=FEES)
def test_dividing_a_node_s_weight_changes_nothing(fees):
    halves = [(node, fee // 2) for node, fee in fees] + [(node + b"2", fee // 2) for node, fee in fees]
    doubled = {node: 2 * weight for node, weight in WEIGHTS.items()}
    split = {**WEIGHTS, **{node + b"2": weight for node, weight in WEIGHTS.items()}}
    whole = [(node, fee // 2 * 2) for node, fee in fees]
    assert abs(measure_spread(halves, split).counted - measure_spread(whole, doubled).counted) <= len(split)


@pytest.mark.parametrize("tasks", [10, 1_000, 30_000])
def test_chance_costs_nobody_anything(tasks):
    for seed in range(20):
        chance, nodes = random.Random(seed), [bytes([number]) for number in range(10)]
        fees = [(chance.choice(nodes), int(10**6 * chance.paretovariate(2.5))) for _ in range(tasks)]
        spread = measure_spread(fees, dict.fromkeys(nodes, 100))
        for node in nodes:
            earned = sum(fee for at, fee in fees if at == node) * 8 // 10
            assert compute_part_ppm(spread, 100, earned, FUND_PPM) == PPM


def test_who_serves_nothing_gets_less_the_more_work_there_is():
    parts = []
    for tasks in (10, 1_000, 100_000):
        fees = [(bytes([number % 9]), 10**6) for number in range(tasks)]
        spread = measure_spread(fees, {bytes([number]): 100 for number in range(10)})
        parts.append(compute_part_ppm(spread, 100, 0, FUND_PPM))
    assert parts[0] == PPM
    # Three deviations of a hundred draws are 30 of the 80 expected, of ten thousand 300 of 8,000; less what nobody's share of fees issues.
    assert 380_000 < parts[1] < 430_000
    assert 35_000 < parts[2] < 45_000
