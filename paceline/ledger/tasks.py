"""Tasks: what an executor answered, by its receipts under a session's escrow.

A receipt is committed before its checkers are drawn; the checks are the business of `checks`, the money that of
`task_pay`. Its fee waits in held pay until the epoch settles.
Source: seed 001, section 6.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.economy.pay import compute_task_cost
from paceline.ledger import attendance, beacon, indices, nodes, vouchers
from paceline.ledger.accounts import HELD_PAY, SESSION_ESCROW, move_coins
from paceline.ledger.disputes import Vote
from paceline.ledger.sessions import (
    GRACE_BLOCKS,
    SESSIONS,
    Session,
    compute_task_id,
)
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.fields import MAX_SUPPLY
from paceline.protocol.messages import ACCEPTED, REJECTED, Receipt
from paceline.protocol.params import NetworkParams
from paceline.protocol.traps import NO_SEAL

DRAWING, CHECKING, REVEALING, SHOWING, DISPUTED = "drawing", "checking", "revealing", "showing", "disputed"
FINAL, GUILTY = "final", "guilty"
UNSHOWN, PLAIN, TRAP, LIFTED = "", "plain", "trap", "lifted"
"""What an executor has shown: nothing, a task like any other, a forced error, one whose true answer is checked now."""


class Task(Record, frozen=True, kw_only=True):
    """One answered request. `drawn` are all its checkers; `votes` holds every verdict with its numbers."""

    session: bytes
    index: int
    seed: bytes
    """The session's seed, kept here because a session may end before its tasks are checked."""
    owner: bytes
    executor: bytes
    relay: bytes
    cost: int
    payload_hash: bytes
    prompt_hash: bytes
    prompt_tokens: int
    completion_tokens: int
    epoch: int
    height: int
    status: str
    round_index: int
    deadline: int = 0
    drawn: tuple[bytes, ...] = ()
    asked: tuple[bytes, ...] = ()
    """The checkers of the draw under way."""
    commitments: tuple[tuple[bytes, bytes], ...] = ()
    """Checkers of this draw that are bound to a verdict, with the hash of it."""
    reporter: bytes = b""
    """Who reported the answer, and has a fee at stake until it is settled again."""
    reported: bool = False
    votes: tuple[Vote, ...] = ()
    refunded: bool = False
    slots: int = 0
    """Checkers that it has in any case: a leaf of a channel was drawn already, this often."""
    seal: bytes = NO_SEAL
    lot_key: bytes = b""
    """The executor's group key when the receipt came: one chosen later could be tried until its lot suits."""
    shown: str = UNSHOWN
    answer_hash: bytes = b""
    """Payload of the true answer, once it was shown."""
    finders: tuple[bytes, ...] = ()
    """Checkers of the wrong version that are paid as checkers of the task."""
    unpaid: bool = False
    """The executor broke the rules of forced errors: its part goes to the training fund."""
    is_dummy: bool = False
    """Shown by its relay to be a test; its cost is undone then."""
    is_marked: bool = False
    """Nobody asked: an idle node took it from public chance. It costs nothing and has neither owner nor relay."""
    model: str = ""
    """What answered: the shares of the run that made it may have a part of the cost."""


TASKS: Table[Task] = Table("tasks/by-id", Task)
OPEN_TASKS: Table[int] = Table("tasks/open", int)
"""Ids of tasks that are not final, so that a block looks only at these."""


def get_checkers(task: Task) -> list[bytes]:
    """Drawn nodes that showed numbers and did not contradict how the task ended, nor passed a forced error."""
    unwanted = ACCEPTED if task.status == GUILTY else REJECTED
    return [
        *task.finders,
        *(
            vote.voter
            for vote in task.votes
            if vote.voter in task.drawn and vote.outcome != unwanted and shows_work(vote.outcome, vote.evidence)
        ),
    ]


def shows_work(outcome: str, evidence: tuple[int, ...]) -> bool:
    """True for a verdict that fulfils a duty: one with numbers, or a rejection, which everybody will look at."""
    return bool(evidence) or outcome == REJECTED


def apply_receipts(
    state: State, params: NetworkParams, chain_id: str, sender: bytes, receipts: tuple[Receipt, ...], epoch: int
) -> None:
    """An executor commits what it did; each receipt moves its cost from the session's escrow to held pay."""
    for receipt in receipts:
        _apply_receipt(state, params, chain_id, sender, receipt, epoch)


def _apply_receipt(
    state: State, params: NetworkParams, chain_id: str, sender: bytes, receipt: Receipt, epoch: int
) -> None:
    voucher = receipt.voucher
    session = SESSIONS.get(state, voucher.session)
    if session is None or not session.seed or state.height > session.expires_at + GRACE_BLOCKS:
        raise InvalidTransaction("unknown-session", "no running session has this id")
    task_id = compute_task_id(voucher.session, voucher.index)
    _check_receipt(state, chain_id, sender, session, receipt)
    cost = compute_task_cost(receipt.prompt_tokens, receipt.completion_tokens, session.token_price)
    if cost > voucher.max_cost:
        raise InvalidTransaction("over-maximum", f"cost {cost} is above the user's maximum {voucher.max_cost}")
    if cost > session.left:
        raise InvalidTransaction("over-escrow", f"cost {cost} is above the escrow's rest {session.left}")
    # No honest total is above what an amount holds, so nothing beyond it can ever be used.
    freed = min(MAX_SUPPLY, session.freed + voucher.max_cost - cost)
    session = msgspec.structs.replace(session, left=session.left - cost, freed=freed)
    session = attendance.apply_skips(state, params, epoch, session, voucher)
    SESSIONS.put(state, voucher.session, indices.mark_paid(state, params, session, voucher))
    move_coins(state, SESSION_ESCROW, HELD_PAY, cost)
    task = Task(
        session=voucher.session,
        index=voucher.index,
        seed=session.seed,
        owner=session.owner,
        executor=sender,
        relay=session.relay,
        cost=cost,
        payload_hash=receipt.payload_hash,
        prompt_hash=voucher.prompt_hash,
        prompt_tokens=receipt.prompt_tokens,
        completion_tokens=receipt.completion_tokens,
        epoch=epoch,
        height=state.height,
        status=DRAWING,
        round_index=beacon.request_round(state),
        seal=receipt.seal,
        lot_key=nodes.get_group_key(state, sender, epoch),
        model=session.model,
    )
    TASKS.put(state, task_id, task)
    OPEN_TASKS.put(state, task_id, 0)
    nodes.add_to_node(state, sender, tasks=1, held=cost)
    if nodes.NODES.get(state, session.relay) is not None:
        nodes.add_to_node(state, session.relay, relayed=cost)
    attendance.note_answer(state, params, sender)
    state.emit("task", task=task_id.hex(), executor=sender.hex(), cost=cost, status=DRAWING)


def _check_receipt(state: State, chain_id: str, sender: bytes, session: Session, receipt: Receipt) -> None:
    voucher = receipt.voucher
    if voucher.index >= session.max_tasks:
        raise InvalidTransaction("over-tasks", f"the session has {session.max_tasks} tasks")
    if indices.is_paid(state, voucher.session, voucher.index):
        raise InvalidTransaction("already-paid", "this task has a receipt")
    if voucher.executor != sender:
        raise InvalidTransaction("not-the-executor", "the voucher names another node")
    vouchers.check_place(state, chain_id, session, voucher)
    vouchers.check_owner(chain_id, session, voucher)
