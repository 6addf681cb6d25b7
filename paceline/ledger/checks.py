"""Checks of tasks: drawn checkers commit, then reveal; one rejection brings the task before everybody with weight.

Node i is drawn with probability rate * w_i / (all weight but the executor's and the relay's), from a beacon value later than
the receipt. Nobody sees another's verdict before all have committed, so none can be copied. Who does not commit, does not
reveal, or shows no numbers has missed its duty. Then the executor shows whether it forced an error (`traps`).
Source: seed 001, section 6; decisions 011 and 027.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import derive_seed, draw_happens, draw_order
from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM
from paceline.ledger import beacon, nodes, suspicion, traps
from paceline.ledger.check_rates import check_rate_ppm
from paceline.ledger.disputes import Vote, compute_majority, get_outcomes, has_voted
from paceline.ledger.state import State
from paceline.ledger.task_pay import convict, settle_task
from paceline.ledger.tasks import (
    CHECKING,
    DISPUTED,
    DRAWING,
    OPEN_TASKS,
    REVEALING,
    SHOWING,
    TASKS,
    TRAP,
    UNSHOWN,
    Task,
    shows_work,
)
from paceline.protocol.messages import ACCEPTED, REJECTED, CommitVerdict, JudgeTask
from paceline.protocol.params import NetworkParams


def has_committed(task: Task, address: bytes) -> bool:
    """True when a checker of the draw under way is bound to a verdict."""
    return any(checker == address for checker, _ in task.commitments)


def apply_commitment(state: State, sender: bytes, message: CommitVerdict) -> None:
    """A drawn checker binds itself to a verdict.

    Errors: InvalidTransaction nothing-to-judge, not-drawn, already-committed.
    """
    task = TASKS.get(state, message.task)
    if task is None or task.status != CHECKING:
        raise InvalidTransaction("nothing-to-judge", "the task does not wait for commitments")
    if sender not in task.asked:
        raise InvalidTransaction("not-drawn", "this node was not drawn to check the task")
    if has_committed(task, sender):
        raise InvalidTransaction("already-committed", "one verdict per task")
    commitments = (*task.commitments, (sender, message.digest))
    TASKS.put(state, message.task, msgspec.structs.replace(task, commitments=commitments))


def apply_verdict(state: State, sender: bytes, message: JudgeTask) -> None:
    """A checker reveals its verdict, or anybody with weight judges a flagged task.

    Errors: InvalidTransaction nothing-to-judge, no-vote, not-drawn, not-committed, already-judged, no-numbers.
    """
    task = TASKS.get(state, message.task)
    if task is None or task.status not in (REVEALING, DISPUTED):
        raise InvalidTransaction("nothing-to-judge", "the task does not wait for verdicts")
    if sender == task.executor or (sender == task.relay and task.status == REVEALING):
        raise InvalidTransaction("no-vote", "executor and relay do not check their own task")
    if has_voted(task.votes, sender):
        raise InvalidTransaction("already-judged", "one verdict per task")
    if task.status == REVEALING:
        _check_reveal(task, sender, message)
    elif sender not in nodes.get_weights(state):
        raise InvalidTransaction("not-drawn", "only nodes with weight judge a flagged task")
    verdict = message.verdict
    if verdict.outcome == ACCEPTED and not verdict.evidence:
        raise InvalidTransaction("no-numbers", "whoever accepts shows what was computed")
    vote = Vote(sender, verdict.outcome, verdict.reason, verdict.evidence)
    TASKS.put(state, message.task, msgspec.structs.replace(task, votes=(*task.votes, vote)))
    if task.status == REVEALING and shows_work(verdict.outcome, verdict.evidence):
        nodes.add_to_node(state, sender, checks=1, fulfilled=1)
    state.emit("task-verdict", task=message.task.hex(), node=sender.hex(), outcome=verdict.outcome)


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Draw checkers, close the windows for commitments and reveals, decide disputes."""
    for task_id, _ in OPEN_TASKS.items(state):
        task = TASKS.get(state, task_id)
        assert task is not None
        # A conviction earlier in this loop settles other tasks of the same node.
        if OPEN_TASKS.get(state, task_id) is None:
            continue
        if task.status == DRAWING:
            _draw_checkers(state, params, task_id, task)
        elif task.status == CHECKING:
            _close_commitments(state, params, task_id, task)
        elif task.status == REVEALING:
            _close_reveals(state, params, task_id, task)
        elif task.status == SHOWING:
            _close_showing(state, params, task_id, task)
        elif task.status == DISPUTED:
            _decide(state, params, task_id, task, epoch)


