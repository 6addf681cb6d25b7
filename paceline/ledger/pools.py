"""The coins outside the core reserve, together: what genesis sets up, what a day brings, what must add up.

It refuses to know any of the rules; they are those of founders, top hosts, the test assets, their quotes and the liquidity pool.
"""

from __future__ import annotations

from paceline.economy.supply import CORE_RESERVE, compute_floor_issuance
from paceline.ledger import asset, bridge, clock, earnings, founders, liquidity, quotes, top_hosts
from paceline.ledger.accounts import ACCOUNTS
from paceline.ledger.state import State
from paceline.protocol.genesis import Genesis
from paceline.protocol.params import NetworkParams


def apply_genesis(state: State, genesis: Genesis) -> None:
    """After the accounts. Errors: InvalidTransaction bad-genesis, bad-quote, too-many-dollars, too-many-assets."""
    founders.apply_genesis(state, genesis)
    bridge.apply_genesis(genesis)
    asset.apply_genesis(state, genesis)
    quotes.apply_genesis(state, genesis)


def end_block(state: State, params: NetworkParams) -> None:
    """After the settlement, whose weights and pay are those of this height."""
    founders.end_block(state, params)
    top_hosts.end_block(state, params)


def find_violations(state: State, params: NetworkParams) -> list[str]:
    """Sentences about what does not add up."""
    found = founders.find_violations(state) + top_hosts.find_violations(state, params)
    found += asset.find_violations(state) + bridge.find_violations(state, params)
    found += liquidity.find_violations(state) + quotes.find_violations(state)
    return found + _find_unearned(state, params)


def _find_unearned(state: State, params: NetworkParams) -> list[str]:
    """Redeemable coins beyond a balance, or beyond all floors and instalments so far."""
    found = [
        f"account {address.hex()}: {account.redeemable} redeemable of {account.balance}"
        for address, account in ACCOUNTS.items(state)
        if not 0 <= account.redeemable <= max(0, account.balance)
    ]
    marked = earnings.compute_redeemable(state) + sum(amount for _, amount in earnings.ISSUED.items(state))
    most = sum(seat.paid for seat in top_hosts.get_seats(state, params))
    for epoch in range(clock.compute_epoch(params, state.height) + 1):
        first = epoch * params.epoch_blocks + 1
        most += compute_floor_issuance(first, params.epoch_blocks, params.blocks_per_day, CORE_RESERVE)
    return found if marked <= most else [*found, f"{marked} nicoin count as issued to hosts, {most} can have been"]
