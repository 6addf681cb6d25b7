"""An executor's channels: answers index by index against the user's signature, and what the ledger has to be told of them.

The next answer is begun only when the user signed for all before it, so neither side ever stands to lose more than one. A
channel is claimed before it expires, when its relay calls this node late, and whenever its owner shows less than both signed;
drawn leaves are opened at once.
It refuses to know who asks. Invariant: nothing is signed that is not on disk.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from paceline.base.errors import Invalid
from paceline.base.keys import verify_signature
from paceline.base.merkle import build_paths
from paceline.economy.pay import compute_task_cost
from paceline.ledger.channel_records import CHANNELS, CLOSING, OPEN, OPENING, Channel, count_hits, draw_points
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.state import State
from paceline.network.wire import PeerRequest
from paceline.node.answers.channel_book import Account
from paceline.node.context import Context
from paceline.node.roles.executor import ExecutorRole, Place
from paceline.protocol.answers import (
    MAX_ORDER_BYTES,
    BusyFrame,
    ChannelOrder,
    FailFrame,
    StateFrame,
    TaskOrder,
    decode_frame,
)
from paceline.protocol.channels import (
    ClaimChannel,
    Countersigned,
    Leaf,
    OpenedLeaf,
    OpenLeaves,
    SignedState,
)
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import Receipt, Voucher

PATH, SIGN_PATH = "channel", "channel-state"
MAX_STATE_BYTES = 256
CLAIM_BLOCKS = 24
"""A channel is claimed this long before it expires, and takes no request for as long before that."""
OPENED_AT_ONCE = 128
LAG_BLOCKS = 2
LAG_SECONDS = 1.0
UNSIGNED, IN_WORK = "unsigned", "in-work"


class ChannelHost:
    """Serves the channels that the beacon gave to this node."""

    def __init__(self, context: Context, executor: ExecutorRole) -> None:
        self._context = context
        self._executor = executor
        self._book = executor.book
        self._serving: set[bytes] = set()
        context.metrics.gauge("executor_channels", lambda: len(self._book.list_channels()))

    def on_block(self, state: State) -> None:
        """Claim, show a later state, open leaves, forget."""
        for channel_id in self._book.list_channels():
            channel = CHANNELS.get(state, channel_id)
            if channel is None or channel.executor != self._context.address:
                self._book.forget(channel_id)
            elif channel.status in {OPEN, CLOSING}:
                self._claim(state, channel_id, channel)
            elif channel.status == OPENING:
                self._open(channel_id, channel)

    async def sign(self, request: PeerRequest) -> bytes:
        """The user's signature over the state behind the last answer. Errors: Invalid, as `_accept` lists them."""
        owed = decode(Countersigned, request.body, limit_bytes=MAX_STATE_BYTES)
        channel_id = owed.state.channel
        channel = self._find(self._context.chain.read(), channel_id, request.sender_address)
        self._accept(channel_id, channel, owed)
        return b""

    async def serve(self, request: PeerRequest) -> AsyncGenerator[bytes, None]:
        """Frames of the next answer of a channel, the state behind it before the end.

        What the user has not signed for is shown again in the place of an answer.
        Errors: Invalid when the order does not hold.
        """
        order = decode(ChannelOrder, request.body, limit_bytes=MAX_ORDER_BYTES)
        channel = await self._wait_for_channel(order, request.sender_address)
        self._check_order(channel, order)
        if order.owed is not None:
            self._accept(order.channel, channel, order.owed)
        account = self._book.get(order.channel)
        told = order.owed.state.count if order.owed is not None else 0
        task_id = compute_task_id(order.channel, account.count)
        if order.channel in self._serving or self._executor.is_making(task_id):
            yield encode(FailFrame(IN_WORK, "the answer before this one is still in the making"))
            return
        if account.count > told and account.last_leaf is not None:
            yield encode(StateFrame(account.last_leaf, account.signature))
            yield encode(FailFrame(UNSIGNED, f"answer {account.count} waits for the user's signature"))
            return
        self._executor.forget(task_id)
        self._serving.add(order.channel)
        try:
            async with aclosing(self._executor.answer(request, self._place(channel, order, account))) as frames:
                async for frame in frames:
                    self._note_busy(order.channel, account, frame)
                    yield frame
        finally:
            self._serving.discard(order.channel)

    async def _wait_for_channel(self, order: ChannelOrder, relay: bytes) -> Channel:
        """Follow a relay that stands a block ahead."""
        chain = self._context.chain
        for _ in range(LAG_BLOCKS):
            channel = CHANNELS.get(chain.read(), order.channel)
            if channel is not None and channel.executor:
                break
            await chain.wait_height(chain.height + 1, LAG_SECONDS)
        return self._find(chain.read(), order.channel, relay)

    def _find(self, state: State, channel_id: bytes, relay: bytes) -> Channel:
        channel = CHANNELS.get(state, channel_id)
        if channel is None or channel.executor != self._context.address or channel.relay != relay:
            raise Invalid("unknown-channel", "no channel of this id joins this relay and this node")
        return channel

    def _check_order(self, channel: Channel, order: ChannelOrder) -> None:
        if channel.status != OPEN or self._context.chain.height >= channel.expires_at - 2 * CLAIM_BLOCKS:
            raise Invalid("channel-over", "the channel takes no request any more")
        if order.request.model != channel.model:
            raise Invalid("wrong-model", f"the channel is for {channel.model}, the request for {order.request.model}")
        account = self._book.get(order.channel)
        if account.refused:
            raise Invalid("channel-refused", "this node signed that it has no room for the channel")
        if account.count >= self._context.params.channels.most_tasks:
            raise Invalid("channel-full", f"the channel has its {account.count} answers")

    def _accept(self, channel_id: bytes, channel: Channel, owed: Countersigned) -> None:
        """Keep a signature of the user. Errors: Invalid wrong-state, bad-state."""
        account = self._book.get(channel_id)
        if owed.state.count <= account.agreed:
            return
        if owed.state != account.last:
            raise Invalid("wrong-state", f"this node stands at {account.count} answers for {account.total} nicoin")
        text = owed.state.signed_bytes(self._context.chain.chain_id)
        if not verify_signature(channel.owner_key, text, owed.signature):
            raise Invalid("bad-state", "the state is not signed by the channel's owner")
        self._book.countersign(channel_id, owed.state.count, owed.signature)

    def _place(self, channel: Channel, order: ChannelOrder, account: Account) -> Place:
        """The order in the words of a session's; what stands for the voucher is signed by nobody and leaves nowhere."""
        voucher = Voucher(
            session=order.channel,
            index=account.count,
            executor=self._context.address,
            prompt_hash=order.request.compute_hash(),
            max_cost=channel.deposit - account.total,
            total=channel.deposit,
            signature=bytes(64),
        )
        return Place(TaskOrder(voucher, order.request), channel, partial(self._commit, channel.token_price))

    def _commit(self, token_price: int, receipt: Receipt) -> StateFrame:
        """On the answer's thread: the leaf, kept and signed."""
        voucher = receipt.voucher
        cost = compute_task_cost(receipt.prompt_tokens, receipt.completion_tokens, token_price)
        leaf = Leaf(
            index=voucher.index,
            prompt_hash=voucher.prompt_hash,
            payload_hash=receipt.payload_hash,
            prompt_tokens=receipt.prompt_tokens,
            completion_tokens=receipt.completion_tokens,
            cost=cost,
            total=self._book.get(voucher.session).total + cost,
        )
        return StateFrame(leaf, self._book.add_leaf(voucher.session, leaf))

    def _note_busy(self, channel_id: bytes, account: Account, frame: bytes) -> None:
        # With this mark the relay may pass the channel on; whatever this node did for it then would be nobody's.
        if account.count == 0 and isinstance(decode_frame(frame), BusyFrame):
            self._book.refuse(channel_id)

    def _claim(self, state: State, channel_id: bytes, channel: Channel) -> None:
        shown = channel.state.count if channel.state is not None else 0
        # Who is called late claims at once what both signed: once the channel is passed on it would be nobody's.
        is_ending = channel.status == CLOSING or channel.is_doubted
        is_due = is_ending or state.height >= channel.expires_at - CLAIM_BLOCKS
        if is_due and shown < self._book.get(channel_id).agreed:
            signed = self._book.get_agreed(channel_id)
            assert signed is not None
            self._context.duties.start(("claim", channel_id), lambda: self._send_claim(signed))

    def _open(self, channel_id: bytes, channel: Channel) -> None:
        self._context.duties.start(("leaves", channel_id), lambda: self._send_leaves(channel_id, channel))

    async def _send_claim(self, signed: SignedState) -> None:
        await self._context.chain.send(ClaimChannel(signed))

    async def _send_leaves(self, channel_id: bytes, channel: Channel) -> None:
        last = channel.state
        assert last is not None
        leaves = self._book.list_leaves(channel_id, last.count)
        drawn = find_drawn(channel, leaves)[:OPENED_AT_ONCE]
        paths = build_paths([leaf.encode() for leaf in leaves], [leaf.index for leaf in drawn])
        opened = tuple(OpenedLeaf(leaf, tuple(path)) for leaf, path in zip(drawn, paths, strict=True))
        await self._context.chain.send(OpenLeaves(channel_id, opened))


def find_drawn(channel: Channel, leaves: list[Leaf]) -> list[Leaf]:
    """The drawn leaves that are not open yet, in the order in which they open."""
    assert channel.state is not None
    points = draw_points(channel.sample_seed, channel.points, channel.state.total)[channel.covered :]
    return [leaf for leaf in leaves if count_hits(points, leaf)]
