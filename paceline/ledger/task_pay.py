"""The one seam through which tasks move money: a verdict in, coins out.

A rejected task is refunded to its user in full before anybody is paid; any other waits in held pay until the epoch settles
and is then shared by `economy.pay`. The fee of a report goes back when it was right, and else to those who checked.
Invariant: each task's cost leaves held pay exactly once.
"""

from __future__ import annotations

import msgspec

from paceline.economy.pay import Pay, compute_pay
from paceline.ledger import channel_records, clock, forfeits, nodes, shares
from paceline.ledger.accounts import HELD_PAY, REPORT_FEES, RESERVE, move_coins
from paceline.ledger.state import State
from paceline.ledger.tasks import FINAL, GUILTY, OPEN_TASKS, TASKS, TRAP, Task, get_checkers, shows_work
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.params import NetworkParams


def settle_task(state: State, params: NetworkParams, task_id: bytes, outcome: str) -> None:
    """Close a task: refund it when it is rejected, else leave its cost to the settlement."""
    task = TASKS.get(state, task_id)
    assert task is not None and not task.refunded
    if task.reporter:
        task = _settle_report(state, params, task, outcome)
    if outcome == REJECTED:
        move_coins(state, HELD_PAY, task.owner, task.cost)
        nodes.add_to_node(state, task.executor, refunded=task.cost)
        _take_from_relay(state, params, task)
        forfeits.note_rechecks(state, params, task)
        state.emit("refund", task=task_id.hex(), owner=task.owner.hex(), amount=task.cost)
        task = msgspec.structs.replace(task, refunded=True)
    status = GUILTY if outcome == REJECTED else FINAL
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=status))
    OPEN_TASKS.delete(state, task_id)
    state.emit("task", task=task_id.hex(), executor=task.executor.hex(), cost=task.cost, status=status)


def convict(state: State, params: NetworkParams, executor: bytes, epoch: int) -> None:
    """A node is guilty: users get back what it took for answers that nobody proved right; the rest it forfeits."""
    nodes.update_node(state, executor, guilty=epoch, reputation=0)
    for task_id, task in TASKS.items(state):
        # Who accepted a forced error says nothing about the answer itself.
        proven = task.shown != TRAP and any(vote.outcome == ACCEPTED for vote in task.votes)
        if task.executor == executor and not task.refunded and not proven:
            settle_task(state, params, task_id, REJECTED)
    channel_records.refund_channels(state, executor)


def collect_pay(state: State, params: NetworkParams) -> list[tuple[bytes, Pay]]:
    """The executors' shared fees of all tasks that are final; settled tasks go."""
    found = channel_records.collect_pay(state, params)
    for task_id, task in TASKS.items(state):
        if task.status == FINAL:
            part = shares.take_part(state, task.model, task.cost)
            pay = compute_pay(task.cost, get_checkers(task), params.fund_ppm, part)
            _count_marked(state, task)
            found.append((task.executor, Pay(pay.fund + pay.worker, 0, pay.checkers) if task.unpaid else pay))
        if task.status in (FINAL, GUILTY):
            TASKS.delete(state, task_id)
    return found


def _count_marked(state: State, task: Task) -> None:
    """A final marked task counts for its executor's reputation, unless it hid what it showed its checkers."""
    if task.is_marked and not task.unpaid and nodes.NODES.get(state, task.executor) is not None:
        nodes.add_to_node(state, task.executor, dummies=1)


def _take_from_relay(state: State, params: NetworkParams, task: Task) -> None:
    """What nobody paid for leaves the sum that bounds how much may come back for the relay's dummies."""
    relay = nodes.NODES.get(state, task.relay)
    # A leaf of a channel never counted, and the count of an earlier epoch is gone.
    if relay is not None and not task.slots and task.epoch == clock.compute_epoch(params, state.height):
        nodes.add_to_node(state, task.relay, relayed=-min(task.cost, relay.relayed))


def _settle_report(state: State, params: NetworkParams, task: Task, outcome: str) -> Task:
    fee = params.tasks.report_fee
    checkers = sorted(
        vote.voter for vote in task.votes if vote.voter in task.asked and shows_work(vote.outcome, vote.evidence)
    )
    if outcome == REJECTED or not checkers:
        move_coins(state, REPORT_FEES, task.reporter, fee)
    else:
        each = fee // len(checkers)
        for checker in checkers:
            move_coins(state, REPORT_FEES, checker, each)
            nodes.add_to_node(state, checker, earned=each)
        move_coins(state, REPORT_FEES, RESERVE, fee - each * len(checkers))
    if outcome == REJECTED:
        forfeits.promise_reward(state, task.executor, task.reporter)
    return msgspec.structs.replace(task, reporter=b"")
