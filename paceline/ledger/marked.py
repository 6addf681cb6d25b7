"""Marked tasks: what idle nodes answer so that they can be checked, though nobody asked and nobody pays.

Number, chance and request follow from window and node; the window's chance is younger than the window's start, so nobody
chooses or prepares his work. A marked task is drawn for checks, disputed and punished as any other. Final, it counts for
reputation like the answer to a shown dummy, and for nothing else: it costs nothing, so no coin can follow from it.
Invariant: a node has at most the stated number of them per window, each number once.
Source: seed 001, section 6; decision 031.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.draws import derive_seed
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, nodes
from paceline.ledger.sessions import ID_BYTES, compute_task_id
from paceline.ledger.state import State
from paceline.ledger.tasks import DRAWING, OPEN_TASKS, TASKS, Task
from paceline.protocol.answers import AnswerRequest
from paceline.protocol.dummies import SubmitMarked
from paceline.protocol.marked import derive_request
from paceline.protocol.params import NetworkParams

NOBODY = b""
"""Owner and relay of a marked task."""


@dataclass(frozen=True, kw_only=True)
class MarkedTask:
    """One marked task before it is answered."""

    number: int
    task_id: bytes
    seed: bytes
    request: AnswerRequest


def compute_session(address: bytes) -> bytes:
    """What stands in the place of a session in the ids of a node's marked tasks."""
    return hash_parts("marked-session", address)[:ID_BYTES]


def find_next(state: State, params: NetworkParams, address: bytes) -> int | None:
    """Number of the marked task that a node may answer next, None while its window has no further one."""
    each = params.dummies.marked_per_window
    node = nodes.NODES.get(state, address)
    if node is None or each == 0:
        return None
    first = _compute_window(params, state.height) * each
    number = max(first, node.marked + 1)
    return number if number < first + each else None


def derive_task(state: State, params: NetworkParams, address: bytes, number: int) -> MarkedTask:
    """The marked task of a node and number, from public data only.

    Errors: InvalidTransaction not-a-node, not-drawn-yet, nothing-served, serves-changed.
    """
    node = nodes.NODES.get(state, address)
    if node is None:
        raise InvalidTransaction("not-a-node", "only nodes have marked tasks")
    asked_at, value = _find_chance(state, params, number)
    if not node.serves:
        raise InvalidTransaction("nothing-served", "the node serves no model")
    # What it serves draws the model: chosen with the chance in hand, it would be its own work.
    if node.serves_since > asked_at:
        raise InvalidTransaction("serves-changed", f"the node changed what it serves at height {node.serves_since}")
    seed = derive_seed(value, "marked", address, number.to_bytes(8, "big"))
    request = derive_request(seed, node.serves, params.dummies.marked_tokens)
    task_id = compute_task_id(compute_session(address), number)
    return MarkedTask(number=number, task_id=task_id, seed=seed, request=request)


def apply_submission(state: State, params: NetworkParams, sender: bytes, message: SubmitMarked, epoch: int) -> None:
    """An idle node commits what it answered; from here on it is a task as any other, without money.

    Errors: InvalidTransaction guilty, switched-off, no-weight, already-submitted, wrong-window, over-length, and those of
    `derive_task`.
    """
    node = nodes.NODES.get(state, sender)
    assert node is not None, "only nodes send duties"
    if node.guilty == epoch:
        raise InvalidTransaction("guilty", "in the epoch of its guilt a node builds nothing")
    _check_number(state, params, node, message.number)
    marked = derive_task(state, params, sender, message.number)
    if message.completion_tokens > marked.request.max_tokens:
        raise InvalidTransaction(
            "over-length", f"{message.completion_tokens} tokens are named, {marked.request.max_tokens} were asked for"
        )
    task = Task(
        session=compute_session(sender),
        index=message.number,
        seed=marked.seed,
        owner=NOBODY,
        executor=sender,
        relay=NOBODY,
        cost=0,
        payload_hash=message.payload_hash,
        prompt_hash=marked.request.compute_hash(),
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        epoch=epoch,
        height=state.height,
        status=DRAWING,
        round_index=beacon.request_round(state),
        seal=message.seal,
        lot_key=nodes.get_group_key(state, sender, epoch),
        is_marked=True,
    )
    TASKS.put(state, marked.task_id, task)
    OPEN_TASKS.put(state, marked.task_id, 0)
    nodes.update_node(state, sender, marked=message.number)
    state.emit("marked-task", task=marked.task_id.hex(), executor=sender.hex())


def _check_number(state: State, params: NetworkParams, node: nodes.Node, number: int) -> None:
    each = params.dummies.marked_per_window
    if each == 0:
        raise InvalidTransaction("switched-off", "this network has no marked tasks")
    if node.weight == 0:
        # It is drawn for no request either, and must not build by many names what it has not by weight.
        raise InvalidTransaction("no-weight", "only nodes with Race weight answer marked tasks")
    if number <= node.marked:
        raise InvalidTransaction("already-submitted", f"number {number} is given, {node.marked} was the latest")
    window = _compute_window(params, state.height)
    # The former one, too: an answer begun at its end is not lost.
    if not window - 1 <= number // each <= window:
        raise InvalidTransaction("wrong-window", f"number {number} is of window {number // each}, this is {window}")


def _compute_window(params: NetworkParams, height: int) -> int:
    return height // params.dummies.marked_blocks


def _find_chance(state: State, params: NetworkParams, number: int) -> tuple[int, bytes]:
    """Height that a number's chance stands for, the first signed one of its window, and its value."""
    start = number // params.dummies.marked_per_window * params.dummies.marked_blocks
    # The bootstrap value of index 0 is as old as genesis.
    index = max(1, -(-start // params.beacon_interval))
    value = beacon.get_value(state, index)
    if value is None:
        raise InvalidTransaction(
            "not-drawn-yet", f"the beacon has no value for height {index * params.beacon_interval}"
        )
    return index * params.beacon_interval, value
