"""The liquidity pool on the ledger: coins out for test assets, and coins that hosts earned back in for test assets.

The arithmetic is `economy.liquidity`; here both sides move at once, within the limit that the sender names. It knows neither
how assets come in, nor how quotes are made, nor how coins are earned. Invariants: the pool's coins are those not sold plus those
returned, what it holds of each asset is exactly what buyers brought and redeemers left.
Source: seed 001, Appendix E; SPEC section 3; decision 037.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.economy.liquidity import Pool, Trade, buy, get_balance, redeem
from paceline.economy.quotes import Rate
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.ledger import asset, quotes
from paceline.ledger.accounts import LIQUIDITY, get_account, move_coins
from paceline.ledger.earnings import use_redeemable
from paceline.ledger.state import State, Table
from paceline.protocol.assets import TUSD
from paceline.protocol.params import NetworkParams
from paceline.protocol.pools import BuyCoins, RedeemCoins

POOL: Table[Pool] = Table("liquidity/pool", Pool)


def get_pool(state: State) -> Pool:
    """Where the pool stands."""
    return POOL.get(state) or Pool()


def quote(
    state: State, params: NetworkParams, side: Callable[[Pool, int, Rate], Trade], coins: int, rate: Rate
) -> Trade:
    """What buying or redeeming so many nicoin would move. `side`: `economy.liquidity.buy` or `redeem`.

    Errors: InvalidTransaction dust, sold-out, never-sold, dollars-first, uncovered.
    """
    if coins < params.pools.least_coins:
        raise InvalidTransaction("dust", f"{coins} nicoin: a trade has {params.pools.least_coins} at least")
    try:
        trade = side(get_pool(state), coins, rate)
    except Invalid as problem:
        raise InvalidTransaction(problem.code, problem.message) from None
    if trade.amount == 0:
        raise InvalidTransaction("dust", f"{coins} nicoin are worth less than the smallest unit of {rate.asset}")
    return trade


def apply_buy(state: State, params: NetworkParams, sender: bytes, message: BuyCoins) -> None:
    """An account buys coins of the pool.

    Errors: InvalidTransaction no-quote, dust, sold-out, price-moved, over-dollars, over-assets.
    """
    _buy(state, params, sender, message, sender)


def buy_for(state: State, params: NetworkParams, sender: bytes, order: tuple[int, int], to: bytes) -> None:
    """Buy nicoin for at most so many micro-dollars of the sender, and put them into an account.

    Errors: InvalidTransaction dust, sold-out, price-moved, over-dollars.
    """
    _buy(state, params, sender, BuyCoins(*order), to)


def apply_redeem(state: State, params: NetworkParams, sender: bytes, message: RedeemCoins) -> None:
    """A host gives back coins that were issued to it, while the pool's dollars last, and for another asset when they do not.

    Errors: InvalidTransaction not-earned, no-quote, dust, never-sold, dollars-first, uncovered, price-moved.
    """
    use_redeemable(state, sender, message.coins)
    _, rate = quotes.compute_rates(state, message.asset)
    trade = quote(state, params, redeem, message.coins, rate)
    if trade.amount < message.least:
        raise InvalidTransaction("price-moved", f"pays {_say(trade)}, {message.least} is the limit")
    move_coins(state, sender, LIQUIDITY, trade.coins)
    asset.move_asset(state, trade.asset, LIQUIDITY, sender, trade.amount)
    _close(state, "pool-redeemed", sender, trade)


def find_violations(state: State) -> list[str]:
    """Sentences about what does not add up."""
    pool = get_pool(state)
    expected = {name: (asset.get_balance(state, name, LIQUIDITY), get_balance(pool, name)) for name in asset.BALANCES}
    expected["coins"] = (get_account(state, LIQUIDITY).balance, LIQUIDITY_POOL - pool.sold + pool.returned)
    return [f"liquidity pool: {what}: {has}, not {due}" for what, (has, due) in expected.items() if has != due]


def _buy(state: State, params: NetworkParams, sender: bytes, order: BuyCoins, to: bytes) -> None:
    rate, _ = quotes.compute_rates(state, order.asset)
    trade = quote(state, params, buy, order.coins, rate)
    if trade.amount > order.most:
        raise InvalidTransaction("price-moved", f"costs {_say(trade)}, {order.most} is the limit")
    asset.move_asset(state, trade.asset, sender, LIQUIDITY, trade.amount)
    move_coins(state, LIQUIDITY, to, trade.coins)
    _close(state, "pool-bought", sender, trade)


def _say(trade: Trade) -> str:
    return f"{trade.amount} micro-dollars" if trade.asset == TUSD else f"{trade.amount} smallest units of {trade.asset}"


def _close(state: State, kind: str, sender: bytes, trade: Trade) -> None:
    POOL.put(state, b"", trade.pool)
    state.emit(
        kind,
        account=sender.hex(),
        coins=trade.coins,
        dollars=trade.dollars,
        asset=trade.asset,
        amount=trade.amount,
    )
