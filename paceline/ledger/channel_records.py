"""What the ledger keeps of a channel, and where its coins stand until they are somebody's.

Its deposit waits in the escrow of sessions. Once it is closed, what the last state counts waits in held pay, and each drawn
leaf takes its own cost along when it becomes a task. Invariant: `left` of all channels is in the escrow, `held` in held pay.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from paceline.base.draws import derive_seed, draw_below
from paceline.base.hashing import hash_parts
from paceline.economy.pay import Pay, compute_pay
from paceline.ledger import nodes, shares
from paceline.ledger.accounts import HELD_PAY, SESSION_ESCROW, move_coins
from paceline.ledger.sessions import ID_BYTES
from paceline.ledger.state import State, Table
from paceline.protocol.channels import ChannelState, Leaf
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams

DRAWING, OPEN, CLOSING = "drawing", "open", "closing"
SAMPLING, OPENING, CHECKING, SETTLED = "sampling", "opening", "checking", "settled"
INDEX_BYTES = 4


class Channel(Record, frozen=True, kw_only=True):
    """An escrow for the answers of one executor through one relay."""

    owner: bytes
    owner_key: bytes
    relay: bytes
    model: str
    token_price: int
    """Nicoin a token, as it was when the channel was opened."""
    deposit: int
    left: int
    status: str
    round_index: int
    expires_at: int
    seed: bytes = b""
    version: int = 0
    """Snapshot of weights that its draw uses."""
    drawn_at: int = 0
    executor: bytes = b""
    seated_at: int = 0
    """Height at which the present executor got the channel."""
    passed: int = 0
    """How often the next executor took over."""
    is_doubted: bool = False
    """The relay calls the executor late; the next one takes over once that one counts as away."""
    state: ChannelState | None = None
    """The latest state that was shown."""
    deadline: int = 0
    accuser: bytes = b""
    """Who proved that the owner contradicted itself; the rest is forfeited then."""
    sample_seed: bytes = b""
    points: int = 0
    """Draws from the money of the last state."""
    covered: int = 0
    """How many of these points lie in leaves that are opened."""
    opened_to: int = 0
    """Money up to the end of the last opened leaf."""
    held: int = 0


CHANNELS: Table[Channel] = Table("channels/by-id", Channel)
WATCHED: Table[int] = Table("channels/watched", int)
"""Channels that something is due of, so that a block looks only at these."""
EXPIRY: Table[int] = Table("channels/expiry", int)
LEAVES: Table[int] = Table("channels/leaves", int)
"""Opened leaves whose tasks are not final, by channel and index."""


def compute_channel_id(owner: bytes, transaction_hash: bytes) -> bytes:
    """16 bytes that name the channel a transaction opens."""
    return hash_parts("channel", owner, transaction_hash)[:ID_BYTES]


def put_channel(state: State, channel_id: bytes, channel: Channel) -> None:
    """Write a channel, and whether blocks have to look at it."""
    CHANNELS.put(state, channel_id, channel)
    if channel.status == SETTLED or (channel.status == OPEN and not channel.is_doubted):
        WATCHED.delete(state, channel_id)
    else:
        WATCHED.put(state, channel_id, 0)


def remove_channel(state: State, channel_id: bytes, channel: Channel) -> None:
    """Return to the owner what nobody earned, and forget the channel."""
    move_coins(state, SESSION_ESCROW, channel.owner, channel.left)
    move_coins(state, HELD_PAY, channel.owner, channel.held)
    if channel.held:
        nodes.add_to_node(state, channel.executor, refunded=channel.held)
    _forget(state, channel_id, channel)
    state.emit("channel-refund", channel=channel_id.hex(), amount=channel.left + channel.held)


def refund_channels(state: State, executor: bytes) -> None:
    """An executor is guilty: users get back what they paid it for leaves that nobody looked at, and all it did not claim yet."""
    for channel_id, channel in CHANNELS.items(state):
        if channel.executor == executor:
            remove_channel(state, channel_id, channel)


def collect_pay(state: State, params: NetworkParams) -> list[tuple[bytes, Pay]]:
    """What executors earned by the leaves that were not drawn; settled channels go."""
    found = []
    for channel_id, channel in CHANNELS.items(state):
        if channel.status == SETTLED:
            part = shares.take_part(state, channel.model, channel.held)
            found.append((channel.executor, compute_pay(channel.held, (), params.fund_ppm, part)))
            _forget(state, channel_id, channel)
    return found


def needs_payloads(state: State, channel_id: bytes) -> bool:
    """True while the leaves of a channel may still be drawn, or have to be opened."""
    channel = CHANNELS.get(state, channel_id)
    return channel is not None and channel.status in {OPEN, CLOSING, SAMPLING, OPENING}


def draw_points(seed: bytes, count: int, total: int) -> list[int]:
    """Places on the line of a channel's money, ascending: a leaf is checked as often as points lie in its stretch.

    Drawn by money and not by number, so that dear answers cannot hide among many cheap ones.
    """
    return sorted(draw_below(derive_seed(seed, "channel-point", i.to_bytes(4, "big")), total) for i in range(count))


def count_hits(points: list[int], leaf: Leaf) -> int:
    """How many of the drawn points lie in a leaf's stretch of the money."""
    return bisect_left(points, leaf.total) - bisect_left(points, leaf.total - leaf.cost)


def leaf_key(channel_id: bytes, index: int) -> bytes:
    """Key of an opened leaf."""
    return channel_id + index.to_bytes(INDEX_BYTES, "big")


def _forget(state: State, channel_id: bytes, channel: Channel) -> None:
    CHANNELS.delete(state, channel_id)
    WATCHED.delete(state, channel_id)
    EXPIRY.delete(state, channel.expires_at.to_bytes(8, "big") + channel_id)
    for key, _ in LEAVES.items(state, channel_id):
        LEAVES.delete(state, key)


def end_requests(state: State, channel_id: bytes, channel: Channel, deadline: int) -> None:
    """No further answers: later states may be shown until the deadline."""
    put_channel(state, channel_id, msgspec.structs.replace(channel, status=CLOSING, deadline=deadline))
    EXPIRY.delete(state, channel.expires_at.to_bytes(8, "big") + channel_id)
