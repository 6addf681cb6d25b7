"""A relay's channels: heavy traffic beside the ledger, one executor a channel, one answer at a time on each.

Every answer's leaf is compared with what was asked before the user signs for it. A channel whose executor fails, cheats in its
account or is used up is closed with the last state that both signed. It refuses to know sessions: who finds no free channel
asks there. Channels live in memory: what a former run left open is closed, never used, since nobody knows what was signed in
it. Invariant: for one count of one executor the user signs one state; what it never saw it signs for only as far as it asked for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec

from paceline.base.errors import Invalid, TransportError
from paceline.base.keys import AccountKey, verify_signature
from paceline.base.merkle import GrowingTree
from paceline.economy.pay import compute_task_cost
from paceline.ledger import compute_credits, nodes, prices
from paceline.ledger.accounts import get_account
from paceline.ledger.channel_records import CHANNELS, DRAWING, OPEN, Channel, compute_channel_id
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.state import State
from paceline.node.context import Context
from paceline.node.roles.answer_events import FullError
from paceline.node.roles.channels import CLAIM_BLOCKS, IN_WORK, PATH, SIGN_PATH, UNSIGNED
from paceline.node.roles.relay_sessions import DEPOSIT, REOPEN_SHARE
from paceline.protocol.answers import (
    BusyFrame,
    ChannelOrder,
    EndFrame,
    FailFrame,
    Request,
    StateFrame,
    TextFrame,
    VectorFrame,
    decode_frame,
)
from paceline.protocol.channels import (
    ChannelState,
    CloseChannel,
    Countersigned,
    OpenChannel,
    PassChannel,
    SignedState,
)
from paceline.protocol.codec import encode
from paceline.protocol.messages import LATE, Skip

LOG = logging.getLogger(__name__)
MARGIN_BLOCKS = 3 * CLAIM_BLOCKS
"""A channel that ends as soon takes no further request."""
LOOK_BLOCKS = 24
"""How often the ledger is searched for channels of ours that nobody here knows of."""
MAX_FAILURES = 3
"""Failed answers in a row that end a channel."""


@dataclass
class Lane:
    """One channel of ours, with what both sides agreed on."""

    channel_id: bytes
    executor: bytes
    deposit: int
    token_price: int
    tree: GrowingTree = field(default_factory=GrowingTree)
    total: int = 0
    owed: Countersigned | None = None
    signed: SignedState | None = None
    asked: dict[bytes, int] = field(default_factory=dict)
    """Maximum cost of every prompt that was asked for as the next answer, by its hash."""
    busy: bool = False
    client_left: bool = False
    """The last answer ended because nobody wanted it any more."""
    unseen: bool = False
    """The user signed for an answer whose end it has not seen, and has seen none since."""
    failures: int = 0
    passing: PassChannel | None = None
    """On its way to the ledger: what an executor that is passed by answered and had signed would be lost to it."""

    @property
    def left(self) -> int:
        """Nicoin that further answers may cost."""
        return self.deposit - self.total

    @property
    def task_id(self) -> bytes:
        """The task that the next answer is."""
        return compute_task_id(self.channel_id, self.tree.count)


class ChannelPool:
    """The channels of one account for one model."""

    def __init__(self, context: Context, model_id: str, user: AccountKey, size: int) -> None:
        self._context = context
        self._model_id = model_id
        self._user = user
        self._size = size
        self._lanes: dict[bytes, Lane] = {}
        self._opening = False
        self._undrawn: set[bytes] = set()
        """Opened by this run; nothing was asked for in them."""
        self._closing: dict[bytes, SignedState | None] = {}
        """Sent to their end until the ledger says that they are closing."""
        self._next_look = 0
        if size:
            context.metrics.gauge("relay_channels", lambda: len(self._lanes))

    @property
    def lanes(self) -> list[Lane]:
        """Channels that take requests or are busy with one."""
        return list(self._lanes.values())

    def prepare(self) -> None:
        """Follow the ledger, end what is used up or forgotten, open what is missing."""
        state = self._context.chain.read()
        for lane in self.lanes:
            self._follow(lane, CHANNELS.get(state, lane.channel_id))
        self._adopt_drawn(state)
        self._find_forgotten(state)
        self._end_closing(state)
        rich = get_account(state, self._user.address).balance > DEPOSIT + self._context.params.transfer_fee
        missing = len(self._lanes) + len(self._undrawn) < self._size
        if missing and rich and nodes.is_served(state, self._model_id):
            self._context.duties.start(("open-channel", self._model_id), self.open)

    def take(self, tokens: int) -> Lane | None:
        """A free channel that can pay for so many tokens, now busy; None when there is none."""
        state = self._context.chain.read()
        for lane in self.lanes:
            channel = CHANNELS.get(state, lane.channel_id)
            if channel is None or channel.status != OPEN or channel.executor != lane.executor or channel.is_doubted:
                continue
            if not lane.busy and lane.passing is None and lane.left >= tokens * lane.token_price:
                lane.busy = True
                return lane
        return None

    async def ask(
        self, lane: Lane, request: Request, max_cost: int
    ) -> AsyncGenerator[TextFrame | VectorFrame | EndFrame, None]:
        """Frames of the lane's next answer; the user has signed for it when the end is told.

        Errors: TransportError when the executor fails, or tells of another answer than was asked for.
        """
        try:
            try:
                async with aclosing(self._stream(lane, request, max_cost)) as frames:
                    async for frame in frames:
                        yield frame
            except _UnsignedError:
                # The answer before this one broke off here and not there: it is signed for by now.
                async with aclosing(self._stream(lane, request, max_cost)) as frames:
                    async for frame in frames:
                        yield frame
            lane.failures, lane.unseen = 0, False
        except (asyncio.CancelledError, GeneratorExit):
            # What was asked for is cleared by the signature: who leaves behind the end leaves nothing open.
            lane.client_left = bool(lane.asked)
            raise
        except (TransportError, Invalid) as problem:
            self._note_failure(lane, problem)
            raise
        finally:
            lane.busy = False

    def close(self, lane: Lane) -> None:
        """End a channel with the last state that both signed; tried again with every block until it is on the ledger."""
        self._lanes.pop(lane.channel_id, None)
        self._closing[lane.channel_id] = lane.signed
        self._send_close(lane.channel_id, lane.signed)

    async def open(self) -> None:
        """Open one channel; it takes requests once it is drawn, however long the beacon needs.

        Errors: InvalidTransaction, TransportError; the duty is begun again then.
        """
        blocks = self._context.params.channels.most_blocks
        state = self._context.chain.read()
        price = prices.get_token_price(state, self._context.params, self._model_id)
        opening = OpenChannel(self._context.address, self._model_id, DEPOSIT, blocks, price)
        message = compute_credits.pay_with(state, self._user.address, opening)
        self._opening = True
        try:
            digest, _ = await self._context.chain.send(message, key=self._user)
            self._undrawn.add(compute_channel_id(self._user.address, digest))
        finally:
            self._opening = False

    def _follow(self, lane: Lane, channel: Channel | None) -> None:
        if channel is None or channel.status != OPEN:
            self._lanes.pop(lane.channel_id, None)
        elif channel.executor != lane.executor:
            self._lanes[lane.channel_id] = Lane(lane.channel_id, channel.executor, channel.deposit, channel.token_price)
        elif lane.passing is not None:
            self._send_pass(lane, lane.passing)
        elif not lane.busy and self._is_used_up(lane, channel):
            self.close(lane)

    def _adopt_drawn(self, state: State) -> None:
        for channel_id in sorted(self._undrawn):
            channel = CHANNELS.get(state, channel_id)
            if channel is not None and channel.status == DRAWING:
                continue
            self._undrawn.discard(channel_id)
            if channel is not None and channel.status == OPEN:
                self._lanes[channel_id] = Lane(channel_id, channel.executor, channel.deposit, channel.token_price)

    def _find_forgotten(self, state: State) -> None:
        """Channels of ours that an earlier run opened, or this one without learning of it. Their executors claim what they hold."""
        if self._opening or state.height < self._next_look:
            return
        self._next_look = state.height + LOOK_BLOCKS
        ours = (self._user.address, self._context.address, self._model_id)
        for channel_id, channel in CHANNELS.items(state):
            known = channel_id in self._lanes or channel_id in self._undrawn
            if channel.status == OPEN and (channel.owner, channel.relay, channel.model) == ours and not known:
                self._closing.setdefault(channel_id, None)

    def _end_closing(self, state: State) -> None:
        for channel_id, signed in list(self._closing.items()):
            channel = CHANNELS.get(state, channel_id)
            if channel is None or channel.status != OPEN:
                del self._closing[channel_id]
            else:
                self._send_close(channel_id, signed)

    def _is_used_up(self, lane: Lane, channel: Channel) -> bool:
        most = self._context.params.channels.most_tasks
        over = self._context.chain.height >= channel.expires_at - MARGIN_BLOCKS
        return over or lane.left * REOPEN_SHARE < lane.deposit or lane.tree.count >= most

    async def _stream(
        self, lane: Lane, request: Request, max_cost: int
    ) -> AsyncGenerator[TextFrame | VectorFrame | EndFrame, None]:
        order = encode(ChannelOrder(lane.channel_id, lane.owed, request))
        lane.asked[request.compute_hash()] = max_cost
        told: StateFrame | None = None
        with self._context.tracing.span("relay", task=lane.task_id.hex()) as traceparent:
            async with aclosing(self._context.peers.stream(lane.executor, PATH, order, traceparent)) as frames:
                async for data in frames:
                    frame = decode_frame(data)
                    if isinstance(frame, StateFrame):
                        told = frame
                    elif isinstance(frame, EndFrame):
                        self._agree(lane, told, frame)
                        yield frame
                        return
                    elif isinstance(frame, BusyFrame):
                        raise FullError(frame.skip)
                    elif isinstance(frame, FailFrame):
                        self._read_failure(lane, told, frame)
                    else:
                        yield frame
        raise TransportError("the stream ended early")

    def _read_failure(self, lane: Lane, told: StateFrame | None, frame: FailFrame) -> NoReturn:
        if frame.code == UNSIGNED:
            # One answer of each that broke off is the network's risk; a second in a row is an executor that sells nothing.
            if lane.unseen and not lane.client_left:
                raise _CheatError("a second answer in a row broke off and is to be paid")
            self._agree(lane, told, None)
            lane.unseen, lane.client_left = lane.unseen or not lane.client_left, False
            raise _UnsignedError(frame.message)
        if frame.code == IN_WORK:
            raise _InWorkError(frame.message)
        raise TransportError(f"{frame.code}: {frame.message}")

    def _agree(self, lane: Lane, told: StateFrame | None, end: EndFrame | None) -> None:
        """Compare an answer's leaf with what was asked for, then sign the state behind it.

        Errors: _CheatError.
        """
        if told is None:
            raise _CheatError("no state came with the answer")
        channel = CHANNELS.get(self._context.chain.read(), lane.channel_id)
        if channel is None or channel.executor != lane.executor:
            raise TransportError("the ledger gave the channel to another executor, or to nobody")
        leaf = told.leaf
        if (leaf.index, leaf.total) != (lane.tree.count, lane.total + leaf.cost):
            raise _CheatError(f"leaf {leaf.index} for {leaf.total} follows {lane.tree.count} for {lane.total}")
        if leaf.cost != compute_task_cost(leaf.prompt_tokens, leaf.completion_tokens, channel.token_price):
            raise _CheatError(f"{leaf.cost} is not the price of the tokens")
        if leaf.cost > lane.asked.get(leaf.prompt_hash, -1):
            raise _CheatError("the leaf is of another request, or above its maximum")
        shown = (leaf.payload_hash, leaf.prompt_tokens, leaf.completion_tokens)
        if end is not None and shown != (end.payload_hash, end.prompt_tokens, end.completion_tokens):
            raise _CheatError("leaf and end of the answer differ")
        grown = lane.tree.copy()
        grown.append(leaf.encode())
        state = ChannelState(
            channel=lane.channel_id, executor=lane.executor, count=grown.count, total=leaf.total, root=grown.root
        )
        text = state.signed_bytes(self._context.chain.chain_id)
        node = nodes.NODES.get(self._context.chain.read(), lane.executor)
        if node is None or not verify_signature(node.public_key, text, told.signature):
            raise _CheatError("the executor did not sign the state that its leaf leads to")
        signature = self._user.sign(text)
        lane.tree, lane.total, lane.asked = grown, leaf.total, {}
        lane.owed, lane.signed = Countersigned(state, signature), SignedState(state, signature, told.signature)
        self._push(lane)

    def _push(self, lane: Lane) -> None:
        """The executor has the signature now, and not only with the next request."""
        owed, name = lane.owed, self._context.peers.name_of(lane.executor)
        assert owed is not None
        self._context.duties.start(("countersign", lane.channel_id, owed.state.count), lambda: self._sign(name, owed))

    def _note_failure(self, lane: Lane, problem: Exception) -> None:
        LOG.info("channel %s: %s", lane.channel_id.hex()[:12], problem)
        channel = CHANNELS.get(self._context.chain.read(), lane.channel_id)
        is_full = isinstance(problem, FullError)
        if isinstance(problem, _InWorkError) or channel is None or channel.executor != lane.executor:
            return
        if isinstance(problem, _CheatError):
            self.close(lane)
        elif lane.tree.count == 0 and self._may_pass(channel):
            self._pass(lane, problem.skip if isinstance(problem, FullError) else None)
        elif not is_full:
            lane.failures += 1
            if lane.failures >= MAX_FAILURES:
                self.close(lane)

    def _may_pass(self, channel: Channel) -> bool:
        window = channel.seated_at + self._context.params.channels.pass_blocks
        return not channel.is_doubted and self._context.chain.height < window

    def _pass(self, lane: Lane, skip: Skip | None) -> None:
        if skip is None:
            unsigned = Skip(lane.executor, LATE, self._context.chain.height, bytes(64))
            text = unsigned.signed_bytes(self._context.chain.chain_id, lane.channel_id, 0)
            skip = msgspec.structs.replace(unsigned, signature=self._context.key.sign(text))
        lane.passing = PassChannel(lane.channel_id, skip.kind, skip.height, skip.signature)
        self._send_pass(lane, lane.passing)

    def _send_pass(self, lane: Lane, message: PassChannel) -> None:
        self._context.duties.start(("pass-channel", lane.channel_id), lambda: self._pass_on(lane, message))

    async def _pass_on(self, lane: Lane, message: PassChannel) -> None:
        try:
            await self._context.chain.send(message)
        finally:
            # Either the ledger shows the doubt or the next executor by now, or it refused and all is as before.
            lane.passing = None

    def _send_close(self, channel_id: bytes, signed: SignedState | None) -> None:
        message = CloseChannel(channel_id, signed)
        self._context.duties.start(("close-channel", channel_id), lambda: self._close_as_user(message))

    async def _close_as_user(self, message: CloseChannel) -> None:
        await self._context.chain.send(message, key=self._user)

    async def _sign(self, name: str, owed: Countersigned) -> None:
        await self._context.peers.request(name, SIGN_PATH, encode(owed))


class _UnsignedError(TransportError):
    """The answer before was made and not signed for."""


class _InWorkError(TransportError):
    """The answer before is still being made; nobody's fault."""


class _CheatError(TransportError):
    """The executor's account is not what was asked for."""
