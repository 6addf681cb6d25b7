"""Forced errors: what becomes of a wrong answer that was shown to checkers on purpose.

The executor's key draws in secret which of its tasks are forced errors. When all verdicts are revealed it shows the draw of
every checked task; who passed a forced error is fooled, unless more than half of all weight does not see it either, and who
found it shares what the fooled forfeit. Then the true answer, sealed in the receipt, is drawn for checks like any other.
So a forced error excuses nothing. Invariant: nobody is fooled by what a majority has not rejected.
Source: decision 032.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import draw_happens
from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM, split_proportionally
from paceline.base.private_draws import Lot, compute_lot_seed, verify_lot
from paceline.ledger import beacon, nodes
from paceline.ledger.accounts import HELD_PAY, move_coins
from paceline.ledger.disputes import Vote
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.state import State
from paceline.ledger.tasks import (
    DISPUTED,
    DRAWING,
    LIFTED,
    PLAIN,
    SHOWING,
    TASKS,
    TRAP,
    UNSHOWN,
    Task,
    shows_work,
)
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.params import NetworkParams
from paceline.protocol.traps import NO_SEAL, ShowDraws, Showing, compute_lot_message, compute_seal


def is_drawn(params: NetworkParams, completion_tokens: int, point: bytes) -> bool:
    """True when an executor's lot makes an answer of so many tokens a forced error."""
    tasks = params.tasks
    if completion_tokens < tasks.forced_error_tokens:
        return False
    return draw_happens(compute_lot_seed(point), tasks.forced_error_ppm, PPM)


def must_show(params: NetworkParams, task: Task) -> bool:
    """True when the executor has to show the draw of a task whose verdicts are revealed.

    A channel's leaf has no seal, and what is too short is never drawn.
    """
    tasks = params.tasks
    may_be_drawn = task.slots == 0 and task.completion_tokens >= tasks.forced_error_tokens
    return tasks.forced_error_ppm > 0 and task.shown == UNSHOWN and may_be_drawn


def is_answer(task: Task, payload_hash: bytes, salt: bytes) -> bool:
    """True for the payload of a task's true answer, whatever its checkers were shown."""
    if task.seal == NO_SEAL:
        return payload_hash == task.payload_hash
    return compute_seal(payload_hash, salt) == task.seal


def apply_showings(state: State, params: NetworkParams, chain_id: str, sender: bytes, message: ShowDraws) -> None:
    """An executor shows which of its checked tasks were forced errors.

    Errors: InvalidTransaction nothing-to-show, not-the-executor, bad-seal, bad-lot, no-forced-error.
    """
    for showing in message.showings:
        task = TASKS.get(state, showing.task)
        # Late ones are taken during the dispute: they save the executor from guilt, not its pay.
        if task is None or task.status not in (SHOWING, DISPUTED) or not must_show(params, task):
            raise InvalidTransaction("nothing-to-show", "the task does not wait for its executor's draw")
        if task.executor != sender or NODES.get(state, sender) is None:
            raise InvalidTransaction("not-the-executor", "another node answered the task")
        shown = _judge_showing(params, chain_id, task, showing)
        TASKS.put(state, showing.task, shown)
        state.emit("task-shown", task=showing.task.hex(), shown=shown.shown)


