"""What a coalition gains by asking its own nodes for work: it pays the fees, and gets back what it keeps of them and of new coins.

New coins are shared by weight. Executors are drawn by weight: either the coalition takes the draws as they come, or it puts
its costly requests where its own nodes are drawn; then only its share by weight of these fees issues coins (`economy.spread`).
It is computed with the issuance that the ledger runs, for one day in which nobody else asks: the best day for a coalition.
It knows amounts and shares of weight. Units: nicoin a day, shares in millionths.

Source: SPEC section 3.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import isqrt

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
    steered_break_even_ppm: int
    """The same where all of its requests go to its own nodes."""
    daily_break_even_ppm: int
    """Below it no day of self-dealing gains: the floor, which comes anyway, has to be passed first."""
    fees: int
    """What the most profitable day costs without steering: as many fees as the cap on an epoch's issuance matches."""


def compute_self_dealing(batch: int, fund_ppm: int) -> SelfDealing:
    """Break-even shares of a batch, for its year-one floor."""
    subsidy = _open_batch(batch).subsidy
    return SelfDealing(
        batch=batch,
        break_even_ppm=compute_break_even_ppm(subsidy, fund_ppm),
        steered_break_even_ppm=_compute_steered_break_even_ppm(subsidy, fund_ppm),
        daily_break_even_ppm=bisect_left(
            range(PPM), 1, key=lambda weight: compute_most_gain(batch, fund_ppm, weight, 0)
        ),
        fees=_compute_capping_fees(batch, PPM),
    )


def compute_gain(
    batch: int, fund_ppm: int, weight_ppm: int, fees: int, cost_ppm: int = 0, *, steered: bool = False
) -> int:
    """Nicoin that a day of asking oneself brings a coalition beyond an idle day; negative when it loses.

    `cost_ppm` is what work costs of its fee: 0 for stolen or idle machines, all of it where prices are at cost.
    """
    own_ppm, counted = (PPM, mul_div_floor(fees, weight_ppm, PPM)) if steered else (weight_ppm, fees)
    own = mul_div_floor(fees, own_ppm, PPM)
    issued = mul_div_floor(_issue(batch, counted) - _issue(batch, 0), weight_ppm, PPM)
    return mul_div_floor(own + issued, PPM - fund_ppm, PPM) - fees - mul_div_floor(own, cost_ppm, PPM)


def compute_most_gain(batch: int, fund_ppm: int, weight_ppm: int, cost_ppm: int) -> int:
    """The most that a day brings, 0 when the best is not to ask oneself: gains bend only at the floor and at the cap.

    How much of it is steered moves the gain on a straight line, so none of it or all of it is best.
    """
    plain = compute_gain(batch, fund_ppm, weight_ppm, _compute_capping_fees(batch, PPM), cost_ppm)
    steered = compute_gain(
        batch, fund_ppm, weight_ppm, _compute_capping_fees(batch, max(1, weight_ppm)), cost_ppm, steered=True
    )
    return max(0, plain, steered)


def _compute_steered_break_even_ppm(subsidy: tuple[int, int], fund_ppm: int) -> int:
    """Of a coin of fees the fund's share is lost, and weight * weight * s / (1 - s) of it comes back in new coins, less that share."""
    share, whole = subsidy
    return min(PPM, isqrt(PPM * PPM * fund_ppm * (whole - share) // ((PPM - fund_ppm) * share)))


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


def _compute_capping_fees(batch: int, counted_ppm: int) -> int:
    share, whole = _open_batch(batch).subsidy
    return -(-MAX_FLOORS * DAILY_FLOOR * (whole - share) * PPM // (share * counted_ppm))
