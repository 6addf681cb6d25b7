"""Answers requests that the public draw gave to this node, and sends the receipts.

Generation runs on its own threads; a relay that goes away, or reads so slowly that its answer fills the outbox, stops it within
one token. Relays wait in one fair line; who finds it full gets a signed mark and may ask the next drawn node. The executor
sees a relay and a session, never who asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.economy.pay import compute_task_cost
from paceline.inference.backend import Backend, TorchBackend
from paceline.inference.embed import VectorPlan, plan_vector
from paceline.ledger import attendance, nodes, vouchers
from paceline.ledger.channel_records import Channel
from paceline.ledger.indices import is_paid
from paceline.ledger.sessions import SESSIONS, Session, compute_task_id
from paceline.ledger.state import State
from paceline.models.language import LanguageModel
from paceline.network.wire import PeerRequest
from paceline.node.answers.answering import Answer, AnswerMaker, Outbox
from paceline.node.answers.channel_book import ChannelBook
from paceline.node.answers.load import Load
from paceline.node.answers.payloads import SWEEP_BLOCKS, hand_out
from paceline.node.answers.queues import FairQueue, QueueFull
from paceline.node.ceremony import CeremonyKey
from paceline.node.cheats import CHEAP_MODEL
from paceline.node.context import Context
from paceline.node.dummies.idle import IdleWorker
from paceline.node.models import ModelHost
from paceline.node.settings import RELEASE
from paceline.node.tracing import read_parent
from paceline.protocol.answers import (
    MAX_ORDER_BYTES,
    AnswerRequest,
    BusyFrame,
    Frame,
    Request,
    TaskOrder,
    derive_sampler_seed,
)
from paceline.protocol.codec import decode, decode_own, encode
from paceline.protocol.messages import BUSY, DescribeNode, Receipt, Skip, SubmitReceipts, Voucher
from paceline.protocol.transcripts import GenerationRequest
from paceline.verification.payloads import build_generation

LOG = logging.getLogger(__name__)
MAX_WAITING = 16
MAX_WAITING_PER_RELAY = 12
"""Both for each answer that may be in the making at once. One relay alone never fills the line."""
OUTBOX_BYTES = 1024 * 1024
"""Made and not yet read; who lets more pile up counts as gone, and pays for what was made."""
FORGET_BLOCKS = 64
MAX_BATCH = 32
LAG_BLOCKS = 2
LAG_SECONDS = 1.0
"""How long an order may wait for the block that this node does not have yet, per block."""


@dataclass(frozen=True)
class Place:
    """An order that holds, the escrow that pays for it, and what keeps its receipt when this node's folder does not."""

    order: TaskOrder
    session: Session | Channel
    commit: Callable[[Receipt], Frame] | None = None

    @property
    def task_id(self) -> bytes:
        """The task that is answered."""
        return compute_task_id(self.order.voucher.session, self.order.voucher.index)


