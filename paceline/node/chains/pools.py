"""Where the liquidity pool stands and what a trade with it would move, for people. All dollars are of the stable test asset.

A quote executes the trade on a copy of the state, fee included, so it cannot differ from what a block would do with it now.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.economy.denominations import DOLLARS
from paceline.economy.liquidity import compute_coverage_ppm, compute_last_price, get_price
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.ledger import earnings, liquidity
from paceline.ledger.accounts import RESERVE, get_account, move_coins
from paceline.ledger.asset import compute_outstanding, get_dollars
from paceline.ledger.state import State
from paceline.protocol.params import NetworkParams
from paceline.protocol.pools import BuyCoins, RedeemCoins

Side = Literal["buy", "redeem"]
NO_LIMIT = 10**18


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What an account holds. Units: nicoin, micro-dollars; nicoin that it could redeem."""

    coins: int
    dollars: int
    redeemable: int


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The pool as one node sees it. Units: nicoin; micro-dollars, and micro-dollars a coin for prices."""

    height: int
    price: int
    """Of the tranche on sale."""
    last_price: int
    """At which the last coin was sold: that of a redemption; 0 before the first sale."""
    sold: int
    returned: int
    left: int
    """For sale, returned ones included."""
    balance: int
    redeemable: int
    """Coins of all accounts that the pool would have to take back."""
    coverage_ppm: int
    """Share of them that the balance pays for at the last price."""
    asset: str = f"{DOLLARS}, a test asset without value"
    asset_outstanding: int
    account: Holding


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a trade moves if nothing else comes first. Units: nicoin, micro-dollars, micro-dollars a coin."""

    side: Side
    coins: int
    dollars: int
    fee: int
    before: Holding
    after: Holding
    price_after: int
    last_price_after: int
    balance_after: int


def build_pool_status(state: State, account: bytes) -> PoolStatus:
    """Read it all from committed state."""
    pool, redeemable = liquidity.get_pool(state), earnings.compute_redeemable(state)
    return PoolStatus(
        height=state.height,
        price=get_price(pool),
        last_price=compute_last_price(pool),
        sold=pool.sold,
        returned=pool.returned,
        left=LIQUIDITY_POOL - pool.sold + pool.returned,
        balance=pool.balance,
        redeemable=redeemable,
        coverage_ppm=compute_coverage_ppm(pool, redeemable),
        asset_outstanding=compute_outstanding(state),
        account=_get_holding(state, account),
    )


def build_quote(state: State, params: NetworkParams, side: Side, account: bytes, coins: int) -> Quote:
    """Try a trade. Errors: InvalidTransaction with the code that a block would refuse it with."""
    tried = state.branch()
    before = _get_holding(state, account)
    move_coins(tried, account, RESERVE, params.transfer_fee)
    if side == "buy":
        liquidity.apply_buy(tried, params, account, BuyCoins(coins, NO_LIMIT))
    else:
        liquidity.apply_redeem(tried, params, account, RedeemCoins(coins, 0))
    pool, after = liquidity.get_pool(tried), _get_holding(tried, account)
    return Quote(
        side=side,
        coins=coins,
        dollars=abs(after.dollars - before.dollars),
        fee=params.transfer_fee,
        before=before,
        after=after,
        price_after=get_price(pool),
        last_price_after=compute_last_price(pool),
        balance_after=pool.balance,
    )


def _get_holding(state: State, address: bytes) -> Holding:
    account = get_account(state, address)
    return Holding(coins=account.balance, dollars=get_dollars(state, address), redeemable=account.redeemable)
