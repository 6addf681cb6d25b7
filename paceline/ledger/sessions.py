"""Sessions: an escrow that pays for many requests, and the public draw of who answers each of them.

The escrow is final before the beacon value that draws, so nobody can choose who is drawn: task id = H(session, index),
order of executors = draw by Race weight from (beacon, task id). What becomes of each index is the business of `indices`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from paceline.base.draws import derive_seed, draw_order
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, nodes, prices
from paceline.ledger.accounts import SESSION_ESCROW, move_coins
from paceline.ledger.state import State, Table
from paceline.protocol.channels import OpenChannel
from paceline.protocol.codec import Record
from paceline.protocol.messages import CloseSession
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NetworkParams

ID_BYTES = 16
GRACE_BLOCKS = 64
"""Receipts are still taken this long after a session's last height for requests; then the rest is returned."""


class Session(Record, frozen=True):
    """An escrow for up to `max_tasks` tasks through one relay. `seed` is empty until the beacon has drawn it."""

    owner: bytes
    owner_key: bytes
    relay: bytes
    model: str
    token_price: int
    """Nicoin a token, as it was when the session was opened."""
    left: int
    max_tasks: int
    expires_at: int
    round_index: int
    seed: bytes = b""
    version: int = 0
    """Snapshot of weights that its draws use."""
    drawn_at: int = 0
    """Height at which it got its seed; who changes what it serves later is left out of its draws."""
    deposit: int = 0
    freed: int = 0
    """What receipts left of the maximum costs of their vouchers, less what unused indices paid."""
    next_index: int = 0
    """One above the highest index with a receipt."""
    late: int = 0
    """Late marks of its vouchers that count."""
    accuser: bytes = b""
    """Who proved that its owner contradicted itself; the deposit is forfeited then."""


class Drawn(Protocol):
    """What a draw of executors rests on."""

    @property
    def seed(self) -> bytes: ...

    @property
    def version(self) -> int: ...

    @property
    def drawn_at(self) -> int: ...

    @property
    def relay(self) -> bytes: ...

    @property
    def model(self) -> str: ...


SESSIONS: Table[Session] = Table("sessions/by-id", Session)
DRAWING: Table[int] = Table("sessions/drawing", int)
EXPIRY: Table[int] = Table("sessions/expiry", int)


def compute_session_id(owner: bytes, transaction_hash: bytes) -> bytes:
    """16 bytes that name the session a transaction opens."""
    return hash_parts("session", owner, transaction_hash)[:ID_BYTES]


def compute_task_id(session: bytes, index: int) -> bytes:
    """32 bytes that name one request of a session."""
    return hash_parts("task", session, index.to_bytes(8, "big"))


def derive_executors(
    seed: bytes, weights: dict[bytes, int], serving: list[bytes], relay: bytes, task: bytes
) -> list[bytes]:
    """Who answers a task, first choice first: drawn by Race weight among the nodes that serve, the relay left out."""
    able = {address: weights.get(address, 0) for address in serving if address != relay}
    return draw_order(derive_seed(seed, "executor", task), able)


def get_executors(state: State, session: Drawn, task: bytes) -> list[bytes]:
    """The drawn order of a session's task, from the snapshot that the session is bound to."""
    serving = [
        address
        for address, node in nodes.NODES.items(state)
        if session.model in node.serves and node.serves_since <= session.drawn_at
    ]
    weights = nodes.get_weights_at(state, session.version)
    return derive_executors(session.seed, weights, serving, session.relay, task)


def apply_open(
    state: State, params: NetworkParams, sender: bytes, key: bytes, transaction_hash: bytes, message: OpenSession
) -> None:
    """Take the deposit into escrow and ask the beacon for the session's seed."""
    price = require_open(state, params, message)
    move_coins(state, sender, SESSION_ESCROW, message.deposit)
    expires_at = state.height + params.session_blocks
    session_id = compute_session_id(sender, transaction_hash)
    session = Session(
        owner=sender,
        owner_key=key,
        relay=message.relay,
        model=message.model,
        token_price=price,
        left=message.deposit,
        deposit=message.deposit,
        max_tasks=params.session_tasks,
        expires_at=expires_at,
        round_index=beacon.request_round(state),
    )
    SESSIONS.put(state, session_id, session)
    DRAWING.put(state, session_id, session.round_index)
    EXPIRY.put(state, (expires_at + GRACE_BLOCKS).to_bytes(8, "big") + session_id, 0)
    state.emit("session-open", session=session_id.hex(), owner=sender.hex(), deposit=message.deposit)


def require_open(state: State, params: NetworkParams, message: OpenSession | OpenChannel) -> int:
    """What relay, model and deposit must be before an escrow opens; nicoin a token in it, to its end.

    Errors: InvalidTransaction unknown-relay, blamed-relay, unknown-model, price-moved, small-deposit.
    """
    relay = nodes.NODES.get(state, message.relay)
    if relay is None:
        raise InvalidTransaction("unknown-relay", "the relay is not a node of this network")
    if relay.marks > relay.answered + params.tasks.late_credit:
        raise InvalidTransaction("blamed-relay", f"the relay called others late {relay.marks} times in this epoch")
    if not nodes.is_served(state, message.model):
        raise InvalidTransaction("unknown-model", f"no node serves {message.model}")
    price = prices.get_token_price(state, params, message.model)
    if price > message.most_token_price:
        raise InvalidTransaction(
            "price-moved",
            f"a token costs {price} nicoin, {message.most_token_price} is the limit; look at the price and open again",
        )
    if message.deposit < price:
        raise InvalidTransaction("small-deposit", f"the deposit must pay for one token ({price} nicoin)")
    return price


def apply_close(state: State, sender: bytes, message: CloseSession) -> None:
    """The owner ends a session: no further requests; what is left returns after the grace for receipts."""
    session = SESSIONS.get(state, message.session)
    if session is None or session.owner != sender:
        raise InvalidTransaction("unknown-session", "no open session of this account has this id")
    if session.expires_at <= state.height:
        raise InvalidTransaction("already-closed", "the session has ended")
    end_session(state, message.session, session)


def end_session(state: State, session_id: bytes, session: Session) -> None:
    """No further requests from now on; receipts are taken for the grace."""
    if session.expires_at <= state.height:
        SESSIONS.put(state, session_id, session)
        return
    EXPIRY.delete(state, (session.expires_at + GRACE_BLOCKS).to_bytes(8, "big") + session_id)
    SESSIONS.put(state, session_id, msgspec.structs.replace(session, expires_at=state.height))
    EXPIRY.put(state, (state.height + GRACE_BLOCKS).to_bytes(8, "big") + session_id, 0)


def end_block(state: State) -> None:
    """Give seeds to sessions whose beacon round is finished."""
    for session_id, round_index in DRAWING.items(state):
        seed = beacon.derive_at(state, round_index, "session", session_id)
        session = SESSIONS.get(state, session_id)
        if seed is not None and session is not None:
            version = nodes.get_version(state)
            drawn = msgspec.structs.replace(session, seed=seed, version=version, drawn_at=state.height)
            SESSIONS.put(state, session_id, drawn)
            DRAWING.delete(state, session_id)
            state.emit("session-ready", session=session_id.hex())
