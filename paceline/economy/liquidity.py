"""The liquidity pool: coins in tranches of rising price, and hosts who give earned coins back at the last price.

It counts two sides, coins for sale and the stable balance that buyers brought, and knows no accounts.
Invariants: the price never falls; coins sold minus coins redeemed leave the pool, and the balance is exactly what buyers paid
minus what redeemers got; every rounding favours the pool, so buying and redeeming in turns never gains.

Source: seed 001, Appendix E; SPEC section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.errors import Invalid
from paceline.base.integers import mul_div_floor
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.protocol.codec import Record
from paceline.protocol.params import NICOIN_PER_COIN

TRANCHES = 10
TRANCHE = LIQUIDITY_POOL // TRANCHES
FIRST_PRICE = 5_000
"""Micro-dollars a coin."""


class Pool(Record, frozen=True, kw_only=True):
    """Both sides. Units: nicoin; micro-dollars of the stable asset; `sold` never counts redeemed coins twice."""

    sold: int = 0
    """Coins that left a tranche for the first time: they decide the price."""
    returned: int = 0
    """Redeemed coins that wait for the next buyer."""
    balance: int = 0


@dataclass(frozen=True, kw_only=True)
class Trade:
    """What moves. Units: nicoin; micro-dollars, in (bought) or out (redeemed)."""

    coins: int
    dollars: int
    pool: Pool


def get_price(pool: Pool) -> int:
    """Micro-dollars a coin: that of the tranche on sale, or of the last one, once all are sold."""
    return FIRST_PRICE << min(TRANCHES - 1, pool.sold // TRANCHE)


def compute_last_price(pool: Pool) -> int:
    """Micro-dollars a coin at which the last coin was sold: the price of a redemption; 0 before the first sale."""
    return FIRST_PRICE << ((pool.sold - 1) // TRANCHE) if pool.sold else 0


def compute_coverage_ppm(pool: Pool, outstanding: int) -> int:
    """Share of so many redeemable nicoin that the balance could pay for now, at most all of it."""
    owed = mul_div_floor(outstanding, compute_last_price(pool), NICOIN_PER_COIN)
    return 1_000_000 if owed <= pool.balance else mul_div_floor(pool.balance, 1_000_000, owed)


def buy(pool: Pool, coins: int) -> Trade:
    """Sell so many nicoin: returned ones first, at the last price, then tranche after tranche.

    Errors: Invalid sold-out or bad-amount.
    """
    _require_positive(coins)
    if coins > pool.returned + LIQUIDITY_POOL - pool.sold:
        raise Invalid("sold-out", f"the pool has {pool.returned + LIQUIDITY_POOL - pool.sold} nicoin left")
    again = min(coins, pool.returned)
    dollars = _ceil_value(again, compute_last_price(pool))
    sold, left = pool.sold, coins - again
    while left:
        part = min(left, TRANCHE - sold % TRANCHE)
        dollars += _ceil_value(part, FIRST_PRICE << (sold // TRANCHE))
        sold, left = sold + part, left - part
    return Trade(
        coins=coins,
        dollars=dollars,
        pool=Pool(sold=sold, returned=pool.returned - again, balance=pool.balance + dollars),
    )


def redeem(pool: Pool, coins: int) -> Trade:
    """Take earned nicoin back at the last price, while the balance lasts.

    Errors: Invalid never-sold, uncovered or bad-amount. Whether the coins were earned is the caller's to know.
    """
    _require_positive(coins)
    price = compute_last_price(pool)
    if not price:
        raise Invalid("never-sold", "the pool has sold nothing yet, so it has nothing to pay with")
    dollars = mul_div_floor(coins, price, NICOIN_PER_COIN)
    if dollars > pool.balance:
        most = mul_div_floor(pool.balance, NICOIN_PER_COIN, price)
        raise Invalid("uncovered", f"the balance pays for {most} nicoin at most")
    return Trade(
        coins=coins,
        dollars=dollars,
        pool=Pool(sold=pool.sold, returned=pool.returned + coins, balance=pool.balance - dollars),
    )


def _ceil_value(coins: int, price: int) -> int:
    return -(-coins * price // NICOIN_PER_COIN)


def _require_positive(coins: int) -> None:
    if coins <= 0:
        raise Invalid("bad-amount", f"{coins} nicoin: at least 1 is needed")