def draw_checkers(seed: bytes, task_id: bytes, weights: dict[bytes, int], rate_ppm: int) -> list[bytes]:
    """Who checks a task; `weights` are those of everybody but executor and relay."""
    total = sum(weights.values())
    return [
        address
        for address in sorted(weights)
        if draw_happens(derive_seed(seed, "check", task_id, address), rate_ppm * weights[address], PPM * total)
    ]


def _check_reveal(task: Task, sender: bytes, message: JudgeTask) -> None:
    if sender not in task.asked:
        raise InvalidTransaction("not-drawn", "this node was not drawn to check the task")
    if (sender, message.compute_commitment(sender)) not in task.commitments:
        raise InvalidTransaction("not-committed", "the verdict is not the one that this node committed to")


def _draw_checkers(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    value = beacon.get_value(state, task.round_index)
    if value is None:
        return
    barred = (task.executor, task.relay, *task.drawn)
    weights = {address: weight for address, weight in nodes.get_weights(state).items() if address not in barred}
    if task.reporter:
        order = draw_order(derive_seed(value, "report", task_id), weights)
        asked = tuple(order[: params.tasks.report_checkers])
    elif task.slots:
        asked = tuple(draw_order(derive_seed(value, "leaf", task_id), weights)[: task.slots])
    else:
        rate = check_rate_ppm(state, params, task.executor, task)
        asked = tuple(draw_checkers(value, task_id, weights, rate))
    for address in asked:
        nodes.add_to_node(state, address, duties=1)
    drawn = msgspec.structs.replace(
        task,
        status=CHECKING,
        drawn=(*task.drawn, *asked),
        asked=asked,
        commitments=(),
        deadline=state.height + params.check_blocks,
    )
    TASKS.put(state, task_id, drawn)
    if not asked:
        settle_task(state, params, task_id, ACCEPTED)


def _close_commitments(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    if state.height < task.deadline and len(task.commitments) < len(task.asked):
        return
    if not task.commitments:
        settle_task(state, params, task_id, ACCEPTED)
        return
    deadline = state.height + params.tasks.reveal_blocks
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=REVEALING, deadline=deadline))


def _close_reveals(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    if state.height < task.deadline and not all(has_voted(task.votes, checker) for checker, _ in task.commitments):
        return
    # Only now: who knew what the executor shows would rather stay silent than be fooled.
    if traps.must_show(params, task):
        deadline = state.height + params.tasks.show_blocks
        TASKS.put(state, task_id, msgspec.structs.replace(task, status=SHOWING, deadline=deadline))
        return
    _judge_reveals(state, params, task_id, task)


def _close_showing(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    if task.shown == TRAP:
        traps.close_showing(state, params, task_id, task)
        return
    if task.shown == UNSHOWN:
        if state.height < task.deadline:
            return
        task = msgspec.structs.replace(task, unpaid=True)
        TASKS.put(state, task_id, task)
    _judge_reveals(state, params, task_id, task)


def _judge_reveals(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    # Only the draw under way counts: a reported answer may have been flagged, and cleared, before.
    if any(vote.outcome == REJECTED and vote.voter in task.asked for vote in task.votes):
        deadline = state.height + params.dispute_blocks
        TASKS.put(state, task_id, msgspec.structs.replace(task, status=DISPUTED, deadline=deadline))
        return
    settle_task(state, params, task_id, ACCEPTED)
    suspicion.note_check(state, params, task_id, task)


def _void_acceptances(state: State, task: Task) -> None:
    """Who was drawn and accepted what a majority rejects has not checked: its duty counts as missed."""
    for vote in task.votes:
        node = nodes.NODES.get(state, vote.voter)
        if vote.voter in task.drawn and vote.outcome == ACCEPTED and node is not None and node.fulfilled > 0:
            nodes.add_to_node(state, vote.voter, fulfilled=-1)


def _decide(state: State, params: NetworkParams, task_id: bytes, task: Task, epoch: int) -> None:
    outcome = compute_majority(get_outcomes(task.votes), nodes.get_weights(state))
    if task.shown == TRAP:
        if outcome or state.height >= task.deadline:
            traps.lift(state, task_id, task, outcome)
    elif outcome == REJECTED:
        _void_acceptances(state, task)
        settle_task(state, params, task_id, REJECTED)
        convict(state, params, task.executor, epoch)
    elif outcome == ACCEPTED or state.height >= task.deadline:
        settle_task(state, params, task_id, ACCEPTED)
