"""Asking oneself for work: what the formula says, by the issuance that the ledger runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from paceline.base.integers import PPM
from paceline.cli.econ import econ_app
from paceline.economy.issuance import MAX_FLOORS
from paceline.economy.self_dealing import compute_gain, compute_most_gain, compute_self_dealing
from paceline.economy.supply import DAILY_FLOOR

FUND_PPM = 200_000


@pytest.mark.parametrize(("batch", "share_ppm"), [(1, 125_000), (2, 350_000), (3, 530_000), (8, PPM)])
def test_the_break_even_shares_are_those_of_the_specification(batch, share_ppm):
    assert compute_self_dealing(batch, FUND_PPM).break_even_ppm == share_ppm


@pytest.mark.parametrize(("batch", "share_ppm"), [(1, 166_666), (2, 311_804), (3, 428_984), (8, PPM)])
def test_a_coalition_that_steers_breaks_even_where_its_weight_squared_pays_the_fund(batch, share_ppm):
    assert compute_self_dealing(batch, FUND_PPM).steered_break_even_ppm == share_ppm


def test_a_day_of_steered_requests_by_hand():
    """Third batch, half of all weight: all fees come back but the fund's fifth, and half of them issues coins, half of which it gets."""
    fees = 4 * DAILY_FLOOR
    gain = compute_gain(3, FUND_PPM, 500_000, fees, steered=True)
    issued = fees // 2 * 576 // 424
    assert abs(gain - ((fees + (issued - DAILY_FLOOR) // 2) * 4 // 5 - fees)) <= 2
    assert abs(compute_gain(3, FUND_PPM, 500_000, fees, PPM, steered=True) - (gain - fees)) <= 1


def test_a_day_by_hand():
    """First batch: 60,883 coins of fees issue four floors; half of all weight keeps two fifths of fees and three floors."""
    found = compute_self_dealing(1, FUND_PPM)
    assert found.fees == -(-MAX_FLOORS * DAILY_FLOOR // 9)
    gain = compute_gain(1, FUND_PPM, 500_000, found.fees)
    assert abs(gain - ((found.fees + 3 * DAILY_FLOOR) * 2 // 5 - found.fees)) <= 1
    paid = compute_gain(1, FUND_PPM, 500_000, found.fees, PPM)
    assert abs(gain - paid - found.fees // 2) <= 1


@given(
    batch=st.integers(1, 12),
    share=st.integers(0, PPM),
    fees=st.integers(1, 20 * DAILY_FLOOR),
    cost_ppm=st.integers(0, PPM),
)
@settings(max_examples=300)
def test_nobody_below_the_daily_break_even_gains_by_any_fees(batch, share, fees, cost_ppm):
    found = compute_self_dealing(batch, FUND_PPM)
    gains = [compute_gain(batch, FUND_PPM, share, fees, cost_ppm, steered=steered) for steered in (False, True)]
    if share < min(found.break_even_ppm, found.steered_break_even_ppm) or share < found.daily_break_even_ppm:
        assert max(gains) <= 0
    assert max(gains) <= compute_most_gain(batch, FUND_PPM, share, cost_ppm) + 2


def test_without_a_fund_more_coalitions_gain():
    with_fund, without = (compute_self_dealing(2, ppm) for ppm in (FUND_PPM, 0))
    assert without.break_even_ppm < with_fund.break_even_ppm
    assert without.daily_break_even_ppm < with_fund.daily_break_even_ppm


def test_the_command_prints_what_is_computed():
    run = CliRunner().invoke(econ_app, ["self-dealing", "--json", "--share", "50"])
    rows = json.loads(run.stdout)
    assert [row["batch"] for row in rows] == list(range(1, 13))
    assert rows[0]["gains_nicoin"] == [
        [compute_most_gain(1, FUND_PPM, 500_000, 0), compute_most_gain(1, FUND_PPM, 500_000, PPM)]
    ]
    text = CliRunner().invoke(econ_app, ["self-dealing"]).stdout
    assert "12.5 %" in text and "53.0 %" in text
