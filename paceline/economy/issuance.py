"""How many coins of the core reserve an epoch issues: by fees through twelve batches, and never less than the floor.

A batch of 50 million coins matches each coin of fees with s/(1-s) new ones; s begins at nine tenths and falls by a fifth
from batch to batch. All of it is exact fractions: amounts are rounded once, at the end, and what rounding leaves is carried.
It knows amounts only, no accounts and no heights but those that say how old the network is.
Invariant: the twelve batches together issue the reserve to the unit, whatever the sequence of fees.

Source: seed 001, Appendix F; SPEC section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from paceline.base.integers import PPM, mul_div_floor
from paceline.economy.supply import CORE_RESERVE, compute_floor_issuance
from paceline.protocol.codec import Record
from paceline.protocol.params import NICOIN_PER_COIN

BATCHES = 12
BATCH = CORE_RESERVE // BATCHES
FIRST_SUBSIDY = (9, 10)
USUAL_REDUCTION_PPM = 200_000
MAX_DENOMINATOR = 10**15
"""The usual reduction stays exact below it; other ones, voted on, round the subsidy down to it."""
MAX_FLOORS = 4
"""Fees issue at most so many times the floor of an epoch, so that asking oneself for work cannot drain a batch."""


class Issued(Record, frozen=True, kw_only=True):
    """Where issuance stands.

    Units: `total` in nicoin; `subsidy` is numerator and denominator of the current batch's subsidy; `carried` counts parts of one
    nicoin, each 1 / (denominator - numerator), that fees have earned and rounding left.
    """

    total: int = 0
    carried: int = 0
    subsidy: tuple[int, int] = FIRST_SUBSIDY

    @property
    def batch(self) -> int:
        """1 to 12; 13 once everything is issued."""
        return self.total // BATCH + 1

    @property
    def left_in_batch(self) -> int:
        """Nicoin until the subsidy falls; 0 once everything is issued."""
        return 0 if self.total >= CORE_RESERVE else BATCH - self.total % BATCH


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What decides an epoch's issuance. Units: nicoin, blocks; the reduction applies at batch edges in this epoch."""

    fees: int
    """Paid for work that was assigned by a draw."""
    reserve: int = CORE_RESERVE
    """What the core reserve holds: the plan never promises more."""
    worked: bool
    first_height: int
    epoch_blocks: int
    blocks_per_day: int
    reduction_ppm: int = USUAL_REDUCTION_PPM


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One row of the plan. Units: nicoin, rounded half up; `subsidy_ppm` is for display, nothing is computed from it."""

    number: int
    subsidy_ppm: int
    coins: int
    developer_fees: int
    paid_to_hosts: int
    to_training_fund: int

    @property
    def net_to_hosts(self) -> int:
        """What hosts keep after the fund's share."""
        return self.paid_to_hosts - self.to_training_fund


def compute_issuance(issued: Issued, epoch: Epoch) -> tuple[int, Issued]:
    """Nicoin that an epoch issues, and where issuance stands then.

    The larger of what fees earn (at most `MAX_FLOORS` floors) and the floor. Without work nothing is issued or carried; an
    empty reserve issues nothing.
    """
    if not epoch.worked or issued.total >= CORE_RESERVE:
        return 0, issued
    reserve = min(epoch.reserve, CORE_RESERVE - issued.total)
    floor = compute_floor_issuance(epoch.first_height, epoch.epoch_blocks, epoch.blocks_per_day, reserve)
    earned, by_fees = match_fees(issued, epoch.fees, epoch.reduction_ppm, min(MAX_FLOORS * floor, reserve))
    if earned >= floor:
        return earned, by_fees
    return floor, _advance(issued, floor, epoch.reduction_ppm)


def match_fees(issued: Issued, fees: int, reduction_ppm: int, most: int) -> tuple[int, Issued]:
    """Nicoin that fees issue through as many batches as they reach, at most `most`.

    Fees that the cap leaves unmatched are lost for issuance, not for their receivers. A batch edge splits fees exactly.
    """
    now, number, over = issued, fees, 1
    while now.total < CORE_RESERVE:
        share, gap = now.subsidy[0], now.subsidy[1] - now.subsidy[0]
        # number / over is what is left of the fees; everything stands over one denominator.
        value, unit = number * share + now.carried * over, over * gap
        room, left = most - (now.total - issued.total), now.left_in_batch
        coins = min(value // unit, room)
        if coins < left:
            carried = 0 if coins == room else (value - coins * unit) // over
            now = Issued(total=now.total + coins, carried=carried, subsidy=now.subsidy)
            break
        number, over = value - left * unit, over * share
        now = _enter_next(now, reduction_ppm)
    return now.total - issued.total, now


def compute_batch(number: int, fund_ppm: int) -> Batch:
    """Row `number` (1 to 12) of the plan with the usual reduction. Source: seed 001, Appendix F."""
    assert 1 <= number <= BATCHES
    share, whole = FIRST_SUBSIDY[0] * 4 ** (number - 1), FIRST_SUBSIDY[1] * 5 ** (number - 1)
    fees = round_half_up(BATCH * (whole - share), share)
    paid = round_half_up(BATCH * whole, share)
    return Batch(
        number=number,
        subsidy_ppm=round_half_up(PPM * share, whole),
        coins=BATCH,
        developer_fees=fees,
        paid_to_hosts=paid,
        to_training_fund=round_half_up(BATCH * whole * fund_ppm, share * PPM),
    )


def compute_break_even_ppm(subsidy: tuple[int, int], fund_ppm: int) -> int:
    """Share of all work below which asking one's own nodes loses money: (1 - s) / (1 - fund), rounded down.

    Of each coin of fees, the asker's own nodes get back their share of the coin and of what it issues, after the fund.
    Source: SPEC section 3.
    """
    share, whole = subsidy
    return min(PPM, mul_div_floor(PPM * (whole - share), PPM, whole * (PPM - fund_ppm)))


def to_coins(nicoin: int) -> int:
    """Whole coins, half up."""
    return round_half_up(nicoin, NICOIN_PER_COIN)


def round_half_up(numerator: int, denominator: int) -> int:
    """The nearest integer to a fraction that is not negative."""
    assert numerator >= 0 and denominator > 0
    return (2 * numerator + denominator) // (2 * denominator)


def _advance(issued: Issued, coins: int, reduction_ppm: int) -> Issued:
    """Issue so many without fees. The carried part of one nicoin goes with its batch."""
    now = issued
    while coins >= now.left_in_batch > 0:
        coins -= now.left_in_batch
        now = _enter_next(now, reduction_ppm)
    return Issued(total=now.total + coins, carried=now.carried, subsidy=now.subsidy)


def _enter_next(now: Issued, reduction_ppm: int) -> Issued:
    share, whole = now.subsidy[0] * (PPM - reduction_ppm), now.subsidy[1] * PPM
    divisor = gcd(share, whole)
    share, whole = share // divisor, whole // divisor
    if whole > MAX_DENOMINATOR:
        share, whole = max(1, share * MAX_DENOMINATOR // whole), MAX_DENOMINATOR
    return Issued(total=now.total + now.left_in_batch, subsidy=(share, whole))
