"""What a transaction would do if it were in the next block: the ledger's own word, and the coins that it would move.

Coins, dollars and the other test assets are shown apart. It runs on a view of the committed state, whose writes go nowhere. What
else the block holds is not known to it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger import nodes
from paceline.ledger.accounts import ACCOUNTS, POOLS, get_account
from paceline.ledger.admission import Admitted
from paceline.ledger.application import Application, Result
from paceline.ledger.asset import BALANCES, get_balance
from paceline.ledger.state import State
from paceline.protocol.assets import QUOTED, TUSD
from paceline.protocol.transactions import decode_transaction


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose balance changes. Units: nicoin or the smallest of an asset, negative for what it pays."""

    account: str
    """A pool's or a node's name, or an address in hex digits."""
    change: int


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The code with which a transaction would end, "ok" or the rule that it breaks; then nothing moves."""

    code: str
    message: str
    moves: list[Move] = []
    dollars: list[Move] = []
    assets: dict[str, list[Move]] = {}
    """Of the other test assets, by name; those that move."""


def try_transaction(application: Application, data: bytes) -> Trial:
    """Execute a signed transaction on a view of the next height."""
    return _try(application, lambda after: application.deliver(after, data))


def try_draft(application: Application, data: bytes) -> Trial:
    """The same for one whose signatures are not all there: it is tried as if they were. Errors: InvalidTransaction."""
    envelope, body = decode_transaction(data)
    if body.chain_id != application.chain_id:
        raise InvalidTransaction("wrong-chain", f"signed for {body.chain_id}, this is {application.chain_id}")
    return _try(application, lambda after: application.deliver_admitted(after, Admitted(data, envelope, body)))


def _try(application: Application, deliver: Callable[[State], Result]) -> Trial:
    before, after = application.read(), application.read()
    after.height += 1
    result = deliver(after)
    if result.code != "ok":
        return Trial(code=result.code, message=result.message)
    names = {address: name for name, address in POOLS.items()}
    names.update({address: node.name for address, node in nodes.NODES.items(before)})
    assets = {asset: _list_moves(_find_changes(before, after, asset), names) for asset in QUOTED}
    return Trial(
        code="ok",
        message="",
        moves=_list_moves(
            {address: _change_coins(before, after, address) for address in ACCOUNTS.list_written(after)}, names
        ),
        dollars=_list_moves(_find_changes(before, after, TUSD), names),
        assets={asset: moves for asset, moves in assets.items() if moves},
    )


def _change_coins(before: State, after: State, address: bytes) -> int:
    return get_account(after, address).balance - get_account(before, address).balance


def _find_changes(before: State, after: State, asset: str) -> dict[bytes, int]:
    written = BALANCES[asset].list_written(after)
    return {address: get_balance(after, asset, address) - get_balance(before, asset, address) for address in written}


def _list_moves(changes: dict[bytes, int], names: dict[bytes, str]) -> list[Move]:
    moves = [Move(account=names.get(a, a.hex()), change=change) for a, change in changes.items() if change]
    return sorted(moves, key=lambda move: (move.change, move.account))
