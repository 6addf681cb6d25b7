"""Dummy tasks: requests that a relay mixed in to test executors, shown to be that only after they were judged.

A session's root over prompts stands before the beacon draws it, and which of its indices may carry a dummy follows from
the relay's key and the seed: known to the relay, to nobody else until it shows a proof. So a user's request is never
passed off as a dummy, and no relay injects more than the draw. Pay of a shown dummy is undone; work, checks and guilt stay.
Invariant: what leaves held pay here goes, to the unit, to accounts that never existed, and is at most the stated share of
what the relay's tasks cost in the epoch.
Source: seed 001, section 6; decision 031.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.draws import draw_happens
from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM, mul_div_floor
from paceline.base.merkle import verify_path
from paceline.base.private_draws import Lot, compute_lot_seed, verify_lot
from paceline.ledger import nodes
from paceline.ledger.accounts import ACCOUNTS, HELD_PAY, POOLS, move_coins
from paceline.ledger.sessions import SESSIONS, compute_session_id, compute_task_id
from paceline.ledger.state import State, Table
from paceline.ledger.tasks import FINAL, TASKS, Task
from paceline.protocol.codec import Record
from paceline.protocol.dummies import LEAVES, DummyEntry, Payout, RevealDummies, compute_draw_message, compute_leaf
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NetworkParams


class Promise(Record, frozen=True):
    """What a session's dummies are held to: the root of its prompts, and the key that draws their places."""

    root: bytes
    draw_key: bytes


PROMISES: Table[Promise] = Table("dummies/promise", Promise)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Whose reveal of which session is looked at."""

    params: NetworkParams
    chain_id: str
    relay: bytes
    session: bytes
    promise: Promise


def note_session(state: State, sender: bytes, transaction_hash: bytes, message: OpenSession, epoch: int) -> None:
    """Bind a session that was opened just now to its root and to its relay's key of this epoch.

    Both are older than the seed: a key chosen later could be tried until it draws what suits.
    """
    draw_key = nodes.get_group_key(state, message.relay, epoch)
    PROMISES.put(state, compute_session_id(sender, transaction_hash), Promise(message.dummies_root, draw_key))


def is_drawn(point: bytes, params: NetworkParams) -> bool:
    """True when an index with this lot may carry a dummy."""
    return draw_happens(compute_lot_seed(point), params.dummies.rate_ppm, PPM)


def apply_reveal(state: State, params: NetworkParams, chain_id: str, sender: bytes, message: RevealDummies) -> None:
    """A relay shows dummies: each stays work and evidence, and its cost comes back to new accounts.

    Errors: InvalidTransaction unknown-session, unknown-task, not-the-relay, already-revealed, not-final, not-committed,
    not-drawn, over-share, wrong-payout, not-fresh.
    """
    promise = PROMISES.get(state, message.session)
    if promise is None:
        raise InvalidTransaction("unknown-session", "no session of this id has tasks")
    case = _Case(params=params, chain_id=chain_id, relay=sender, session=message.session, promise=promise)
    total = sum(_reveal(state, case, entry) for entry in message.entries)
    relay = nodes.NODES.get(state, sender)
    assert relay is not None, "only nodes send duties"
    most = mul_div_floor(relay.relayed, params.dummies.share_ppm, PPM)
    if relay.returned + total > most:
        raise InvalidTransaction("over-share", f"{relay.returned + total} nicoin would come back, {most} at most")
    nodes.add_to_node(state, sender, returned=total)
    _pay_out(state, total, message.payouts)
    state.emit("dummies", relay=sender.hex(), count=len(message.entries), returned=total)


def end_epoch(state: State) -> None:
    """Forget the promises of sessions that are over and settled."""
    open_sessions = {task.session: True for _, task in TASKS.items(state)}
    for session, _ in PROMISES.items(state):
        if session not in open_sessions and SESSIONS.get(state, session) is None:
            PROMISES.delete(state, session)


def _reveal(state: State, case: _Case, entry: DummyEntry) -> int:
    task_id = compute_task_id(case.session, entry.index)
    task = TASKS.get(state, task_id)
    if task is None:
        raise InvalidTransaction("unknown-task", f"index {entry.index} has no receipt, or its epoch is settled")
    if task.relay != case.relay:
        raise InvalidTransaction("not-the-relay", "only the relay of a task says that it was a dummy")
    if task.is_dummy:
        raise InvalidTransaction("already-revealed", f"index {entry.index} was shown before")
    if task.status != FINAL:
        raise InvalidTransaction("not-final", f"index {entry.index} is {task.status}")
    _check_entry(case, task, entry)
    executor = nodes.NODES.get(state, task.executor)
    if executor is not None:
        # What is no longer held is no longer lost by cheating: the check rate must know.
        nodes.add_to_node(state, task.executor, held=-min(task.cost, executor.held), dummies=1)
    TASKS.put(state, task_id, msgspec.structs.replace(task, is_dummy=True, cost=0))
    return task.cost


def _check_entry(case: _Case, task: Task, entry: DummyEntry) -> None:
    leaf = compute_leaf(task.prompt_hash, entry.salt)
    if not verify_path(case.promise.root, leaf, entry.place, LEAVES, entry.path):
        raise InvalidTransaction("not-committed", f"the prompt of index {entry.index} is not under the session's root")
    if not is_drawn(entry.point, case.params):
        raise InvalidTransaction("not-drawn", f"index {entry.index} was not drawn to carry a dummy")
    text = compute_draw_message(case.chain_id, case.session, task.seed, entry.index)
    if not verify_lot(case.promise.draw_key, text, Lot(entry.point, entry.proof)):
        raise InvalidTransaction("not-drawn", f"the draw of index {entry.index} is not that of the relay's key")


def _pay_out(state: State, total: int, payouts: tuple[Payout, ...]) -> None:
    if sum(payout.amount for payout in payouts) != total:
        raise InvalidTransaction("wrong-payout", f"the payouts do not add up to {total} nicoin")
    for payout in payouts:
        # Also false for one named twice: the first part has made it.
        known = ACCOUNTS.get(state, payout.to) is not None or nodes.NODES.get(state, payout.to) is not None
        if known or payout.to in POOLS.values():
            raise InvalidTransaction("not-fresh", f"{payout.to.hex()} is no new account")
        move_coins(state, HELD_PAY, payout.to, payout.amount)
