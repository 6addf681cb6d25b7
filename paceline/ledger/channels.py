"""Channels: open, draw the one executor, pass to the next one once, and what becomes of each at its height.

The escrow is final before the beacon value that draws, as with sessions. What both sides signed comes to the ledger by
`channel_closes`. A drawn channel costs its owner a share of the deposit at least, used or not, or whoever opens them could
open until the draw suits; what its answers lack of it goes to the training fund. Invariant: a channel ends in one way only: settled, refunded, or forfeited by its owner.
Source: decision 033.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM, mul_div_floor
from paceline.base.keys import verify_signature
from paceline.ledger import attendance, beacon, nodes
from paceline.ledger.accounts import HELD_PAY, RESERVE, SESSION_ESCROW, TRAINING_FUND, move_coins
from paceline.ledger.channel_records import (
    CHANNELS,
    CHECKING,
    CLOSING,
    DRAWING,
    EXPIRY,
    INDEX_BYTES,
    LEAVES,
    OPEN,
    OPENING,
    SAMPLING,
    SETTLED,
    WATCHED,
    Channel,
    compute_channel_id,
    end_requests,
    put_channel,
    remove_channel,
)
from paceline.ledger.check_rates import compute_rate_ppm
from paceline.ledger.sessions import compute_task_id, get_executors, require_open
from paceline.ledger.state import State
from paceline.ledger.task_pay import convict
from paceline.ledger.tasks import OPEN_TASKS
from paceline.protocol.channels import OpenChannel, PassChannel
from paceline.protocol.messages import BUSY, LATE, Skip
from paceline.protocol.params import NetworkParams


def apply_open(
    state: State, params: NetworkParams, sender: bytes, key: bytes, transaction_hash: bytes, message: OpenChannel
) -> None:
    """Take the deposit into escrow and ask the beacon for the executor.

    Errors: InvalidTransaction long-channel, and those of `require_open`.
    """
    price = require_open(state, params, message)
    if message.blocks > params.channels.most_blocks:
        raise InvalidTransaction("long-channel", f"a channel lives {params.channels.most_blocks} heights at most")
    move_coins(state, sender, SESSION_ESCROW, message.deposit)
    channel_id = compute_channel_id(sender, transaction_hash)
    channel = Channel(
        owner=sender,
        owner_key=key,
        relay=message.relay,
        model=message.model,
        token_price=price,
        deposit=message.deposit,
        left=message.deposit,
        status=DRAWING,
        round_index=beacon.request_round(state),
        expires_at=state.height + message.blocks,
    )
    put_channel(state, channel_id, channel)
    EXPIRY.put(state, channel.expires_at.to_bytes(8, "big") + channel_id, 0)
    state.emit("channel-open", channel=channel_id.hex(), owner=sender.hex(), deposit=message.deposit)


def apply_pass(
    state: State, params: NetworkParams, chain_id: str, sender: bytes, message: PassChannel, epoch: int
) -> None:
    """The next executor takes over: at once from one that signed busy, else when the late one turns out to be away.

    Errors: InvalidTransaction unknown-channel, already-doubted, too-late, bad-skip.
    """
    channel = CHANNELS.get(state, message.channel)
    if channel is None or channel.status != OPEN or channel.relay != sender:
        raise InvalidTransaction("unknown-channel", "this relay has no open channel of this id")
    if channel.is_doubted:
        raise InvalidTransaction("already-doubted", "the executor has its time to show itself")
    if state.height > channel.seated_at + params.channels.pass_blocks:
        raise InvalidTransaction("too-late", f"an executor is passed by within {params.channels.pass_blocks} heights")
    skip = Skip(channel.executor, message.kind, message.height, message.signature)
    _check_skip(state, chain_id, message.channel, channel, skip)
    attendance.count_skip(state, params, epoch, channel.relay, skip)
    if skip.kind == LATE:
        put_channel(state, message.channel, msgspec.structs.replace(channel, is_doubted=True))
    else:
        _take_next(state, params, epoch, message.channel, channel)


def compute_reserve(params: NetworkParams, deposit: int, token_price: int) -> int:
    """What a drawn channel costs its owner in any case. Units: nicoin."""
    least = params.tasks.unused_tokens * token_price * params.tasks.least_indices
    return min(deposit, max(least, mul_div_floor(deposit, params.channels.reserve_ppm, PPM)))


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Do what is due: draws, ends of windows, samples, guilt of who opens nothing."""
    for key, _ in EXPIRY.scan(state):
        if int.from_bytes(key[:8], "big") > state.height:
            break
        EXPIRY.delete(state, key)
        _expire(state, params, key[8:])
    for channel_id, _ in WATCHED.items(state):
        # A conviction earlier in this loop removes other channels of the same executor.
        channel = CHANNELS.get(state, channel_id)
        if channel is not None:
            _advance(state, params, epoch, channel_id, channel)


def _check_skip(state: State, chain_id: str, channel_id: bytes, channel: Channel, skip: Skip) -> None:
    signer = nodes.NODES.get(state, channel.executor if skip.kind == BUSY else channel.relay)
    if signer is None or not channel.drawn_at <= skip.height <= state.height:
        raise InvalidTransaction("bad-skip", f"height {skip.height} is not between the channel's draw and now")
    if not verify_signature(signer.public_key, skip.signed_bytes(chain_id, channel_id, 0), skip.signature):
        raise InvalidTransaction("bad-skip", f"the {skip.kind} mark is not signed by who has to sign it")


