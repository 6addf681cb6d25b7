"""Attendance: which tasks were a node's own to answer, and which it answered.

A skip counts as a missed task of the skipped node. A late mark, which nobody can prove or refute, takes one answered task
from the relay as well, and ends the session when there are many. A node that does not show itself for some
heights after a mark is away: the marks are the relay's no longer, and further ones cost nobody anything. So an outage
costs relays nothing in the end, and slander costs its author what it takes from others.
Invariant: no mark against a node that shows itself in time is ever free.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger import nodes
from paceline.ledger.sessions import Session, end_session
from paceline.ledger.state import State, Table
from paceline.protocol.messages import BUSY, LATE, Skip, Voucher
from paceline.protocol.params import NetworkParams

MARKED: Table[int] = Table("attendance/marked", int)
"""Height of the first late mark against a node since it last showed itself."""
BLAMED: Table[int] = Table("attendance/blamed", int)
"""Late marks since then by node and relay."""


def is_away(state: State, params: NetworkParams, address: bytes) -> bool:
    """True for a node that did not show itself after it was marked late."""
    since = MARKED.get(state, address)
    return since is not None and state.height - since >= params.tasks.away_blocks


def is_marked(state: State, address: bytes) -> bool:
    """True for a node that has to show itself."""
    return MARKED.get(state, address) is not None


def is_eligible(state: State, params: NetworkParams, epoch: int, address: bytes) -> bool:
    """True for a node that is neither away nor guilty."""
    node = nodes.NODES.get(state, address)
    return node is not None and not _is_guilty(node, epoch) and not is_away(state, params, address)


def note_present(state: State, params: NetworkParams, address: bytes) -> None:
    """A sign of life: an answer, a busy mark, a description."""
    if is_away(state, params, address):
        _clear_relays(state, address)
    for key, _ in BLAMED.items(state, address):
        BLAMED.delete(state, key)
    MARKED.delete(state, address)


def note_answer(state: State, params: NetworkParams, address: bytes, count: int = 1) -> None:
    """A node answered tasks that were its own."""
    nodes.add_to_node(state, address, drawn=count, answered=count)
    note_present(state, params, address)


def apply_skips(state: State, params: NetworkParams, epoch: int, session: Session, voucher: Voucher) -> Session:
    """Count a voucher's skips; the session as it is then. Errors: InvalidTransaction too-many-late."""
    if session.late >= 2 * params.tasks.late_limit and any(skip.kind == LATE for skip in voucher.skips):
        raise InvalidTransaction("too-many-late", f"the session has {session.late} late marks")
    for skip in voucher.skips:
        if count_skip(state, params, epoch, session.relay, skip) and skip.kind == LATE:
            session = msgspec.structs.replace(session, late=session.late + 1)
    if session.late >= params.tasks.late_limit:
        end_session(state, voucher.session, session)
        session = msgspec.structs.replace(session, expires_at=min(session.expires_at, state.height))
    return session


def count_skip(state: State, params: NetworkParams, epoch: int, relay: bytes, skip: Skip) -> bool:
    """Count one signed skip; False for a mark that costs nobody anything."""
    if not _counts(state, params, epoch, skip):
        return False
    nodes.add_to_node(state, skip.node, drawn=1)
    if skip.kind == BUSY:
        note_present(state, params, skip.node)
    else:
        _count_late(state, relay, skip.node)
    return True


def end_epoch(state: State, params: NetworkParams) -> None:
    """Before an epoch settles: marks against who is away are nobody's fault but its own."""
    for address, _ in MARKED.items(state):
        if is_away(state, params, address):
            _clear_relays(state, address)
    for key, _ in BLAMED.items(state):
        BLAMED.delete(state, key)


def _counts(state: State, params: NetworkParams, epoch: int, skip: Skip) -> bool:
    node = nodes.NODES.get(state, skip.node)
    if node is None:
        return False
    # A relay passes by who is guilty; the mark may reach the ledger an epoch later.
    return not _is_guilty(node, epoch) and (skip.kind == BUSY or not is_away(state, params, skip.node))


def _is_guilty(node: nodes.Node, epoch: int) -> bool:
    return node.guilty >= 0 and node.guilty >= epoch - 1


def _count_late(state: State, relay: bytes, address: bytes) -> None:
    if MARKED.get(state, address) is None:
        MARKED.put(state, address, state.height)
    if nodes.NODES.get(state, relay) is not None:
        nodes.add_to_node(state, relay, marks=1)
        key = address + relay
        BLAMED.put(state, key, (BLAMED.get(state, key) or 0) + 1)


def _clear_relays(state: State, address: bytes) -> None:
    for key, marks in BLAMED.items(state, address):
        relay = key[len(address) :]
        if nodes.NODES.get(state, relay) is not None:
            nodes.add_to_node(state, relay, marks=-marks)
