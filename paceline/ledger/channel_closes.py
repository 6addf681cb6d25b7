"""The end of a channel: states that both sides signed, proofs that one side signed two, leaves that the beacon drew.

Either side shows the last state, the other may show a later one; a leaf that is drawn becomes an ordinary task, judged like
any other. A state counts only with the executor that has the channel: of a former one it neither pays nor accuses. Invariant:
no coin moves by a state that lacks a signature, and no leaf becomes a task that the root does not hold.
Source: decision 033.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import verify_signature
from paceline.base.merkle import verify_path
from paceline.economy.pay import compute_task_cost
from paceline.ledger import beacon, nodes
from paceline.ledger.channel_records import (
    CHANNELS,
    CHECKING,
    CLOSING,
    LEAVES,
    OPEN,
    OPENING,
    Channel,
    count_hits,
    draw_points,
    end_requests,
    leaf_key,
    put_channel,
    remove_channel,
)
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.state import State
from paceline.ledger.tasks import DRAWING, OPEN_TASKS, TASKS, Task
from paceline.protocol.channels import (
    OWNER,
    ChannelState,
    ClaimChannel,
    CloseChannel,
    Leaf,
    OpenedLeaf,
    OpenLeaves,
    ProveChannel,
    SignedState,
)
from paceline.protocol.params import NetworkParams


def apply_close(state: State, params: NetworkParams, chain_id: str, sender: bytes, message: CloseChannel) -> None:
    """The owner ends its channel, or shows a later state. Errors: InvalidTransaction, as `_show` lists them."""
    channel = _find(state, message.channel)
    if channel.owner != sender:
        raise InvalidTransaction("not-yours", "only owner and executor end a channel")
    _show(state, params, chain_id, message.channel, channel, message.signed)


def apply_claim(state: State, params: NetworkParams, chain_id: str, sender: bytes, message: ClaimChannel) -> None:
    """The executor ends a channel, or shows a later state. Errors: InvalidTransaction, as `_show` lists them."""
    channel = _find(state, message.signed.state.channel)
    if channel.executor != sender:
        raise InvalidTransaction("not-yours", "only owner and executor end a channel")
    _show(state, params, chain_id, message.signed.state.channel, channel, message.signed)


def check_state(
    params: NetworkParams, chain_id: str, channel: Channel, executor_key: bytes, signed: SignedState
) -> None:
    """A state that may move coins.

    Errors: InvalidTransaction wrong-executor, over-deposit, over-count, bad-state.
    """
    last = signed.state
    _require_seated(channel, last)
    if not 0 < last.total <= channel.deposit:
        raise InvalidTransaction("over-deposit", f"a total of {last.total}, the deposit is {channel.deposit}")
    if not 0 < last.count <= params.channels.most_tasks:
        raise InvalidTransaction(
            "over-count", f"{last.count} answers, at most {params.channels.most_tasks} are counted"
        )
    text = last.signed_bytes(chain_id)
    if not verify_signature(channel.owner_key, text, signed.owner_signature):
        raise InvalidTransaction("bad-state", "the owner did not sign this state")
    if not verify_signature(executor_key, text, signed.executor_signature):
        raise InvalidTransaction("bad-state", "the executor did not sign this state")


def apply_proof(state: State, params: NetworkParams, chain_id: str, sender: bytes, message: ProveChannel) -> None:
    """Anybody shows that one side signed two states of one count: the owner forfeits its rest, the executor its pay.

    Errors: InvalidTransaction unknown-channel, no-contradiction, wrong-executor, bad-state, already-proven.
    """
    first, second = message.first, message.second
    channel = _find(state, first.channel)
    if (first.channel, first.count) != (second.channel, second.count) or first == second:
        raise InvalidTransaction("no-contradiction", "an honest side may sign both")
    _require_seated(channel, first)
    _require_seated(channel, second)
    executor = nodes.NODES.get(state, channel.executor)
    key = channel.owner_key if message.side == OWNER else (executor.public_key if executor is not None else b"")
    for told, signature in ((first, message.first_signature), (second, message.second_signature)):
        if not verify_signature(key, told.signed_bytes(chain_id), signature):
            raise InvalidTransaction("bad-state", f"the {message.side} did not sign both states")
    state.emit("channel-forfeited", channel=first.channel.hex(), side=message.side, accuser=sender.hex())
    if message.side == OWNER:
        _forfeit_rest(state, params, first.channel, channel, sender)
    else:
        remove_channel(state, first.channel, channel)


def apply_leaves(state: State, sender: bytes, message: OpenLeaves, epoch: int) -> None:
    """The executor opens the next drawn leaves; each becomes a task with as many checkers as points lie in it.

    Errors: InvalidTransaction nothing-to-open, wrong-leaf, wrong-cost, bad-path.
    """
    channel = CHANNELS.get(state, message.channel)
    if channel is None or channel.status != OPENING or channel.executor != sender or channel.state is None:
        raise InvalidTransaction("nothing-to-open", "no leaf of a channel of this node is drawn")
    points = draw_points(channel.sample_seed, channel.points, channel.state.total)
    for opened in message.opened:
        if channel.covered == channel.points:
            raise InvalidTransaction("wrong-leaf", "all drawn leaves are open")
        hits = _check_leaf(channel, channel.state, opened, points)
        _add_task(state, message.channel, channel, opened.leaf, hits, epoch)
        channel = msgspec.structs.replace(
            channel,
            covered=channel.covered + hits,
            opened_to=opened.leaf.total,
            held=channel.held - opened.leaf.cost,
        )
    status = CHECKING if channel.covered == channel.points else OPENING
    put_channel(state, message.channel, msgspec.structs.replace(channel, status=status))


def _find(state: State, channel_id: bytes) -> Channel:
    channel = CHANNELS.get(state, channel_id)
    if channel is None or channel.status not in (OPEN, CLOSING):
        raise InvalidTransaction("unknown-channel", "no channel of this id is open")
    return channel


def _require_seated(channel: Channel, told: ChannelState) -> None:
    if told.executor != channel.executor:
        raise InvalidTransaction("wrong-executor", "the state is not with the executor that has the channel")


def _show(
    state: State, params: NetworkParams, chain_id: str, channel_id: bytes, channel: Channel, signed: SignedState | None
) -> None:
    """Errors: InvalidTransaction wrong-channel, no-later-state, and those of `check_state`."""
    if signed is not None:
        if signed.state.channel != channel_id:
            raise InvalidTransaction("wrong-channel", "the state is of another channel")
        executor = nodes.NODES.get(state, channel.executor)
        assert executor is not None, "an executor with a channel stays"
        check_state(params, chain_id, channel, executor.public_key, signed)
    shown = channel.state.count if channel.state is not None else 0
    if channel.status == CLOSING and (signed is None or signed.state.count <= shown):
        raise InvalidTransaction("no-later-state", f"a state of {shown} answers is shown already")
    later = msgspec.structs.replace(channel, state=signed.state if signed is not None else None)
    if channel.status == OPEN:
        end_requests(state, channel_id, later, state.height + params.channels.dispute_blocks)
    else:
        put_channel(state, channel_id, later)


def _forfeit_rest(state: State, params: NetworkParams, channel_id: bytes, channel: Channel, accuser: bytes) -> None:
    """The channel ends; its executor has the time of a dispute to claim what it earned."""
    if channel.accuser:
        raise InvalidTransaction("already-proven", "somebody proved this owner's contradiction before")
    forfeited = msgspec.structs.replace(channel, accuser=accuser)
    end_requests(state, channel_id, forfeited, state.height + params.channels.dispute_blocks)


def _check_leaf(channel: Channel, last: ChannelState, opened: OpenedLeaf, points: list[int]) -> int:
    """How many of the drawn points lie in the leaf; the first of them is the next one that is not covered."""
    leaf = opened.leaf
    start = leaf.total - leaf.cost
    if not channel.opened_to <= start <= points[channel.covered] < leaf.total <= last.total:
        raise InvalidTransaction("wrong-leaf", f"the next drawn point is {points[channel.covered]}")
    if leaf.cost != compute_task_cost(leaf.prompt_tokens, leaf.completion_tokens, channel.token_price):
        raise InvalidTransaction("wrong-cost", f"{leaf.cost} is not the price of the leaf's tokens")
    if not verify_path(last.root, leaf.encode(), leaf.index, last.count, opened.path):
        raise InvalidTransaction("bad-path", f"the root does not hold this leaf at {leaf.index}")
    return count_hits(points, leaf)


def _add_task(state: State, channel_id: bytes, channel: Channel, leaf: Leaf, hits: int, epoch: int) -> None:
    task_id = compute_task_id(channel_id, leaf.index)
    task = Task(
        session=channel_id,
        index=leaf.index,
        seed=channel.seed,
        owner=channel.owner,
        executor=channel.executor,
        relay=channel.relay,
        cost=leaf.cost,
        payload_hash=leaf.payload_hash,
        prompt_hash=leaf.prompt_hash,
        prompt_tokens=leaf.prompt_tokens,
        completion_tokens=leaf.completion_tokens,
        epoch=epoch,
        height=state.height,
        status=DRAWING,
        round_index=beacon.request_round(state),
        slots=hits,
        model=channel.model,
    )
    TASKS.put(state, task_id, task)
    OPEN_TASKS.put(state, task_id, 0)
    LEAVES.put(state, leaf_key(channel_id, leaf.index), 0)
    state.emit("task", task=task_id.hex(), executor=channel.executor.hex(), cost=leaf.cost, status=DRAWING)
