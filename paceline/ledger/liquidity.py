"""The liquidity pool on the ledger: coins out for dollars, and coins that hosts earned back in for dollars.

The arithmetic is `economy.liquidity`; here both sides move at once, within the limit that the sender names. It knows neither
how dollars come in nor how coins are earned. Invariants: the pool's coins are those not sold plus those returned, its dollars
are exactly what buyers brought and redeemers left.
Source: seed 001, Appendix E; SPEC section 3; decision 037.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.economy.liquidity import Pool, Trade, buy, redeem
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.ledger.accounts import LIQUIDITY, get_account, move_coins
from paceline.ledger.asset import get_dollars, move_dollars
from paceline.ledger.earnings import use_redeemable
from paceline.ledger.state import State, Table
from paceline.protocol.params import NetworkParams
from paceline.protocol.pools import BuyCoins, RedeemCoins

POOL: Table[Pool] = Table("liquidity/pool", Pool)


def get_pool(state: State) -> Pool:
    """Where the pool stands."""
    return POOL.get(state) or Pool()


def quote(state: State, params: NetworkParams, side: Callable[[Pool, int], Trade], coins: int) -> Trade:
    """What buying or redeeming so many nicoin would move. `side`: `economy.liquidity.buy` or `redeem`.

    Errors: InvalidTransaction dust, sold-out, never-sold, uncovered.
    """
    if coins < params.pools.least_coins:
        raise InvalidTransaction("dust", f"{coins} nicoin: a trade has {params.pools.least_coins} at least")
    try:
        trade = side(get_pool(state), coins)
    except Invalid as problem:
        raise InvalidTransaction(problem.code, problem.message) from None
    if trade.dollars == 0:
        raise InvalidTransaction("dust", f"{coins} nicoin are worth less than a micro-dollar")
    return trade


def apply_buy(state: State, params: NetworkParams, sender: bytes, message: BuyCoins) -> None:
    """An account buys coins of the pool.

    Errors: InvalidTransaction dust, sold-out, price-moved, over-dollars.
    """
    buy_for(state, params, sender, (message.coins, message.most), sender)


def buy_for(state: State, params: NetworkParams, sender: bytes, order: tuple[int, int], to: bytes) -> None:
    """Buy nicoin for at most so many micro-dollars of the sender, and put them into an account.

    Errors: InvalidTransaction dust, sold-out, price-moved, over-dollars.
    """
    coins, most = order
    trade = quote(state, params, buy, coins)
    if trade.dollars > most:
        raise InvalidTransaction("price-moved", f"costs {trade.dollars} micro-dollars, {most} is the limit")
    move_dollars(state, sender, LIQUIDITY, trade.dollars)
    move_coins(state, LIQUIDITY, to, trade.coins)
    _close(state, "pool-bought", sender, trade)


def apply_redeem(state: State, params: NetworkParams, sender: bytes, message: RedeemCoins) -> None:
    """A host gives back coins that were issued to it, while the pool's dollars last.

    Errors: InvalidTransaction not-earned, dust, never-sold, uncovered, price-moved.
    """
    use_redeemable(state, sender, message.coins)
    trade = quote(state, params, redeem, message.coins)
    if trade.dollars < message.least:
        raise InvalidTransaction("price-moved", f"pays {trade.dollars} micro-dollars, {message.least} is the limit")
    move_coins(state, sender, LIQUIDITY, trade.coins)
    move_dollars(state, LIQUIDITY, sender, trade.dollars)
    _close(state, "pool-redeemed", sender, trade)


def find_violations(state: State) -> list[str]:
    """Sentences about what does not add up."""
    pool = get_pool(state)
    expected = {
        "coins": (get_account(state, LIQUIDITY).balance, LIQUIDITY_POOL - pool.sold + pool.returned),
        "dollars": (get_dollars(state, LIQUIDITY), pool.balance),
    }
    return [f"liquidity pool: {what}: {has}, not {due}" for what, (has, due) in expected.items() if has != due]


def _close(state: State, kind: str, sender: bytes, trade: Trade) -> None:
    POOL.put(state, b"", trade.pool)
    state.emit(kind, account=sender.hex(), coins=trade.coins, dollars=trade.dollars)
