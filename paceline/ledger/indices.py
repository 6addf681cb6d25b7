"""The indices of a session: used in order, paid once each, never dropped for free.

An index that stays unused while later ones have receipts pays the node that was drawn for it the minimum charge, and a
drawn session pays so for its first few in any case. Otherwise a relay could pick the indices, or the sessions, whose draw
suits it. When a session ends, what is left returns to its owner, unless the owner contradicted itself.
"""

from __future__ import annotations

import msgspec

from paceline.base.integers import PPM, mul_div_floor
from paceline.ledger import attendance, nodes
from paceline.ledger.accounts import RESERVE, SESSION_ESCROW, TRAINING_FUND, move_coins
from paceline.ledger.sessions import DRAWING, EXPIRY, ID_BYTES, SESSIONS, Session, compute_task_id, get_executors
from paceline.ledger.state import State, Table
from paceline.protocol.messages import Voucher
from paceline.protocol.params import NetworkParams

PAID: Table[int] = Table("sessions/paid", int)
"""Indices that are paid, kept as long as the session: tasks themselves are deleted when their epoch settles."""
UNUSED: Table[int] = Table("sessions/unused", int)
"""Indices below a paid one that have no receipt, by the height at which they are charged."""


def is_paid(state: State, session: bytes, index: int) -> bool:
    """True when an index of a session has its receipt, or was charged for staying unused."""
    return PAID.get(state, session + index.to_bytes(4, "big")) is not None


def mark_paid(state: State, params: NetworkParams, session: Session, voucher: Voucher) -> Session:
    """Note that an index has its receipt; those below it have so long to get theirs. The session as it is then."""
    _mark(state, voucher.session, voucher.index)
    due = (state.height + params.tasks.unused_blocks).to_bytes(8, "big")
    for index in range(session.next_index, voucher.index):
        UNUSED.put(state, due + voucher.session + index.to_bytes(4, "big"), 0)
    return msgspec.structs.replace(session, next_index=max(session.next_index, voucher.index + 1))


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Charge indices that stayed unused; end sessions whose time is over."""
    for key, _ in UNUSED.scan(state):
        if int.from_bytes(key[:8], "big") > state.height:
            break
        UNUSED.delete(state, key)
        session_id, index = key[8 : 8 + ID_BYTES], int.from_bytes(key[8 + ID_BYTES :], "big")
        session = SESSIONS.get(state, session_id)
        if session is not None:
            SESSIONS.put(state, session_id, _charge_unused(state, params, epoch, session_id, session, index))
    for key, _ in EXPIRY.scan(state):
        if int.from_bytes(key[:8], "big") > state.height:
            break
        _end(state, params, epoch, key[8:])
        EXPIRY.delete(state, key)


def _end(state: State, params: NetworkParams, epoch: int, session_id: bytes) -> None:
    session = SESSIONS.get(state, session_id)
    assert session is not None
    reached = max(session.next_index, min(params.tasks.least_indices, session.max_tasks)) if session.seed else 0
    for index in range(reached):
        session = _charge_unused(state, params, epoch, session_id, session, index)
    bounty = min(params.race.bounty, session.left // 2) if session.accuser else 0
    move_coins(state, SESSION_ESCROW, session.accuser, bounty)
    move_coins(state, SESSION_ESCROW, RESERVE if session.accuser else session.owner, session.left - bounty)
    SESSIONS.delete(state, session_id)
    for paid, _ in PAID.items(state, session_id):
        PAID.delete(state, paid)
    DRAWING.delete(state, session_id)
    returned = 0 if session.accuser else session.left
    state.emit("session-closed", session=session_id.hex(), returned=returned)


def _charge_unused(
    state: State, params: NetworkParams, epoch: int, session_id: bytes, session: Session, index: int
) -> Session:
    if is_paid(state, session_id, index):
        return session
    _mark(state, session_id, index)
    charge = min(params.tasks.unused_tokens * session.token_price, session.left)
    drawn = _find_present(state, params, epoch, session, compute_task_id(session_id, index))
    if drawn is None or charge == 0:
        return session
    fund = mul_div_floor(charge, params.fund_ppm, PPM)
    move_coins(state, SESSION_ESCROW, TRAINING_FUND, fund)
    move_coins(state, SESSION_ESCROW, drawn, charge - fund)
    nodes.add_to_node(state, drawn, earned=charge - fund)
    state.emit("unused-index", session=session_id.hex(), index=index, node=drawn.hex(), charge=charge)
    return msgspec.structs.replace(session, left=session.left - charge, freed=session.freed - charge)


def _find_present(state: State, params: NetworkParams, epoch: int, session: Session, task_id: bytes) -> bytes | None:
    """The first drawn node that is neither away nor guilty."""
    order = get_executors(state, session, task_id)
    return next((address for address in order if attendance.is_eligible(state, params, epoch, address)), None)


def _mark(state: State, session: bytes, index: int) -> None:
    PAID.put(state, session + index.to_bytes(4, "big"), 0)
