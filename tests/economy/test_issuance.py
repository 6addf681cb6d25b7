"""Issuance: the table of Appendix F to the unit, fees split exactly at batch edges, the floor, the edges of both rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from paceline.base.integers import PPM
from paceline.cli.econ import econ_app
from paceline.economy.issuance import (
    BATCH,
    BATCHES,
    MAX_DENOMINATOR,
    MAX_FLOORS,
    USUAL_REDUCTION_PPM,
    Epoch,
    Issued,
    compute_batch,
    compute_break_even_ppm,
    compute_issuance,
    match_fees,
    round_half_up,
)
from paceline.economy.supply import CORE_RESERVE, DAILY_FLOOR
from paceline.protocol.params import NICOIN_PER_COIN

APPENDIX_F = [
    (900_000, 5_555_556, 55_555_556),
    (720_000, 19_444_444, 69_444_444),
    (576_000, 36_805_556, 86_805_556),
    (460_800, 58_506_944, 108_506_944),
    (368_640, 85_633_681, 135_633_681),
    (294_912, 119_542_101, 169_542_101),
    (235_930, 161_927_626, 211_927_626),
    (188_744, 214_909_532, 264_909_532),
    (150_995, 281_136_915, 331_136_915),
    (120_796, 363_921_144, 413_921_144),
    (96_637, 467_401_430, 517_401_430),
    (77_309, 596_751_788, 646_751_788),
]
ENDLESS = 10**30


def epoch(fees, **changes):
    usual = {"worked": True, "first_height": 1, "epoch_blocks": 100, "blocks_per_day": 100}
    return Epoch(fees=fees, **{**usual, **changes})


def test_the_twelve_rows_are_those_of_the_paper():
    printed = CliRunner().invoke(econ_app, ["table", "--json"])
    rows = json.loads(printed.stdout)
    assert [(r["subsidy_ppm"], r["developer_fees"], r["paid_to_hosts"]) for r in rows] == APPENDIX_F
    assert [r["batch"] for r in rows] == list(range(1, 13))
    assert sum(r["coins"] for r in rows) == 600_000_000
    for row in rows:
        assert row["paid_to_hosts_nicoin"] - row["developer_fees_nicoin"] == row["coins_nicoin"] == BATCH
        assert row["net_to_hosts_nicoin"] + row["to_training_fund_nicoin"] == row["paid_to_hosts_nicoin"]
        assert abs(5 * row["to_training_fund_nicoin"] - row["paid_to_hosts_nicoin"]) <= 3
    shown = CliRunner().invoke(econ_app, ["table"], env={"COLUMNS": "130"}).stdout
    assert "596,751,788" in shown and "7.73 %" in shown


def test_invalid_share_of_the_fund_is_refused():
    assert CliRunner().invoke(econ_app, ["table", "--fund-ppm", "1000001"]).exit_code == 2


def test_a_batch_issued_by_fees_takes_the_fees_of_its_row():
    now = Issued()
    for number in range(1, BATCHES + 1):
        fees = compute_batch(number, 0).developer_fees
        short, _ = match_fees(now, fees - 1, USUAL_REDUCTION_PPM, ENDLESS)
        assert short < BATCH
        coins, after = match_fees(now, fees + 1, USUAL_REDUCTION_PPM, ENDLESS)
        assert BATCH <= coins < BATCH + 20 and after.batch == number + 1
        now = Issued(total=after.total - coins + BATCH, subsidy=after.subsidy)
    assert now.total == CORE_RESERVE and now.left_in_batch == 0
    assert match_fees(now, 10**20, USUAL_REDUCTION_PPM, ENDLESS) == (0, now)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 10**17), min_size=1, max_size=40))
def test_how_fees_are_cut_into_epochs_changes_nothing_but_the_last_unit(fees):
    now, total = Issued(), 0
    for part in fees:
        coins, now = match_fees(now, part, USUAL_REDUCTION_PPM, ENDLESS)
        total += coins
    at_once, after = match_fees(Issued(), sum(fees), USUAL_REDUCTION_PPM, ENDLESS)
    # A batch edge rounds the carried part of one nicoin down, at most once per edge.
    assert 0 <= at_once - total <= BATCHES
    assert after.total == at_once and now.total == total


@given(st.integers(0, 10**16), st.integers(1, 10**6))
def test_without_an_edge_nothing_is_lost_at_all(fees, parts):
    now, total = Issued(), 0
    for part in (fees // parts, fees - fees // parts):
        coins, now = match_fees(now, part, USUAL_REDUCTION_PPM, ENDLESS)
        total += coins
    if total < BATCH:
        assert total == 9 * fees


def test_a_remainder_is_carried_to_the_next_epoch():
    second = Issued(total=BATCH, subsidy=(18, 25))
    # 18/7 of a nicoin each: two epochs of 3.5 fees issue what one of 7 does.
    coins, after = match_fees(second, 1, USUAL_REDUCTION_PPM, ENDLESS)
    assert (coins, after.carried) == (2, 4)
    total = coins
    for _ in range(6):
        coins, after = match_fees(after, 1, USUAL_REDUCTION_PPM, ENDLESS)
        total += coins
    assert (total, after.carried) == (18, 0)


def test_the_floor_is_issued_when_fees_earn_less():
    assert compute_issuance(Issued(), epoch(0)) == (DAILY_FLOOR, Issued(total=DAILY_FLOOR))
    just_less = epoch(DAILY_FLOOR // 9 - 1)
    assert compute_issuance(Issued(), just_less)[0] == DAILY_FLOOR


def test_fees_issue_at_most_four_floors():
    most = MAX_FLOORS * DAILY_FLOOR
    at_the_edge = -(-most // 9)
    assert compute_issuance(Issued(), epoch(at_the_edge - 1))[0] == 9 * (at_the_edge - 1)
    assert compute_issuance(Issued(), epoch(at_the_edge))[0] == most
    coins, after = compute_issuance(Issued(), epoch(10**17))
    assert coins == most and after.carried == 0


def test_a_cap_at_the_batch_edge_stops_there():
    near = Issued(total=BATCH - 5, subsidy=(9, 10))
    coins, after = match_fees(near, 10**9, USUAL_REDUCTION_PPM, 5)
    assert coins == 5 and after == Issued(total=BATCH, subsidy=(18, 25))


def test_the_floor_crosses_a_batch_edge():
    near = Issued(total=BATCH - 5, carried=0, subsidy=(9, 10))
    coins, after = compute_issuance(near, epoch(0))
    assert coins == DAILY_FLOOR and after.batch == 2 and after.subsidy == (18, 25)
    assert after.total == BATCH - 5 + DAILY_FLOOR


def test_nobody_worked_so_nothing_is_issued_or_carried():
    assert compute_issuance(Issued(), epoch(10**15, worked=False)) == (0, Issued())


def test_an_empty_reserve_issues_nothing_and_a_nearly_empty_one_its_rest():
    assert compute_issuance(Issued(total=CORE_RESERVE), epoch(10**15)) == (0, Issued(total=CORE_RESERVE))
    last = Issued(total=CORE_RESERVE - 7, subsidy=(1, 10))
    assert compute_issuance(last, epoch(0))[0] == 7
    assert compute_issuance(last, epoch(10**17))[1].total == CORE_RESERVE


def test_the_floor_halves_each_year():
    year = 365 * 100
    assert compute_issuance(Issued(), epoch(0, first_height=year - 1))[0] == DAILY_FLOOR
    assert compute_issuance(Issued(), epoch(0, first_height=year))[0] == DAILY_FLOOR // 2


@pytest.mark.parametrize("reduction", [0, 1, 123_457, 999_999, PPM - 1])
def test_other_reductions_apply_at_the_edge_and_stay_within_bounds(reduction):
    now = Issued()
    for _ in range(BATCHES):
        _, now = match_fees(Issued(total=now.total + now.left_in_batch - 1, subsidy=now.subsidy), ENDLESS, reduction, 2)
        assert 0 < now.subsidy[0] < now.subsidy[1] <= MAX_DENOMINATOR
        now = Issued(total=now.total // BATCH * BATCH, subsidy=now.subsidy)
    assert now.total == CORE_RESERVE
    if reduction == 0:
        assert now.subsidy == (9, 10)


def test_asking_oneself_breaks_even_at_the_stated_share():
    shares = [compute_break_even_ppm(subsidy, 200_000) for subsidy in ((9, 10), (18, 25), (72, 125))]
    assert shares == [125_000, 350_000, 530_000]
    assert compute_break_even_ppm((1, 10), 200_000) == PPM


def test_halves_round_up():
    assert [round_half_up(n, 4) for n in (0, 1, 2, 3, 4, 6)] == [0, 0, 1, 1, 1, 2]
    assert NICOIN_PER_COIN == 10**9
