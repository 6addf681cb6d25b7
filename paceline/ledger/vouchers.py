"""Vouchers: the place of an executor in the public draw, and the proof that an owner contradicted itself.

The drawn order is binding: whoever was drawn before the executor is named in the voucher, as busy by its own signature
or as late by the relay's. What these marks cost is the business of `attendance`.
Invariant: two honest vouchers never contradict each other, so a proof never hits an honest owner.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import verify_signature
from paceline.ledger import nodes
from paceline.ledger.sessions import SESSIONS, Session, compute_task_id, end_session, get_executors
from paceline.ledger.state import State
from paceline.protocol.messages import BUSY, ProveVouchers, Skip, Voucher


def check_place(state: State, chain_id: str, session: Session, voucher: Voucher) -> None:
    """The executor is the first in the drawn order that is not skipped, and every skip is signed.

    Errors: InvalidTransaction not-drawn, unskipped, wrong-skip, bad-skip, over-total.
    """
    order = get_executors(state, session, compute_task_id(voucher.session, voucher.index))
    if voucher.executor not in order:
        raise InvalidTransaction("not-drawn", "this node was not drawn for the task")
    if voucher.max_cost > voucher.total:
        raise InvalidTransaction(
            "over-total", f"a maximum of {voucher.max_cost} is above the sum of all, {voucher.total}"
        )
    if voucher.total > session.deposit + session.freed:
        raise InvalidTransaction("over-total", f"maximum costs of {voucher.total} are above what the deposit can pay")
    earlier = order[: order.index(voucher.executor)]
    # Who changed what it serves after the draw was in the order when the voucher was signed, and no longer is.
    named = [skip.node for skip in voucher.skips if not _has_changed(state, session, skip.node)]
    if named != earlier:
        missing = [address.hex() for address in earlier if address not in named]
        code = "unskipped" if missing else "wrong-skip"
        raise InvalidTransaction(code, f"drawn before the executor: {len(earlier)}, unaccounted: {missing[:1]}")
    for skip in voucher.skips:
        _check_skip(state, chain_id, session, voucher, skip)


def check_owner(chain_id: str, session: Session, voucher: Voucher) -> None:
    """Errors: InvalidTransaction bad-voucher."""
    if not verify_signature(session.owner_key, voucher.signed_bytes(chain_id), voucher.signature):
        raise InvalidTransaction("bad-voucher", "the voucher is not signed by the session's owner")


def are_contradictory(first: Voucher, second: Voucher) -> bool:
    """True for two vouchers of one session that no honest owner signs.

    Passing an index on to the next drawn node is honest, while the later voucher names the former executor as skipped.
    """
    if first.index == second.index:
        same_task = (first.prompt_hash, first.max_cost, first.total) == (
            second.prompt_hash,
            second.max_cost,
            second.total,
        )
        return not (same_task and (first.executor == second.executor or _passes_on(first, second)))
    low, high = sorted((first, second), key=lambda voucher: voucher.index)
    return high.total < low.total + high.max_cost


def apply_proof(state: State, chain_id: str, sender: bytes, message: ProveVouchers) -> None:
    """Anybody shows two vouchers that contradict each other: the session ends, and its rest is forfeited.

    Errors: InvalidTransaction unknown-session, already-proven, bad-voucher, no-contradiction.
    """
    session_id = message.first.session
    session = SESSIONS.get(state, session_id)
    if session is None or message.second.session != session_id:
        raise InvalidTransaction("unknown-session", "the vouchers are not of one running session")
    if session.accuser:
        raise InvalidTransaction("already-proven", "somebody proved this session's contradiction before")
    check_owner(chain_id, session, message.first)
    check_owner(chain_id, session, message.second)
    if not are_contradictory(message.first, message.second):
        raise InvalidTransaction("no-contradiction", "an honest owner may sign both")
    end_session(state, session_id, msgspec.structs.replace(session, accuser=sender))
    state.emit("session-forfeited", session=session_id.hex(), accuser=sender.hex())


def _passes_on(first: Voucher, second: Voucher) -> bool:
    return first.executor in [skip.node for skip in second.skips] or second.executor in [
        skip.node for skip in first.skips
    ]


def _has_changed(state: State, session: Session, address: bytes) -> bool:
    node = nodes.NODES.get(state, address)
    return node is None or node.serves_since > session.drawn_at


def _check_skip(state: State, chain_id: str, session: Session, voucher: Voucher, skip: Skip) -> None:
    signer = nodes.NODES.get(state, skip.node if skip.kind == BUSY else session.relay)
    if signer is None:
        # Both left after the voucher was signed: nothing is counted against anybody then.
        return
    if not session.drawn_at <= skip.height <= state.height:
        raise InvalidTransaction("bad-skip", f"height {skip.height} is not between the session's draw and now")
    text = skip.signed_bytes(chain_id, voucher.session, voucher.index)
    if not verify_signature(signer.public_key, text, skip.signature):
        raise InvalidTransaction("bad-skip", f"the {skip.kind} mark is not signed by who has to sign it")
