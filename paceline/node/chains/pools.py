"""Where the liquidity pool stands and what a trade with it would move, for people. All assets in it are test assets.

A quote executes the trade on a copy of the state, fee included, so it cannot differ from what a block would do with it now.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.economy.liquidity import (
    buy,
    compute_coverage_ppm,
    compute_last_price,
    compute_total_worth,
    get_price,
    redeem,
)
from paceline.economy.quotes import DOLLAR, Rate, compute_worth
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.ledger import earnings, liquidity, quotes
from paceline.ledger.accounts import LIQUIDITY, RESERVE, get_account, move_coins
from paceline.ledger.asset import BALANCES, compute_outstanding, get_balance, get_dollars
from paceline.ledger.state import State
from paceline.protocol.assets import QUOTED, TUSD
from paceline.protocol.params import NetworkParams
from paceline.protocol.pools import BuyCoins, RedeemCoins

Side = Literal["buy", "redeem"]
NO_LIMIT = 10**18


class AssetLine(msgspec.Struct, frozen=True, kw_only=True):
    """A test asset by place, and what it counts for. Units: its smallest; micro-dollars, and micro-dollars a whole one for quotes."""

    asset: str
    pool: int
    accounts: int
    """In all accounts together."""
    quote: int
    """In force; 0 when there is none, and the pool does not take the asset."""
    buy_quote: int
    """The worst for a buyer of the quote in force, the one before and the coming one."""
    redeem_quote: int
    """The worst for a redeemer."""
    epoch: int
    """In which the quote is in force."""
    height: int
    """At which it was recorded."""
    worth: int
    """Of what the pool holds, at the quote in force."""


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What an account holds. Units: nicoin, micro-dollars; nicoin that it could redeem; smallest units of the other assets."""

    coins: int
    dollars: int
    redeemable: int
    assets: dict[str, int] = {}


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
    """Share of them that all assets together pay for at the last price, each at its quote in force."""
    worth: int = 0
    """Micro-dollars that all assets count for at these quotes."""
    assets: list[AssetLine] = []
    asset: str = f"{', '.join(BALANCES)}: test assets without value"
    asset_outstanding: int
    account: Holding


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a trade moves if nothing else comes first. Units: nicoin, the asset's smallest, micro-dollars, micro-dollars a coin."""

    side: Side
    coins: int
    asset: str
    amount: int
    """Of the asset: what is paid, or what comes out."""
    dollars: int
    """Price of the coins."""
    quote: int
    """At which the asset counts here."""
    fee: int
    before: Holding
    after: Holding
    price_after: int
    last_price_after: int
    balance_after: int


def build_pool_status(state: State, account: bytes) -> PoolStatus:
    """Read it all from committed state."""
    pool, redeemable = liquidity.get_pool(state), earnings.compute_redeemable(state)
    rates = quotes.list_rates(state)
    return PoolStatus(
        height=state.height,
        price=get_price(pool),
        last_price=compute_last_price(pool),
        sold=pool.sold,
        returned=pool.returned,
        left=LIQUIDITY_POOL - pool.sold + pool.returned,
        balance=pool.balance,
        redeemable=redeemable,
        coverage_ppm=compute_coverage_ppm(pool, redeemable, rates),
        worth=compute_total_worth(pool, rates),
        assets=[_describe_asset(state, asset) for asset in BALANCES],
        asset_outstanding=compute_outstanding(state),
        account=_get_holding(state, account),
    )


def build_quote(state: State, params: NetworkParams, side: Side, account: bytes, coins: int, asset: str) -> Quote:
    """Try a trade. Errors: InvalidTransaction with the code that a block would refuse it with."""
    tried = state.branch()
    before = _get_holding(state, account)
    move_coins(tried, account, RESERVE, params.transfer_fee)
    if side == "buy":
        liquidity.apply_buy(tried, params, account, BuyCoins(coins, NO_LIMIT, asset))
    else:
        liquidity.apply_redeem(tried, params, account, RedeemCoins(coins, 0, asset))
    pays, paid = quotes.compute_rates(state, asset)
    rate = pays if side == "buy" else paid
    trade = liquidity.quote(state, params, buy if side == "buy" else redeem, coins, rate)
    pool = liquidity.get_pool(tried)
    return Quote(
        side=side,
        coins=coins,
        asset=asset,
        amount=trade.amount,
        dollars=trade.dollars,
        quote=rate.quote,
        fee=params.transfer_fee,
        before=before,
        after=_get_holding(tried, account),
        price_after=get_price(pool),
        last_price_after=compute_last_price(pool),
        balance_after=get_balance(tried, asset, LIQUIDITY),
    )


def _describe_asset(state: State, asset: str) -> AssetLine:
    held = get_balance(state, asset, LIQUIDITY)
    quote = quotes.get_quote(state, asset)
    known = asset == TUSD or quote is not None
    pays, paid = quotes.compute_rates(state, asset) if known else (None, None)
    now = quote.now if quote else DOLLAR.quote if asset == TUSD else 0
    return AssetLine(
        asset=asset,
        pool=held,
        accounts=compute_outstanding(state, asset) - held,
        quote=now,
        buy_quote=pays.quote if pays else 0,
        redeem_quote=paid.quote if paid else 0,
        epoch=quote.epoch if quote else 0,
        height=quote.height if quote else 0,
        worth=compute_worth(held, Rate(asset=asset, quote=now)),
    )


def _get_holding(state: State, address: bytes) -> Holding:
    account = get_account(state, address)
    return Holding(
        coins=account.balance,
        dollars=get_dollars(state, address),
        redeemable=account.redeemable,
        assets={asset: get_balance(state, asset, address) for asset in QUOTED},
    )