class ExecutorRole:
    """Serve orders, keep receipts until they are on the ledger."""

    def __init__(self, context: Context, host: ModelHost, key: CeremonyKey) -> None:
        self._context = context
        self._host = host
        self._backends: dict[str, Backend] = {}
        """Engines beside the one in this process, by model."""
        self._torch = TorchBackend()
        self._slots = context.settings.parallel_answers
        self.line = self._make_line()
        self._accepted: dict[bytes, int] = {}
        """Tasks taken, with the height behind which their session takes no request any more."""
        self._receipts = context.work_path / "receipts"
        self._receipts.mkdir(parents=True, exist_ok=True)
        self._maker = AnswerMaker(context, self._receipts, key)
        self.book = ChannelBook(context.work_path / "channels.sqlite", context.key, context.chain.chain_id)
        self._idle = IdleWorker(context, host, self._maker, self._receipts, self._get_backend)
        self._making: set[bytes] = set()
        """Tasks whose payload may be on disk before their receipt is."""
        self._spans: dict[bytes, str] = {}
        """What the trace of a task is called, for its checkers; empty where tracing is off."""
        context.metrics.gauge("executor_slots", lambda: self._slots)
        context.metrics.gauge("executor_under_way", lambda: self.line.under_way)
        context.metrics.gauge("executor_waiting", lambda: self.line.waiting)
        context.metrics.gauge("executor_tokens_total", lambda: self._maker.tokens.total)

    def use_backend(self, model_id: str, backend: Backend) -> None:
        """Let another engine answer for a model; before orders come."""
        self._backends[model_id] = backend
        self._slots = max(self._slots, backend.parallel)
        self.line = self._make_line()

    def on_block(self, state: State) -> None:
        """Send waiting receipts; show drawn errors; forget what the ledger has, and what nobody will ask for; answer to being called late."""
        self._show_presence(state)
        self._maker.traps.on_block(state)
        if self._context.settings.idle == RELEASE and not self.line.under_way and not self._making:
            self._host.release(self._context.settings.release_after_seconds)
        if state.height % FORGET_BLOCKS == 0:
            self._accepted = {task: until for task, until in self._accepted.items() if until > state.height}
        self._idle.on_block(state, is_free=not (self.line.under_way or self.line.waiting or self._making))
        waiting = []
        for path in sorted(self._receipts.glob("*.receipt")):
            voucher = decode_own(Receipt, path.read_bytes()).voucher
            if is_paid(state, voucher.session, voucher.index):
                path.unlink()
            else:
                waiting.append(path)
        if waiting:
            names = [path.name for path in waiting[:MAX_BATCH]]
            self._context.duties.start("receipts", lambda: self._submit(names))
        if state.height % SWEEP_BLOCKS == 0:
            self._spans = {task: name for task, name in self._spans.items() if task in self._accepted}
            marked = self._idle.list_tasks()
            kept = self._making | {bytes.fromhex(path.stem) for path in waiting} | self.book.list_tasks(state) | marked
            self._maker.vault.sweep(state, self._context.address, kept)
            self._maker.traces.sweep(state, marked)

    async def serve(self, request: PeerRequest) -> AsyncGenerator[bytes, None]:
        """Frames of one answer; one BusyFrame when this node is full, or its engine not ready.

        Errors: Invalid when the order does not hold.
        """
        order = decode(TaskOrder, request.body, limit_bytes=MAX_ORDER_BYTES)
        await self._wait_for_session(order.voucher.session)
        state = self._context.chain.read()
        session, _ = self._check_order(state, request.sender_address, order)
        async with aclosing(self.answer(request, Place(order, session))) as frames:
            async for frame in frames:
                yield frame

    async def answer(self, request: PeerRequest, place: Place) -> AsyncGenerator[bytes, None]:
        """Frames of the answer to an order that holds. Errors: Invalid over-maximum, already-done."""
        self._idle.make_way()
        order, session, task_id = place.order, place.session, place.task_id
        backend = self._get_backend(order.request.model)
        if not _is_ready(backend):
            yield encode(BusyFrame(self._make_busy_mark(order.voucher)))
            return
        model = await self._host.get(order.request.model, cheap=self._context.settings.cheat == CHEAP_MODEL)
        generation = _plan(model, order.request, _derive_seed(session, task_id, order.request), backend.engine)
        most = compute_task_cost(len(generation.prompt_tokens), order.request.max_tokens, session.token_price)
        if most > order.voucher.max_cost:
            raise Invalid("over-maximum", "the voucher does not pay for prompt and max_tokens")
        # Marked before the wait, or the same order sent again meanwhile would be answered twice.
        self._check_undone(self._context.chain.read(), order.voucher, task_id)
        self._accepted[task_id] = session.expires_at
        cost = len(generation.prompt_tokens) + order.request.max_tokens
        try:
            await self._wait_turn(request.sender_address, task_id, cost)
        except QueueFull:
            yield encode(BusyFrame(self._make_busy_mark(order.voucher)))
            return
        parent = read_parent(request.traceparent)
        with self._context.tracing.span("executor", parent, task=task_id.hex()) as traceparent:
            if traceparent:
                self._spans[task_id] = traceparent
            async with aclosing(self._stream(model, place, generation, backend)) as frames:
                async for frame in frames:
                    yield encode(frame)

    async def hand_out(self, request: PeerRequest) -> bytes:
        """The payload of a task, for those who may read it. Errors: as `payloads.hand_out`."""
        reply = hand_out(self._context, self._maker.vault, request, self._spans)
        self._context.metrics.count("payloads_handed_out_total")
        return reply

    async def open_trace(self, request: PeerRequest) -> bytes:
        """The drawn states of one answer of this node. Errors: Invalid, as `TraceKeeper.serve` lists them."""
        return await self._maker.traces.serve(request)

    def is_making(self, task_id: bytes) -> bool:
        """True while an answer is made and its receipt not kept yet."""
        return task_id in self._making

    def forget(self, task_id: bytes) -> None:
        """Let a task be asked for again."""
        self._accepted.pop(task_id, None)

    def measure_load(self) -> Load:
        """What others may know of how busy this node is."""
        model = self._host.loaded
        context_tokens = model.context_tokens if model is not None else 0
        return Load(
            slots=self._slots,
            max_waiting=MAX_WAITING * self._slots,
            under_way=self.line.under_way,
            waiting=self.line.waiting,
            tokens_per_second_milli=self._maker.tokens.compute_rate_milli(),
            wake_milliseconds=round(1_000 * self._host.wake_seconds) if model is None else 0,
            free_context_tokens=context_tokens * max(0, self._slots - self.line.under_way),
        )

    async def _wait_turn(self, relay: bytes, task_id: bytes, tokens: int) -> None:
        try:
            await self.line.enter(relay, tokens)
        except (QueueFull, asyncio.CancelledError):
            del self._accepted[task_id]
            raise

    async def _wait_for_session(self, session_id: bytes) -> None:
        """Follow a relay that stands a block ahead; refusing would hand the drawn task to the next node."""
        chain = self._context.chain
        for _ in range(LAG_BLOCKS):
            session = SESSIONS.get(chain.read(), session_id)
            if session is not None and session.seed:
                return
            await chain.wait_height(chain.height + 1, LAG_SECONDS)

    def _check_order(self, state: State, relay: bytes, order: TaskOrder) -> tuple[Session, bytes]:
        voucher = order.voucher
        session = SESSIONS.get(state, voucher.session)
        if session is None or not session.seed or state.height >= session.expires_at:
            raise Invalid("unknown-session", "no running session has this id")
        task_id = compute_task_id(voucher.session, voucher.index)
        if session.relay != relay or voucher.executor != self._context.address:
            raise Invalid("wrong-address", "relay or executor is not the one that session and voucher name")
        if voucher.index >= session.max_tasks:
            raise Invalid("not-drawn", "the session has fewer tasks")
        vouchers.check_place(state, self._context.chain.chain_id, session, voucher)
        self._check_undone(state, voucher, task_id)
        if order.request.model != session.model:
            raise Invalid("wrong-model", f"the session is for {session.model}, the request for {order.request.model}")
        if voucher.prompt_hash != order.request.compute_hash():
            raise Invalid("wrong-prompt", "the voucher names another request")
        vouchers.check_owner(self._context.chain.chain_id, session, voucher)
        return session, task_id

    def _check_undone(self, state: State, voucher: Voucher, task_id: bytes) -> None:
        """A restarted node has forgotten what it accepted, but not its receipts."""
        kept = (self._receipts / f"{task_id.hex()}.receipt").exists()
        if kept or task_id in self._accepted or is_paid(state, voucher.session, voucher.index):
            raise Invalid("already-done", "this task was answered before")

    def _get_backend(self, model_id: str) -> Backend:
        return self._backends.get(model_id, self._torch)

    def _make_line(self) -> FairQueue:
        slots = self._slots
        return FairQueue(
            lambda: slots, max_waiting=MAX_WAITING * slots, max_waiting_per_user=MAX_WAITING_PER_RELAY * slots
        )

    def _make_busy_mark(self, voucher: Voucher) -> Skip:
        context = self._context
        unsigned = Skip(context.address, BUSY, context.chain.height, bytes(64))
        text = unsigned.signed_bytes(context.chain.chain_id, voucher.session, voucher.index)
        return msgspec.structs.replace(unsigned, signature=context.key.sign(text))

    def _show_presence(self, state: State) -> None:
        """A node that a relay calls late, and that is there, says so in time; otherwise nobody would ask it again."""
        node = nodes.NODES.get(state, self._context.address)
        if node is not None and attendance.is_marked(state, self._context.address):
            message = DescribeNode(node.url, node.link, node.serves)
            self._context.duties.start("present", lambda: self._send(message))

    async def _send(self, message: DescribeNode) -> None:
        await self._context.chain.send(message)

    async def _stream(
        self, model: LanguageModel, place: Place, generation: GenerationRequest | VectorPlan, backend: Backend
    ) -> AsyncGenerator[Frame, None]:
        outbox = Outbox(OUTBOX_BYTES)
        order = place.order
        answer = Answer(model, order, generation, backend, outbox.gone, outbox.push, place.commit)
        task_id, began = answer.task_id, time.monotonic()
        self._making.add(task_id)
        # Ends with the generation and not with the stream: a relay that reads slowly must not keep this node from its Race.
        self._context.serving.begin()
        # Another process does the work of a backend that takes many; the thread only waits for it.
        kind = "stream" if backend.parallel > 1 and isinstance(order.request, AnswerRequest) else "answer"
        work = asyncio.ensure_future(self._context.threads.run(kind, self._maker.make, answer))
        work.add_done_callback(lambda done: self._release(done, task_id, began))
        try:
            while (frame := await outbox.take()) is not None:
                yield frame
        finally:
            outbox.gone.set()

    def _release(self, work: asyncio.Future[None], task_id: bytes, began: float) -> None:
        self._making.discard(task_id)
        self.line.leave(time.monotonic() - began)
        self._context.serving.end()
        if not work.cancelled() and (problem := work.exception()) is not None:
            LOG.error("answer failed", exc_info=problem)

    async def _submit(self, names: list[str]) -> None:
        receipts = [decode_own(Receipt, (self._receipts / name).read_bytes()) for name in names]
        try:
            await self._context.chain.send(SubmitReceipts(tuple(receipts)))
        except InvalidTransaction as problem:
            if len(names) > 1:
                # One bad receipt must not hold back the others.
                for name in names:
                    await self._submit([name])
                return
            LOG.warning("receipt %s is refused: %s", names[0], problem)
            (self._receipts / names[0]).rename(self._receipts / f"{names[0]}.refused")


def _is_ready(backend: Backend) -> bool:
    try:
        backend.check_ready()
    except WorkError as problem:
        LOG.info("no answers now: %s", problem)
        return False
    return True


def _plan(model: LanguageModel, request: Request, seed: bytes, engine: str) -> GenerationRequest | VectorPlan:
    if not isinstance(request, AnswerRequest):
        return plan_vector(model, request.prompt)
    return build_generation(model, request, seed, engine)


def _derive_seed(session: Session | Channel, task_id: bytes, request: Request) -> bytes:
    if not isinstance(request, AnswerRequest):
        return b""
    return derive_sampler_seed(session.seed, task_id, request, session.owner)
