"""What a transaction would do if it were in the next block: the ledger's own word, and the coins that it would move.

It runs on a view of the committed state, whose writes go nowhere. What else the block holds is not known to it.
"""

from __future__ import annotations

import msgspec

from paceline.ledger import nodes
from paceline.ledger.accounts import ACCOUNTS, POOLS, get_account
from paceline.ledger.application import Application


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose balance changes. Units: nicoin, negative for what it pays."""

    account: str
    """A pool's or a node's name, or an address in hex digits."""
    change: int


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The code with which a transaction would end, "ok" or the rule that it breaks; then nothing moves."""

    code: str
    message: str
    moves: list[Move]


def try_transaction(application: Application, data: bytes) -> Trial:
    """Execute a signed transaction on a view of the next height."""
    before, after = application.read(), application.read()
    after.height += 1
    result = application.deliver(after, data)
    if result.code != "ok":
        return Trial(code=result.code, message=result.message, moves=[])
    names = {address: name for name, address in POOLS.items()}
    names.update({address: node.name for address, node in nodes.NODES.items(before)})
    moves = []
    for address in ACCOUNTS.list_written(after):
        change = get_account(after, address).balance - get_account(before, address).balance
        if change:
            moves.append(Move(account=names.get(address, address.hex()), change=change))
    return Trial(code="ok", message="", moves=sorted(moves, key=lambda move: (move.change, move.account)))
