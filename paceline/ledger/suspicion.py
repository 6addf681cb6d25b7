"""Suspicion: evidence against a node, added up over all its checked tasks and over epochs.

Each checked task adds the logarithm of an e-value, so that an honest node's sum reaches the bound with a chance of a
millionth at most, whenever one looks. Of several checkers' numbers the lower median counts, clipped to what a sound bet can
win or lose. It refuses to know where the numbers come from, and punishes nobody: a high sum opens an inquiry.
Source: decisions 024 and 027.
"""

from __future__ import annotations

from paceline.ledger import beacon, nodes
from paceline.ledger.disputes import Vote
from paceline.ledger.state import State, Table
from paceline.ledger.tasks import Task
from paceline.protocol.codec import Record
from paceline.protocol.messages import REJECTED
from paceline.protocol.params import NetworkParams

DRAWING, CONFIRMING, VOTING = "drawing", "confirming", "voting"


class CheckedTask(Record, frozen=True):
    """A task kept for an inquiry, with what it added to the sum."""

    task: Task
    log_e_micro: int
    value: bytes
    """The beacon's value that drew its checkers and what they had opened: the beacon itself forgets it in time."""


class Inquiry(Record, frozen=True, kw_only=True):
    """The case of a suspected node. `rest` is the part of its sum that the kept tasks do not explain."""

    status: str
    round_index: int
    rest: int
    deadline: int = 0
    drawn: tuple[bytes, ...] = ()
    votes: tuple[Vote, ...] = ()


SUMS: Table[int] = Table("suspicion/sum", int)
KEPT: Table[CheckedTask] = Table("suspicion/kept", CheckedTask)
"""The weightiest checked tasks of each node, by node and task id."""
INQUIRIES: Table[Inquiry] = Table("suspicion/inquiry", Inquiry)


def get_sum(state: State, address: bytes) -> int:
    """Evidence against a node since it was last cleared. Units: micronats."""
    return SUMS.get(state, address) or 0


def is_under_inquiry(state: State, address: bytes) -> bool:
    """True while a node's case is open."""
    return INQUIRIES.get(state, address) is not None


def list_kept(state: State, address: bytes) -> list[tuple[bytes, CheckedTask]]:
    """Ids of a node's kept tasks, with them."""
    return [(key[len(address) :], kept) for key, kept in KEPT.items(state, address)]


def get_kept(state: State, executor: bytes, task_id: bytes) -> CheckedTask | None:
    """A task as it is kept for a node's case."""
    return KEPT.get(state, executor + task_id)


def may_judge(state: State, suspect: bytes, address: bytes) -> bool:
    """True for whoever has a voice in the open case of a node: those drawn to confirm, then all with weight."""
    inquiry = INQUIRIES.get(state, suspect)
    if inquiry is None or address == suspect:
        return False
    return address in inquiry.drawn or (inquiry.status == VOTING and address in nodes.get_weights(state))


def compute_evidence(task: Task, params: NetworkParams) -> int | None:
    """What a task adds: the lower median of its drawn checkers' last numbers, clipped; None without numbers."""
    low, high = params.tasks.evidence_low_micronats, params.tasks.evidence_high_micronats
    numbers = sorted(
        max(low, min(high, vote.evidence[-1]))
        for vote in task.votes
        if vote.voter in task.drawn and vote.evidence and vote.outcome != REJECTED
    )
    return numbers[(len(numbers) - 1) // 2] if numbers else None


def note_check(state: State, params: NetworkParams, task_id: bytes, task: Task) -> None:
    """Add what a checked task says about its executor; open an inquiry at the bound."""
    evidence = compute_evidence(task, params)
    # While a case is open, its numbers stand still for those who judge it.
    if evidence is None or is_under_inquiry(state, task.executor):
        return
    total = get_sum(state, task.executor) + evidence
    SUMS.put(state, task.executor, total)
    _keep(state, params, task_id, CheckedTask(task, evidence, beacon.get_value(state, task.round_index) or b""))
    if total >= params.tasks.suspicion_micronats:
        kept = sum(found.log_e_micro for _, found in list_kept(state, task.executor))
        inquiry = Inquiry(status=DRAWING, round_index=beacon.request_round(state), rest=total - kept)
        INQUIRIES.put(state, task.executor, inquiry)
        state.emit("inquiry", node=task.executor.hex(), log_e_micro=total)


def clear(state: State, address: bytes) -> None:
    """Begin anew with a node."""
    SUMS.delete(state, address)
    INQUIRIES.delete(state, address)
    for key, _ in KEPT.items(state, address):
        KEPT.delete(state, key)


def _keep(state: State, params: NetworkParams, task_id: bytes, checked: CheckedTask) -> None:
    executor = checked.task.executor
    KEPT.put(state, executor + task_id, checked)
    kept = list_kept(state, executor)
    if len(kept) > params.tasks.kept_checks:
        lightest, _ = min(kept, key=lambda pair: (pair[1].log_e_micro, pair[1].task.height, pair[0]))
        KEPT.delete(state, executor + lightest)
