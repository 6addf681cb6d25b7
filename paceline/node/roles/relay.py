"""Takes users' requests to the node that the public draw names, and brings the answer back.

One open session per model pays for many requests; a new one is opened before the old one runs dry, so a request rarely
waits for a block. The relay cannot choose the executor: it walks the drawn order and stops at the first that answers to the end.
A node that dies in the middle is followed by the next drawn under the same index, for which the ledger takes one receipt. Users
wait in one fair line, and slow ones hold this node's bounded buffers, never an executor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import msgspec

from paceline.base.errors import Invalid, TransportError
from paceline.base.keys import AccountKey, verify_signature
from paceline.ledger import attendance, clock, nodes
from paceline.ledger.accounts import get_account
from paceline.ledger.sessions import compute_task_id, get_executors
from paceline.node.answers.continuation import Continuation
from paceline.node.answers.pump import read_ahead
from paceline.node.answers.queues import FairQueue, QueueFull
from paceline.node.context import Context
from paceline.node.dummies.injector import NoDummies
from paceline.node.roles.answer_events import BUFFERING, AnswerEvent, FullError, Started
from paceline.node.roles.channel_relay import ChannelPool, Lane
from paceline.node.roles.relay_sessions import DEPOSIT, OpenedSession, Placed, SessionPool
from paceline.node.views import Busy, GatewayError, UpstreamFailed
from paceline.protocol.answers import (
    BusyFrame,
    EndFrame,
    FailFrame,
    Request,
    StateFrame,
    TaskOrder,
    TextFrame,
    VectorFrame,
    decode_frame,
)
from paceline.protocol.codec import encode
from paceline.protocol.messages import (
    BUSY,
    LATE,
    Skip,
    Voucher,
)

LOG = logging.getLogger(__name__)
MAX_WAITING = 256
MAX_WAITING_PER_USER = 64
SLOTS_OF_UNKNOWN = 9
"""Requests that an executor is thought to take at once while it has not said how many."""


class RelayRole:
    """Sessions for one model, and requests, of the accounts whose keys this relay holds."""

    def __init__(
        self,
        context: Context,
        model_id: str,
        user: AccountKey,
        *,
        channels: int = 0,
        injector: NoDummies | None = None,
    ) -> None:
        self._context = context
        self._injector = injector or NoDummies()
        self._quiet: asyncio.TimerHandle | None = None
        """Sends a dummy unless a user's request comes first."""
        self._model_id = model_id
        self._user = user
        self.sessions = SessionPool(context, model_id, user, self._injector)
        self._counted = (-1, 0)
        """A height, and how many requests the executors could take then."""
        self.channels = ChannelPool(context, model_id, user, channels)
        self.line = FairQueue(self._count_slots, max_waiting=MAX_WAITING, max_waiting_per_user=MAX_WAITING_PER_USER)
        context.metrics.gauge("relay_under_way", lambda: self.line.under_way)
        context.metrics.gauge("relay_waiting", lambda: self.line.waiting)

    async def ask(
        self, request: Request, prompt_tokens: int, user: str = "", *, shares: bool = False
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield Started, TextFrames or one VectorFrame, one EndFrame; a further Started when another node takes over.

        Closing the generator stops the work. `user` names whose share of the line the request takes; with `shares` it lets
        the prompt be used again for dummies. Errors: OutOfFunds, Busy, UpstreamFailed; before Started nothing is charged.
        """
        began, is_first, outcome = time.monotonic(), True, "left"
        try:
            async with (
                self.line.admit(user, prompt_tokens + request.max_tokens),
                aclosing(self._ask_now(request, prompt_tokens, shares=shares)) as answer,
            ):
                async for event in answer:
                    if is_first and isinstance(event, TextFrame):
                        is_first = False
                        self._context.metrics.observe("relay_first_token_seconds", time.monotonic() - began)
                    if isinstance(event, EndFrame):
                        # Before it leaves: who has the end need not ask for more.
                        outcome = "answered"
                    yield event
        except QueueFull as full:
            outcome = "refused"
            raise Busy(str(full), full.retry_after_seconds) from None
        except GatewayError as problem:
            outcome = "refused" if isinstance(problem, Busy) else "failed"
            raise
        finally:
            self._context.metrics.count("relay_requests_total", outcome)

    async def _ask_now(
        self, request: Request, prompt_tokens: int, *, shares: bool
    ) -> AsyncGenerator[AnswerEvent, None]:
        tokens = prompt_tokens + request.max_tokens
        lane = self.channels.take(tokens)
        if lane is not None:
            sent = Continuation()
            try:
                async with aclosing(read_ahead(self._ask_lane(lane, request, tokens, sent), BUFFERING)) as answer:
                    async for event in answer:
                        yield event
            except (TransportError, Invalid) as problem:
                if sent.is_begun:
                    raise UpstreamFailed(f"the answer broke off: {problem}") from None
            else:
                return
        kept = self._injector.note_arrival(request, prompt_tokens, shares=shares)
        if self._send_dummy():
            await asyncio.sleep(self._injector.sample_hold_seconds())
        placed = await self.sessions.place(tokens)
        self._injector.note_placed(kept, placed.task_id)
        self._await_quiet()
        try:
            async with aclosing(read_ahead(self._try_in_order(placed, request), BUFFERING)) as answer:
                async for event in answer:
                    yield event
        finally:
            self.sessions.release(placed)

    async def _ask_lane(
        self, lane: Lane, request: Request, tokens: int, sent: Continuation
    ) -> AsyncGenerator[AnswerEvent, None]:
        """An answer beside the ledger. Errors: TransportError; a session may answer as long as nothing was sent."""
        task_id, executor, started = lane.task_id, lane.executor, False
        async with aclosing(self.channels.ask(lane, request, tokens * lane.token_price)) as frames:
            async for frame in frames:
                if not started:
                    started = True
                    yield Started(task_id, executor, lane.token_price)
                if isinstance(frame, TextFrame):
                    sent.admit(frame)
                yield frame

    def prepare(self) -> None:
        """Open a session ahead of the first request, once the user can pay, this node may relay and others serve."""
        state = self._context.chain.read()
        self._injector.on_block(state)
        relays = nodes.NODES.get(state, self._context.address) is not None
        rich = get_account(state, self._user.address).balance > DEPOSIT
        if relays and rich and nodes.is_served(state, self._model_id):
            self.sessions.open_ahead()
        if relays:
            # Also of who has nothing left: what is to be closed returns its deposit.
            self.channels.prepare()

    async def stop(self) -> None:
        """Give up what is being opened, and what waits for quiet."""
        if self._quiet is not None:
            self._quiet.cancel()
        await self.sessions.stop()

    def _await_quiet(self) -> None:
        """When the next index carries a dummy, send it after a while, so that not all of them come with a user's."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        opened = self.sessions.current
        if opened is not None and self._is_due(opened):
            wait = self._injector.sample_wait_seconds()
            self._quiet = asyncio.get_running_loop().call_later(wait, self._send_dummy)

    def _is_due(self, opened: OpenedSession) -> bool:
        drawn = self._injector.is_drawn(opened.session_id, opened.session, opened.next_index)
        return drawn and self.sessions.is_usable(opened)

    def _send_dummy(self) -> bool:
        """Send a dummy when the next index was drawn for one and the session can pay; past the line, which users wait in."""
        opened = self.sessions.current
        if opened is None or not self._is_due(opened):
            return False
        session_id, index = opened.session_id, opened.next_index
        executors = get_executors(self._context.chain.read(), opened.session, compute_task_id(session_id, index))
        dummy = self._injector.take(session_id, index, executors, self.sessions.count_left(opened))
        if dummy is None:
            return False
        placed = self.sessions.take_index(opened, dummy.tokens)
        self._context.duties.start(("dummy", placed.task_id), lambda: self._ask_dummy(placed, dummy.request))
        self._await_quiet()
        return True

    async def _ask_dummy(self, placed: Placed, request: Request) -> None:
        try:
            # Nobody else than the first was looked at: the next might have seen a lent prompt before.
            alone = replace(placed, executors=placed.executors[:1])
            async with aclosing(self._try_in_order(alone, request)) as answer:
                async for _ in answer:
                    pass
        except GatewayError as problem:
            LOG.info("task %s, of our own, stays unanswered: %s", placed.task_id.hex()[:12], problem)
        finally:
            self.sessions.release(placed)

    async def _try_in_order(self, placed: Placed, request: Request) -> AsyncGenerator[AnswerEvent, None]:
        problems: list[str] = []
        skips: list[Skip] = []
        sent = Continuation()
        for executor in placed.executors:
            if self._is_passed_by(executor):
                skips.append(self._make_late_mark(placed, executor))
                continue
            if sent.is_begun:
                self._context.metrics.count("relay_failovers_total")
            sent.restart()
            try:
                async with aclosing(self._follow(placed, executor, request, sent, tuple(skips))) as events:
                    async for event in events:
                        yield event
            except (TransportError, Invalid) as problem:
                LOG.info("task %s: %s did not answer: %s", placed.task_id.hex()[:12], executor.hex(), problem)
                problems.append(f"{self._context.peers.name_of(executor)}: {problem}")
                skips.append(self._make_mark(placed, executor, problem))
            else:
                return
        told = "; ".join(problems) or "nobody with weight serves the model"
        if sent.is_begun:
            raise UpstreamFailed(f"the answer broke off, and no drawn node could go on with it: {told}")
        if problems and all("limit" in problem for problem in problems):
            raise Busy("every node that could answer is at its limit", self.line.estimate_wait_seconds())
        raise UpstreamFailed(f"no drawn node answered: {told}")

    async def _follow(
        self, placed: Placed, executor: bytes, request: Request, sent: Continuation, skips: tuple[Skip, ...]
    ) -> AsyncGenerator[AnswerEvent, None]:
        """One node's answer behind what the client has already.

        Errors: TransportError when it fails, or its text is not the one begun before.
        """
        started = False
        async with aclosing(self._stream(placed, executor, request, skips)) as frames:
            async for frame in frames:
                if not started:
                    started = True
                    yield Started(placed.task_id, executor, placed.opened.token_price)
                if isinstance(frame, EndFrame):
                    sent.end()
                    yield frame
                elif isinstance(frame, VectorFrame):
                    yield frame
                elif (fresh := sent.admit(frame)) is not None:
                    yield fresh

    async def _stream(
        self, placed: Placed, executor: bytes, request: Request, skips: tuple[Skip, ...]
    ) -> AsyncGenerator[TextFrame | VectorFrame | EndFrame, None]:
        """Frames up to the end frame.

        Errors: TransportError when the executor fails or the stream ends without one.
        """
        order = encode(TaskOrder(self._make_voucher(placed, executor, request, skips), request))
        self._injector.note_sent(placed.task_id, executor)
        with self._context.tracing.span("relay", task=placed.task_id.hex()) as traceparent:
            async with aclosing(self._context.peers.stream(executor, "task", order, traceparent)) as frames:
                async for data in frames:
                    frame = decode_frame(data)
                    if isinstance(frame, FailFrame):
                        raise TransportError(f"{frame.code}: {frame.message}")
                    if isinstance(frame, BusyFrame):
                        raise FullError(frame.skip)
                    if isinstance(frame, StateFrame):
                        raise TransportError("a session's answer has no state of a channel")
                    yield frame
                    if isinstance(frame, EndFrame):
                        return
        raise TransportError("the stream ended early")

    def _make_voucher(self, placed: Placed, executor: bytes, request: Request, skips: tuple[Skip, ...]) -> Voucher:
        unsigned = Voucher(
            session=placed.opened.session_id,
            index=placed.index,
            executor=executor,
            prompt_hash=request.compute_hash(),
            max_cost=placed.max_cost,
            total=placed.total,
            skips=skips,
            signature=bytes(64),
        )
        signature = self._user.sign(unsigned.signed_bytes(self._context.chain.chain_id))
        return msgspec.structs.replace(unsigned, signature=signature)

    def _is_passed_by(self, executor: bytes) -> bool:
        """True for whom nobody needs to ask: guilty in this epoch, or away; a mark says so to the ledger."""
        state, params = self._context.chain.read(), self._context.params
        node = nodes.NODES.get(state, executor)
        epoch = clock.compute_epoch(params, max(1, state.height))
        return node is None or node.guilty == epoch or attendance.is_away(state, params, executor)

    def _make_late_mark(self, placed: Placed, executor: bytes) -> Skip:
        unsigned = Skip(executor, LATE, self._context.chain.height, bytes(64))
        text = unsigned.signed_bytes(self._context.chain.chain_id, placed.opened.session_id, placed.index)
        return msgspec.structs.replace(unsigned, signature=self._context.key.sign(text))

    def _make_mark(self, placed: Placed, executor: bytes, problem: Exception) -> Skip:
        """The executor's own mark when the ledger will take it, else a late one."""
        if not isinstance(problem, FullError):
            return self._make_late_mark(placed, executor)
        skip = problem.skip
        node = nodes.NODES.get(self._context.chain.read(), executor)
        text = skip.signed_bytes(self._context.chain.chain_id, placed.opened.session_id, placed.index)
        sound = node is not None and verify_signature(node.public_key, text, skip.signature)
        in_time = placed.opened.session.drawn_at <= skip.height <= self._context.chain.height
        named = (skip.node, skip.kind) == (executor, BUSY)
        return skip if sound and in_time and named else self._make_late_mark(placed, executor)

    def _count_slots(self) -> int:
        """Requests that all executors together can take, as far as they have said; counted once a height."""
        state = self._context.chain.read()
        if state.height != self._counted[0]:
            serving = [a for a, node in nodes.NODES.items(state) if self._model_id in node.serves]
            loads = [self._context.chain.get_load(a) for a in serving if a != self._context.address]
            told = sum(SLOTS_OF_UNKNOWN if load is None else load.slots + load.max_waiting for load in loads)
            self._counted = (state.height, told)
        return self._counted[1]