def _expire(state: State, params: NetworkParams, channel_id: bytes) -> None:
    channel = CHANNELS.get(state, channel_id)
    if channel is None:
        return
    if channel.status == OPEN:
        end_requests(state, channel_id, channel, state.height + params.channels.dispute_blocks)
    elif channel.status == DRAWING:
        remove_channel(state, channel_id, channel)


def _advance(state: State, params: NetworkParams, epoch: int, channel_id: bytes, channel: Channel) -> None:
    if channel.status == DRAWING:
        _draw(state, params, epoch, channel_id, channel)
    elif channel.status == OPEN:
        _resolve_doubt(state, params, epoch, channel_id, channel)
    elif channel.status == CLOSING and state.height >= channel.deadline:
        _finish(state, params, channel_id, channel)
    elif channel.status == SAMPLING:
        _sample(state, params, channel_id, channel)
    elif channel.status == OPENING and state.height >= channel.deadline:
        state.emit("leaf-withheld", channel=channel_id.hex(), executor=channel.executor.hex())
        convict(state, params, channel.executor, epoch)
    elif channel.status == CHECKING:
        _await_checks(state, channel_id, channel)


def _draw(state: State, params: NetworkParams, epoch: int, channel_id: bytes, channel: Channel) -> None:
    seed = beacon.derive_at(state, channel.round_index, "channel", channel_id)
    if seed is None:
        return
    version = nodes.get_version(state)
    drawn = msgspec.structs.replace(channel, status=OPEN, seed=seed, version=version, drawn_at=state.height)
    _seat(state, params, epoch, channel_id, drawn)


def _seat(state: State, params: NetworkParams, epoch: int, channel_id: bytes, channel: Channel) -> None:
    """Give the channel to the first in the drawn order behind its former executor that is there."""
    order = get_executors(state, channel, compute_task_id(channel_id, 0))
    behind = order[order.index(channel.executor) + 1 :] if channel.executor in order else order
    seated = next((a for a in behind if attendance.is_eligible(state, params, epoch, a)), None)
    if seated is None:
        remove_channel(state, channel_id, channel)
        return
    taken = msgspec.structs.replace(channel, executor=seated, seated_at=state.height, is_doubted=False)
    put_channel(state, channel_id, taken)
    state.emit("channel-ready", channel=channel_id.hex(), executor=seated.hex())


def _take_next(state: State, params: NetworkParams, epoch: int, channel_id: bytes, channel: Channel) -> None:
    if channel.passed:
        remove_channel(state, channel_id, channel)
        return
    _seat(state, params, epoch, channel_id, msgspec.structs.replace(channel, passed=1))


def _resolve_doubt(state: State, params: NetworkParams, epoch: int, channel_id: bytes, channel: Channel) -> None:
    if attendance.is_away(state, params, channel.executor):
        _take_next(state, params, epoch, channel_id, channel)
    elif not attendance.is_marked(state, channel.executor):
        put_channel(state, channel_id, msgspec.structs.replace(channel, is_doubted=False))


def _finish(state: State, params: NetworkParams, channel_id: bytes, channel: Channel) -> None:
    """The window is over: the last state shown is the channel's account."""
    last = channel.state
    total, count = (last.total, last.count) if last is not None else (0, 0)
    # To the fund and not to the executor, which would earn it by refusing to answer.
    lacking = max(0, compute_reserve(params, channel.deposit, channel.token_price) - total)
    if count == 0 and attendance.is_away(state, params, channel.executor):
        lacking = 0
    rest = channel.left - total - lacking
    bounty = min(params.race.bounty, rest // 2) if channel.accuser else 0
    move_coins(state, SESSION_ESCROW, TRAINING_FUND, lacking)
    move_coins(state, SESSION_ESCROW, channel.accuser, bounty)
    move_coins(state, SESSION_ESCROW, RESERVE if channel.accuser else channel.owner, rest - bounty)
    move_coins(state, SESSION_ESCROW, HELD_PAY, total)
    state.emit("channel-closed", channel=channel_id.hex(), count=count, total=total, returned=rest - bounty)
    if count == 0:
        remove_channel(state, channel_id, msgspec.structs.replace(channel, left=0))
        return
    nodes.add_to_node(state, channel.executor, tasks=count, held=total)
    # An answer below the charge of an unused index is no whole task, or answers that cost nothing would be made to count.
    answered = min(count, total // max(1, params.tasks.unused_tokens * channel.token_price))
    attendance.note_answer(state, params, channel.executor, answered)
    closed = msgspec.structs.replace(
        channel, left=0, held=total, status=SAMPLING, round_index=beacon.request_round(state)
    )
    put_channel(state, channel_id, closed)


def _sample(state: State, params: NetworkParams, channel_id: bytes, channel: Channel) -> None:
    seed = beacon.derive_at(state, channel.round_index, "channel-sample", channel_id)
    last = channel.state
    if seed is None or last is None:
        return
    rate = compute_rate_ppm(state, params, channel.executor, last.total // last.count)
    points = max(1, (last.count * rate + PPM - 1) // PPM)
    deadline = state.height + params.channels.open_blocks
    sampled = msgspec.structs.replace(channel, status=OPENING, sample_seed=seed, points=points, deadline=deadline)
    put_channel(state, channel_id, sampled)


def _await_checks(state: State, channel_id: bytes, channel: Channel) -> None:
    waiting = False
    for key, _ in LEAVES.items(state, channel_id):
        index = int.from_bytes(key[-INDEX_BYTES:], "big")
        if OPEN_TASKS.get(state, compute_task_id(channel_id, index)) is None:
            LEAVES.delete(state, key)
        else:
            waiting = True
    if not waiting:
        put_channel(state, channel_id, msgspec.structs.replace(channel, status=SETTLED))
