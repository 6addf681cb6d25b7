"""Coins that were issued to a host for its work: the only ones that the liquidity pool takes back.

New coins count, from the core reserve's floor and from the top hosts' reward. Fees do not, whoever earned them: a user may
have bought those coins, and who asks its own nodes would turn bought coins into earned ones. Issuance that follows fees does
not count for the same reason. What is issued may arrive later; it counts when it does, before other pay.
It knows no prices. Invariant: an account's redeemable coins are part of its balance; all of them together are no more than
the floors and the instalments so far.
Source: SPEC section 3; decision 037.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger.accounts import ACCOUNTS, get_account
from paceline.ledger.state import State, Table

ISSUED: Table[int] = Table("earnings/issued", int)
"""Nicoin that were issued to an account and have not arrived there."""


def note_issued(state: State, address: bytes, amount: int) -> None:
    """So many new coins are issued to an account for hosting, wherever they wait."""
    if amount:
        ISSUED.put(state, address, (ISSUED.get(state, address) or 0) + amount)


def note_paid(state: State, address: bytes, amount: int) -> None:
    """So many coins of its pay arrived at an account: as far as new ones were on their way, these are they."""
    waiting = ISSUED.get(state, address)
    if waiting is None:
        return
    arrived = min(waiting, amount)
    _set_waiting(state, address, waiting - arrived)
    account = get_account(state, address)
    redeemable = min(account.balance, account.redeemable + arrived)
    ACCOUNTS.put(state, address, msgspec.structs.replace(account, redeemable=redeemable))


def forget_issued(state: State, address: bytes) -> None:
    """What was on its way to an account is forfeited."""
    ISSUED.delete(state, address)


def use_redeemable(state: State, address: bytes, amount: int) -> None:
    """Count coins as redeemed, once. Errors: InvalidTransaction not-earned."""
    account = get_account(state, address)
    if amount > account.redeemable:
        raise InvalidTransaction(
            "not-earned",
            f"{account.redeemable} nicoin of this account were issued to it for hosting, {amount} are offered",
        )
    ACCOUNTS.put(state, address, msgspec.structs.replace(account, redeemable=account.redeemable - amount))


def compute_redeemable(state: State) -> int:
    """Nicoin that the pool would have to take back, if everybody asked."""
    return sum(account.redeemable for _, account in ACCOUNTS.scan(state))


def _set_waiting(state: State, address: bytes, amount: int) -> None:
    if amount:
        ISSUED.put(state, address, amount)
    else:
        ISSUED.delete(state, address)
