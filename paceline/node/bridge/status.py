"""Where the bridge stands, for people: what the ledger has, and what the asked node knows of the other chain."""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger.asset import compute_outstanding, get_dollars
from paceline.ledger.bridge import HEADERS, NEXT, OPEN, WITHDRAWALS
from paceline.ledger.state import State
from paceline.node.roles.bridge import BridgeRole
from paceline.protocol.params import BridgeParams

SHOWN = 8
"""Newest withdrawals in a status."""


class WithdrawalLine(msgspec.Struct, frozen=True, kw_only=True):
    """A withdrawal on the ledger. Units: micro-dollars."""

    number: int
    to: str
    amount: int
    height: int


class WatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node has read the other chain. `waiting`: blocks with deposits that it attests and that do not stand yet."""

    final: int
    next: int
    waiting: list[int]
    trouble: str


class BridgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge as one node sees it. Units: micro-dollars."""

    height: int
    chain: int
    contract: str
    attested: int
    """How many blocks stand."""
    last_attested: int | None
    open_votes: list[int]
    """Blocks that the asked node has attested and that do not stand yet."""
    outstanding: int
    """Dollars that exist here: what came in and did not go out."""
    dollars: int
    """Of the account that was asked about."""
    withdrawals: int
    newest: list[WithdrawalLine]
    watch: WatchLine | None = None
    """None where the asked node does not read the other chain, or does not run."""
    attester: str = ""
    """The asked node's key over there."""


class HeaderLine(msgspec.Struct, frozen=True, kw_only=True):
    """A block of the other chain on the ledger; empty while it does not stand."""

    number: int
    block_hash: str = ""


def build_bridge_status(state: State, bridge: BridgeParams, account: bytes, node: bytes) -> BridgeStatus:
    """Read it all from committed state. Errors: InvalidTransaction no-bridge."""
    require_bridge(bridge)
    headers = HEADERS.items(state)
    count = NEXT.get(state) or 0
    return BridgeStatus(
        height=state.height,
        chain=bridge.chain,
        contract=f"0x{bridge.contract.hex()}",
        attested=len(headers),
        last_attested=max((int.from_bytes(key, "big") for key, _ in headers), default=None),
        open_votes=list(OPEN.get(state, node) or ()),
        outstanding=compute_outstanding(state),
        dollars=get_dollars(state, account),
        withdrawals=count,
        newest=list_withdrawals(state, max(0, count - SHOWN), count),
    )


def add_node(status: BridgeStatus, role: BridgeRole | None, attester: bytes) -> BridgeStatus:
    """With what the running node knows besides."""
    watch = None
    if role is not None:
        known = role.watcher.progress
        waiting = [block.number for block in known.pending]
        watch = WatchLine(final=known.final, next=known.next, waiting=waiting, trouble=role.trouble)
    return msgspec.structs.replace(status, watch=watch, attester=f"0x{attester.hex()}" if attester else "")


def list_withdrawals(state: State, first: int, after: int) -> list[WithdrawalLine]:
    """Withdrawals by number."""
    found = []
    for number in range(first, after):
        record = WITHDRAWALS.get(state, number.to_bytes(8, "big"))
        assert record is not None
        found.append(
            WithdrawalLine(number=number, to=f"0x{record.to.hex()}", amount=record.amount, height=record.height)
        )
    return found


def find_header(state: State, number: int) -> HeaderLine:
    """What stands for a block of the other chain."""
    header = HEADERS.get(state, number.to_bytes(8, "big"))
    return HeaderLine(number=number, block_hash="" if header is None else header.block_hash.hex())


def require_bridge(bridge: BridgeParams) -> None:
    """Errors: InvalidTransaction no-bridge."""
    if not bridge.contract:
        raise InvalidTransaction("no-bridge", "this network has no bridge")
