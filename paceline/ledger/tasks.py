"""Tasks: receipts under a session's escrow, drawn checks, flags, majorities, refunds.

A receipt is committed before its checkers are drawn. An unflagged task is final when its drawn checkers have judged or
their time is over; a flagged one when a majority has. Its fee waits in held pay until the epoch settles.
Source: seed 001, section 6.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import derive_seed, draw_happens
from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM
from paceline.economy.pay import compute_task_cost
from paceline.ledger import attendance, beacon, indices, nodes, vouchers
from paceline.ledger.accounts import HELD_PAY, SESSION_ESCROW, move_coins
from paceline.ledger.disputes import Vote, compute_majority, get_outcomes, has_voted
from paceline.ledger.sessions import (
    GRACE_BLOCKS,
    SESSIONS,
    Session,
    compute_task_id,
)
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED, REJECTED, JudgeTask, Receipt
from paceline.protocol.params import NetworkParams

DRAWING, CHECKING, DISPUTED, FINAL, GUILTY = "drawing", "checking", "disputed", "final", "guilty"


class Task(Record, frozen=True, kw_only=True):
    """One answered request. `drawn` are its checkers; `votes` holds every verdict with its numbers."""

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
    votes: tuple[Vote, ...] = ()
    refunded: bool = False


TASKS: Table[Task] = Table("tasks/by-id", Task)
OPEN_TASKS: Table[int] = Table("tasks/open", int)
"""Ids of tasks that are not final, so that a block looks only at these."""


def get_checkers(task: Task) -> list[bytes]:
    """Drawn nodes that gave a decisive verdict in agreement with how the task ended."""
    wanted = REJECTED if task.status == GUILTY else ACCEPTED
    return [vote.voter for vote in task.votes if vote.voter in task.drawn and vote.outcome == wanted]


def compute_check_rate_ppm(reputation: int, params: NetworkParams) -> int:
    """Share of a node's tasks that is checked: all of them at reputation 0, halving toward the floor."""
    above = PPM - params.check_floor_ppm
    return params.check_floor_ppm + (above >> min(64, reputation // params.check_halving_epochs))


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
    cost = compute_task_cost(receipt.prompt_tokens, receipt.completion_tokens, params.token_price)
    if cost > voucher.max_cost:
        raise InvalidTransaction("over-maximum", f"cost {cost} is above the user's maximum {voucher.max_cost}")
    if cost > session.left:
        raise InvalidTransaction("over-escrow", f"cost {cost} is above the escrow's rest {session.left}")
    freed = session.freed + voucher.max_cost - cost
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
    )
    TASKS.put(state, task_id, task)
    OPEN_TASKS.put(state, task_id, 0)
    nodes.add_to_node(state, sender, tasks=1)
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


def apply_verdict(state: State, params: NetworkParams, sender: bytes, message: JudgeTask) -> None:
    """A drawn checker judges; a rejection flags the task, and then everybody with weight may judge."""
    task = TASKS.get(state, message.task)
    if task is None or task.status not in (CHECKING, DISPUTED):
        raise InvalidTransaction("nothing-to-judge", "the task does not wait for verdicts")
    weights = nodes.get_weights(state)
    if sender == task.executor or (sender == task.relay and task.status == CHECKING):
        raise InvalidTransaction("no-vote", "executor and relay do not check their own task")
    if sender not in task.drawn and (task.status != DISPUTED or sender not in weights):
        raise InvalidTransaction("not-drawn", "this node was not drawn to check the task")
    if has_voted(task.votes, sender):
        raise InvalidTransaction("already-judged", "one verdict per task")
    verdict = message.verdict
    task = msgspec.structs.replace(
        task, votes=(*task.votes, Vote(sender, verdict.outcome, verdict.reason, verdict.evidence))
    )
    if sender in task.drawn:
        nodes.add_to_node(state, sender, checks=1, fulfilled=1)
    if task.status == CHECKING and verdict.outcome == REJECTED:
        task = msgspec.structs.replace(task, status=DISPUTED, deadline=state.height + params.dispute_blocks)
    TASKS.put(state, message.task, task)
    state.emit("task-verdict", task=message.task.hex(), node=sender.hex(), outcome=verdict.outcome)


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Draw checkers, end checks whose time is over, decide disputes."""
    for task_id, _ in OPEN_TASKS.items(state):
        task = TASKS.get(state, task_id)
        assert task is not None
        if task.status == DRAWING:
            _draw_checkers(state, params, task_id, task)
        elif task.status == CHECKING:
            if state.height >= task.deadline or all(has_voted(task.votes, address) for address in task.drawn):
                _finish(state, task_id, task, FINAL)
        elif task.status == DISPUTED:
            _decide(state, task_id, task, epoch)


def _draw_checkers(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    value = beacon.get_value(state, task.round_index)
    if value is None:
        return
    weights = {a: w for a, w in nodes.get_weights(state).items() if a not in (task.executor, task.relay)}
    executor = nodes.NODES.get(state, task.executor)
    assert executor is not None
    rate = compute_check_rate_ppm(executor.reputation, params)
    total = sum(weights.values())
    drawn = tuple(
        address
        for address in sorted(weights)
        if draw_happens(derive_seed(value, "check", task_id, address), rate * weights[address], PPM * total)
    )
    for address in drawn:
        nodes.add_to_node(state, address, duties=1)
    deadline = state.height + params.check_blocks
    task = msgspec.structs.replace(task, status=CHECKING, drawn=drawn, deadline=deadline)
    TASKS.put(state, task_id, task)
    if not drawn:
        _finish(state, task_id, task, FINAL)


def _decide(state: State, task_id: bytes, task: Task, epoch: int) -> None:
    outcome = compute_majority(get_outcomes(task.votes), nodes.get_weights(state))
    if outcome == REJECTED:
        _convict(state, task_id, task, epoch)
    elif outcome == ACCEPTED or state.height >= task.deadline:
        _finish(state, task_id, task, FINAL)


def _convict(state: State, task_id: bytes, task: Task, epoch: int) -> None:
    nodes.update_node(state, task.executor, guilty=epoch, reputation=0)
    _refund(state, task_id, task)
    for other_id, other in TASKS.items(state):
        unproven = other.executor == task.executor and other_id != task_id and not other.refunded
        if unproven and not any(vote.outcome == ACCEPTED for vote in other.votes):
            _refund(state, other_id, other)


def _refund(state: State, task_id: bytes, task: Task) -> None:
    """Full refund to the user, before anybody is paid."""
    move_coins(state, HELD_PAY, task.owner, task.cost)
    nodes.add_to_node(state, task.executor, refunded=task.cost)
    _finish(state, task_id, msgspec.structs.replace(task, refunded=True), GUILTY)
    state.emit("refund", task=task_id.hex(), owner=task.owner.hex(), amount=task.cost)


def _finish(state: State, task_id: bytes, task: Task, status: str) -> None:
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=status))
    OPEN_TASKS.delete(state, task_id)
    state.emit("task", task=task_id.hex(), executor=task.executor.hex(), cost=task.cost, status=status)