def close_showing(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    """All is shown of a forced error: everybody judges it when somebody passed it, else its true answer comes next."""
    if any(vote.outcome != REJECTED for vote in _list_checks(task)):
        deadline = state.height + params.dispute_blocks
        TASKS.put(state, task_id, msgspec.structs.replace(task, status=DISPUTED, deadline=deadline))
        return
    lift(state, task_id, task, REJECTED)


def lift(state: State, task_id: bytes, task: Task, outcome: str) -> None:
    """End a forced error: count who found and who passed it, and have the true answer drawn for checks.

    `outcome` is what the majority says of the wrong version. Accepted, it was none, and the executor is not paid; empty, nobody
    is blamed.
    """
    paid = []
    for vote in _list_checks(task):
        if outcome == REJECTED and vote.outcome != REJECTED:
            _note_fooled(state, task_id, vote.voter)
            continue
        paid.append(vote.voter)
        if outcome == REJECTED and NODES.get(state, vote.voter) is not None:
            nodes.add_to_node(state, vote.voter, found=1)
    lifted = msgspec.structs.replace(
        task,
        status=DRAWING,
        shown=LIFTED,
        payload_hash=task.answer_hash,
        round_index=beacon.request_round(state),
        asked=(),
        commitments=(),
        votes=(),
        finders=(*task.finders, *paid),
        unpaid=task.unpaid or outcome == ACCEPTED,
    )
    TASKS.put(state, task_id, lifted)
    state.emit("forced-error", task=task_id.hex(), executor=task.executor.hex(), found=len(paid), outcome=outcome)


def is_fooled(params: NetworkParams, node: Node) -> bool:
    """True for a checker that passed so many forced errors that it forfeits the epoch."""
    return node.fooled >= params.tasks.fooled_limit


def pay_jackpots(state: State, params: NetworkParams, due: dict[bytes, int], epoch: int) -> None:
    """Who found forced errors is paid out of what those forfeit who passed theirs, before the rest goes to the reserve.

    Never more than the jackpot for each, nor than what the own finished work earned: so nobody lives on forced errors.
    """
    everybody = NODES.items(state)
    fooled = [address for address, node in everybody if is_fooled(params, node)]
    wishes = {
        address: min(node.found * params.tasks.jackpot, due.get(address, 0))
        for address, node in everybody
        if node.found and address not in fooled and node.guilty != epoch
    }
    pot, wanted = sum(due.get(address, 0) for address in fooled), sum(wishes.values())
    shares = wishes if wanted <= pot else split_proportionally(pot, wishes)
    for address, amount in shares.items():
        move_coins(state, HELD_PAY, address, amount)
        nodes.add_to_node(state, address, earned=amount)
        state.emit("jackpot", node=address.hex(), amount=amount)
    left = sum(shares.values())
    for address in fooled:
        part = min(left, due.get(address, 0))
        due[address] = due.get(address, 0) - part
        left -= part


def _judge_showing(params: NetworkParams, chain_id: str, task: Task, showing: Showing) -> Task:
    if compute_seal(showing.answer_hash, showing.salt) != task.seal:
        raise InvalidTransaction("bad-seal", "the receipt's seal is over something else")
    if not verify_lot(task.lot_key, compute_lot_message(chain_id, showing.task), Lot(showing.point, showing.proof)):
        raise InvalidTransaction("bad-lot", "this is not what the executor's group key draws for the task")
    drawn = is_drawn(params, task.completion_tokens, showing.point)
    wrong = showing.answer_hash != task.payload_hash
    if wrong and not drawn:
        raise InvalidTransaction(
            "no-forced-error", "the checkers were shown another answer in a task that was not drawn"
        )
    # Drawn and not forced is the missed duty of an executor.
    return msgspec.structs.replace(
        task,
        shown=TRAP if wrong else PLAIN,
        answer_hash=showing.answer_hash,
        unpaid=task.unpaid or (drawn and not wrong),
    )


def _list_checks(task: Task) -> list[Vote]:
    """Verdicts with work behind them of those who were drawn; in a dispute anybody may have judged besides."""
    return [vote for vote in task.votes if vote.voter in task.asked and shows_work(vote.outcome, vote.evidence)]


def _note_fooled(state: State, task_id: bytes, voter: bytes) -> None:
    node = NODES.get(state, voter)
    if node is None:
        return
    # The verdict counted as a fulfilled duty when it was revealed, perhaps in an epoch that is settled.
    nodes.add_to_node(state, voter, fooled=1, fulfilled=-1 if node.fulfilled > 0 else 0)
    state.emit("fooled", task=task_id.hex(), node=voter.hex())
