"""The liquidity pool: coins in tranches of rising price, and hosts who give earned coins back at the last price.

It counts coins for sale and what buyers brought, asset by asset, and knows no accounts. Prices are in dollars; another asset
counts at the rate that the caller gives. Dollars go out first: another asset is paid out only for what the dollars do not cover.
Invariants: the price never falls; coins sold minus coins redeemed leave the pool, and each balance is exactly what buyers paid
minus what redeemers got in that asset; every rounding favours the pool, so buying and redeeming in turns never gains.

Source: seed 001, Appendix E; SPEC section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from paceline.base.errors import Invalid
from paceline.base.integers import mul_div_floor
from paceline.economy.quotes import DOLLAR, Rate, compute_payment, compute_payout, compute_worth
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.protocol.assets import TBTC, TETH, TUSD
from paceline.protocol.codec import Record
from paceline.protocol.params import NICOIN_PER_COIN

TRANCHES = 10
TRANCHE = LIQUIDITY_POOL // TRANCHES
FIRST_PRICE = 5_000
"""Micro-dollars a coin."""


class Pool(Record, frozen=True, kw_only=True):
    """Both sides. Units: nicoin; micro-dollars, gwei and satoshi of the test assets; `sold` never counts redeemed coins twice."""

    sold: int = 0
    """Coins that left a tranche for the first time: they decide the price."""
    returned: int = 0
    """Redeemed coins that wait for the next buyer."""
    balance: int = 0
    """Dollars."""
    ether: int = 0
    bitcoin: int = 0


_FIELDS = {TUSD: "balance", TETH: "ether", TBTC: "bitcoin"}


@dataclass(frozen=True, kw_only=True)
class Trade:
    """What moves. Units: nicoin; the asset's smallest, in (bought) or out (redeemed); `dollars` are micro-dollars of the coins' price."""

    coins: int
    dollars: int
    asset: str
    amount: int
    pool: Pool


def get_balance(pool: Pool, asset: str) -> int:
    """Smallest units of an asset in the pool."""
    balance: int = getattr(pool, _FIELDS[asset])
    return balance


def get_price(pool: Pool) -> int:
    """Micro-dollars a coin: that of the tranche on sale, or of the last one, once all are sold."""
    return FIRST_PRICE << min(TRANCHES - 1, pool.sold // TRANCHE)


def compute_last_price(pool: Pool) -> int:
    """Micro-dollars a coin at which the last coin was sold: the price of a redemption; 0 before the first sale."""
    return FIRST_PRICE << ((pool.sold - 1) // TRANCHE) if pool.sold else 0


def compute_total_worth(pool: Pool, rates: Iterable[Rate]) -> int:
    """Micro-dollars that the pool's assets count for at these rates, the dollar's among them; one without a rate counts nothing."""
    return sum(compute_worth(get_balance(pool, rate.asset), rate) for rate in rates)


def compute_coverage_ppm(pool: Pool, outstanding: int, rates: Iterable[Rate] = (DOLLAR,)) -> int:
    """Share of so many redeemable nicoin that all assets together could pay for at these rates, at most all of it."""
    owed = mul_div_floor(outstanding, compute_last_price(pool), NICOIN_PER_COIN)
    worth = compute_total_worth(pool, rates)
    return 1_000_000 if owed <= worth else mul_div_floor(worth, 1_000_000, owed)


def buy(pool: Pool, coins: int, rate: Rate = DOLLAR) -> Trade:
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
    changed = msgspec.structs.replace(pool, sold=sold, returned=pool.returned - again)
    return _close(changed, coins, dollars, rate.asset, compute_payment(dollars, rate))


def redeem(pool: Pool, coins: int, rate: Rate = DOLLAR) -> Trade:
    """Take earned nicoin back at the last price, while the balance of the asset lasts; another than dollars where these do not.

    Errors: Invalid never-sold, dollars-first, uncovered or bad-amount. Whether the coins were earned is the caller's to know.
    """
    _require_positive(coins)
    price = compute_last_price(pool)
    if not price:
        raise Invalid("never-sold", "the pool has sold nothing yet, so it has nothing to pay with")
    dollars = mul_div_floor(coins, price, NICOIN_PER_COIN)
    if rate.asset != TUSD and dollars <= pool.balance:
        raise Invalid("dollars-first", f"the pool has {pool.balance} micro-dollars: they pay for these coins")
    amount, balance = compute_payout(dollars, rate), get_balance(pool, rate.asset)
    if amount > balance:
        most = mul_div_floor(compute_worth(balance, rate), NICOIN_PER_COIN, price)
        raise Invalid("uncovered", f"the balance of {rate.asset} pays for {most} nicoin at most")
    changed = msgspec.structs.replace(pool, returned=pool.returned + coins)
    return _close(changed, coins, dollars, rate.asset, amount, sign=-1)


def _close(pool: Pool, coins: int, dollars: int, asset: str, amount: int, sign: int = 1) -> Trade:
    balances = {_FIELDS[asset]: get_balance(pool, asset) + sign * amount}
    after = msgspec.structs.replace(pool, **balances)
    return Trade(coins=coins, dollars=dollars, asset=asset, amount=amount, pool=after)


def _ceil_value(coins: int, price: int) -> int:
    return -(-coins * price // NICOIN_PER_COIN)


def _require_positive(coins: int) -> None:
    if coins <= 0:
        raise Invalid("bad-amount", f"{coins} nicoin: at least 1 is needed")
