"""What a coalition gains by asking its own nodes for work: it pays the fees, and gets back its share of them and of new coins.

Executors are drawn by weight and new coins are shared by weight, so a coalition can only raise what everybody gets. It is
computed with the issuance that the ledger runs, for one day in which nobody else asks: the best day for a coalition.
It knows amounts and shares of weight. Units: nicoin a day, shares in millionths.

Source: SPEC section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.integers import PPM, mul_div_floor
from paceline.economy.issuance import (
    BATCH,
    BATCHES,
    FIRST_SUBSIDY,
    MAX_FLOORS,
    Epoch,
    Issued,
    compute_break_even_ppm,
    compute_issuance,
)
from paceline.economy.supply import DAILY_FLOOR, DAYS_PER_YEAR


@dataclass(frozen=True, kw_only=True)
class SelfDealing:
    """One batch. Units: millionths of all weight; nicoin."""

    batch: int
    break_even_ppm: int
    """Below it each coin of fees brings back less than a coin, even where work costs nothing."""
    daily_break_even_ppm: int
    """Below it no day of self-dealing gains: the floor, which comes anyway, has to be passed first."""
    fees: int
    """What the most profitable day costs: as many fees as the cap on an epoch's issuance matches."""


def compute_self_dealing(batch: int, fund_ppm: int) -> SelfDealing:
    """Break-even shares of a batch, for its year-one floor."""
    fees = _compute_capping_fees(batch)
    low, high = 0, PPM
    while low < high:
        middle = (low + high) // 2
        if compute_gain(batch, fund_ppm, middle, fees) > 0:
            high = middle
        else:
            low = middle + 1
    subsidy = _open_batch(batch).subsidy
    return SelfDealing(
        batch=batch,
        break_even_ppm=compute_break_even_ppm(subsidy, fund_ppm),
        daily_break_even_ppm=low,
        fees=fees,
    )


def compute_gain(batch: int, fund_ppm: int, weight_ppm: int, fees: int, cost_ppm: int = 0) -> int:
    """Nicoin that a day of asking oneself brings a coalition beyond an idle day; negative when it loses.

    `cost_ppm` is what work costs of its fee: 0 for stolen or idle machines, all of it where prices are at cost.
    """
    kept_ppm = mul_div_floor(weight_ppm, PPM - fund_ppm, PPM)
    returned = mul_div_floor(fees + _issue(batch, fees) - _issue(batch, 0), kept_ppm, PPM)
    work = mul_div_floor(mul_div_floor(fees, weight_ppm, PPM), cost_ppm, PPM)
    return returned - fees - work


def compute_most_gain(batch: int, fund_ppm: int, weight_ppm: int, cost_ppm: int) -> int:
    """The most that a day brings, 0 when the best is not to ask oneself: gains bend only at the floor and at the cap."""
    return max(0, compute_gain(batch, fund_ppm, weight_ppm, _compute_capping_fees(batch), cost_ppm))


def _issue(batch: int, fees: int) -> int:
    coins, _ = compute_issuance(
        _open_batch(batch),
        Epoch(fees=fees, worked=True, first_height=1, epoch_blocks=DAYS_PER_YEAR, blocks_per_day=DAYS_PER_YEAR),
    )
    return coins


def _open_batch(batch: int) -> Issued:
    assert 1 <= batch <= BATCHES
    share, whole = FIRST_SUBSIDY[0] * 4 ** (batch - 1), FIRST_SUBSIDY[1] * 5 ** (batch - 1)
    return Issued(total=(batch - 1) * BATCH, subsidy=(share, whole))


def _compute_capping_fees(batch: int) -> int:
    share, whole = _open_batch(batch).subsidy
    return -(-MAX_FLOORS * DAILY_FLOOR * (whole - share) // share)
