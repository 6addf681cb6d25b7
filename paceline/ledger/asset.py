"""The stable test asset, tUSD: balances in micro-dollars beside the coins, made at genesis or by a deposit only.

It stands for a stable coin of another chain and is worth nothing by itself. It knows no price and no bridge. Invariant: the
balances add up to what was minted less what was burnt; none is negative or zero.
Source: seed 001, Appendix E; decision 037.
"""

from __future__ import annotations

from paceline.base.errors import InvalidTransaction
from paceline.economy.denominations import MAX_DOLLARS
from paceline.ledger.accounts import POOLS
from paceline.ledger.state import State, Table
from paceline.protocol.genesis import Genesis
from paceline.protocol.pools import TransferAsset

BALANCES: Table[int] = Table("asset/balance", int)
"""Micro-dollars by address; pools have theirs at the address of their coins."""
MINTED: Table[int] = Table("asset/minted", int)
BURNT: Table[int] = Table("asset/burnt", int)


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Give out test balances. Errors: InvalidTransaction bad-genesis, too-many-dollars."""
    for given in genesis.test_dollars:
        if given.address in POOLS.values():
            raise InvalidTransaction("bad-genesis", "pools take dollars by their own rules only")
        mint_dollars(state, given.address, given.amount)


def get_dollars(state: State, address: bytes) -> int:
    """Micro-dollars of an account."""
    return BALANCES.get(state, address) or 0


def compute_outstanding(state: State) -> int:
    """Micro-dollars that exist here."""
    return (MINTED.get(state) or 0) - (BURNT.get(state) or 0)


def mint_dollars(state: State, to: bytes, amount: int) -> None:
    """Make dollars that came in. Errors: InvalidTransaction too-many-dollars."""
    minted = (MINTED.get(state) or 0) + amount
    if minted > MAX_DOLLARS:
        raise InvalidTransaction(
            "too-many-dollars", f"{minted} micro-dollars would have come in, {MAX_DOLLARS} at most"
        )
    MINTED.put(state, b"", minted)
    _set_dollars(state, to, get_dollars(state, to) + amount)


def burn_dollars(state: State, source: bytes, amount: int) -> None:
    """End dollars that go out. Errors: InvalidTransaction over-dollars."""
    _take_dollars(state, source, amount)
    BURNT.put(state, b"", (BURNT.get(state) or 0) + amount)


def move_dollars(state: State, source: bytes, to: bytes, amount: int) -> None:
    """Move micro-dollars between two accounts. Errors: InvalidTransaction over-dollars."""
    _take_dollars(state, source, amount)
    _set_dollars(state, to, get_dollars(state, to) + amount)


def apply_transfer(state: State, sender: bytes, message: TransferAsset) -> None:
    """An account pays another in the test asset.

    Errors: InvalidTransaction zero-amount, pool-address, over-dollars.
    """
    if message.amount == 0:
        raise InvalidTransaction("zero-amount", "amount must be at least 1 micro-dollar")
    if message.to in POOLS.values():
        raise InvalidTransaction("pool-address", "pools take dollars by their own rules only")
    move_dollars(state, sender, message.to, message.amount)


def find_violations(state: State) -> list[str]:
    """Sentences about what does not add up."""
    balances = BALANCES.items(state)
    held, due = sum(amount for _, amount in balances), compute_outstanding(state)
    found = [] if held == due else [f"test asset: accounts hold {held}, minted less burnt is {due}"]
    return found + [f"test asset: {address.hex()} holds {amount}" for address, amount in balances if amount <= 0]


def _take_dollars(state: State, source: bytes, amount: int) -> None:
    held = get_dollars(state, source)
    if held < amount:
        raise InvalidTransaction("over-dollars", f"needs {amount} micro-dollars, the account holds {held}")
    _set_dollars(state, source, held - amount)


def _set_dollars(state: State, address: bytes, amount: int) -> None:
    if amount:
        BALANCES.put(state, address, amount)
    else:
        BALANCES.delete(state, address)
