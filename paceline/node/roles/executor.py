"""Answers requests that the public draw gave to this node, and sends the receipts.

A receipt is on disk before the last frame leaves, and stays there until the ledger has it, so a killed node is still
paid for what it did. Generation runs on its own threads; a relay that goes away, or reads so slowly that its answer fills the
outbox, stops it within one token. Relays wait in one fair line. The executor sees a relay and a session, never who asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from threading import Event

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.base.keys import verify_signature
from paceline.economy.pay import compute_task_cost
from paceline.inference.claim import build_transcript
from paceline.inference.run import TokenStep, generate
from paceline.ledger.sessions import SESSIONS, Session, compute_task_id, get_executors, is_paid
from paceline.ledger.state import State
from paceline.models.language import LanguageModel
from paceline.network.wire import PeerRequest
from paceline.node.cheats import CHEAP_MODEL
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.node.load import Load, TokenMeter
from paceline.node.models import ModelHost
from paceline.node.payloads import SWEEP_BLOCKS, PayloadVault, hand_out
from paceline.node.queues import FairQueue, QueueFull
from paceline.node.tracing import read_parent
from paceline.protocol.answers import (
    MAX_ORDER_BYTES,
    EndFrame,
    FailFrame,
    Frame,
    Payload,
    TaskOrder,
    TextFrame,
    derive_sampler_seed,
)
from paceline.protocol.codec import decode, decode_own, encode
from paceline.protocol.messages import Receipt, SubmitReceipts, Voucher
from paceline.protocol.transcripts import GenerationRequest, encode_transcript
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
class Answer:
    """One answer in the making, as the answer thread sees it."""

    model: LanguageModel
    order: TaskOrder
    generation: GenerationRequest
    gone: Event
    push: Callable[[Frame | None], object]


class Outbox:
    """Frames from the answer thread to the event loop, bounded by who fills it being told to stop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._bytes = 0
        self.gone = Event()
        """Set when nobody reads any more, or too slowly."""

    def push(self, frame: Frame | None) -> None:
        """Hand a frame over, from any thread; None ends the stream."""
        self._loop.call_soon_threadsafe(self._put, frame)

    async def take(self) -> Frame | None:
        """The next frame."""
        frame = await self._frames.get()
        self._bytes -= _weigh(frame)
        return frame

    def _put(self, frame: Frame | None) -> None:
        self._bytes += _weigh(frame)
        if self._bytes > self._limit_bytes:
            self.gone.set()
        self._frames.put_nowait(frame)


class ExecutorRole:
    """Serve orders, keep receipts until they are on the ledger."""

    def __init__(self, context: Context, host: ModelHost) -> None:
        self._context = context
        self._host = host
        slots = context.settings.parallel_answers
        self.line = FairQueue(
            lambda: slots, max_waiting=MAX_WAITING * slots, max_waiting_per_user=MAX_WAITING_PER_RELAY * slots
        )
        self.tokens = TokenMeter()
        self._accepted: dict[bytes, int] = {}
        """Tasks taken, with the height behind which their session takes no request any more."""
        self._receipts = context.work_path / "receipts"
        self._receipts.mkdir(parents=True, exist_ok=True)
        self._vault = PayloadVault(context.work_path / "payloads", context.key)
        self._making: set[bytes] = set()
        """Tasks whose payload may be on disk before their receipt is."""
        self._traces: dict[bytes, str] = {}
        """What the trace of a task is called, for its checkers; empty where tracing is off."""
        context.metrics.gauge("executor_slots", lambda: slots)
        context.metrics.gauge("executor_under_way", lambda: self.line.under_way)
        context.metrics.gauge("executor_waiting", lambda: self.line.waiting)
        context.metrics.gauge("executor_tokens_total", lambda: self.tokens.total)

    def on_block(self, state: State) -> None:
        """Send waiting receipts; forget those the ledger has."""
        if state.height % FORGET_BLOCKS == 0:
            self._accepted = {task: until for task, until in self._accepted.items() if until > state.height}
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
            self._traces = {task: name for task, name in self._traces.items() if task in self._accepted}
            self._vault.sweep(state, self._making | {bytes.fromhex(path.stem) for path in waiting})

    async def serve(self, request: PeerRequest) -> AsyncGenerator[bytes, None]:
        """Frames of one answer.

        Errors: Invalid when the order does not hold; WorkError when this node is full.
        """
        order = decode(TaskOrder, request.body, limit_bytes=MAX_ORDER_BYTES)
        await self._wait_for_session(order.voucher.session)
        state = self._context.chain.read()
        session, task_id = self._check_order(state, request.sender_address, order)
        model = await self._host.get(cheap=self._context.settings.cheat == CHEAP_MODEL)
        seed = derive_sampler_seed(session.seed, task_id, order.request, session.owner)
        generation = build_generation(model, order.request, seed)
        if self._compute_cost(len(generation.prompt_tokens), order.request.max_tokens) > order.voucher.max_cost:
            raise Invalid("over-maximum", "the voucher does not pay for prompt and max_tokens")
        # Marked before the wait, or the same order sent again meanwhile would be answered twice.
        self._check_undone(state, order.voucher, task_id)
        self._accepted[task_id] = session.expires_at
        await self._wait_turn(request.sender_address, task_id, len(generation.prompt_tokens) + order.request.max_tokens)
        parent = read_parent(request.traceparent)
        with self._context.tracing.span("executor", parent, task=task_id.hex()) as traceparent:
            if traceparent:
                self._traces[task_id] = traceparent
            async with aclosing(self._stream(model, order, generation, task_id)) as frames:
                async for frame in frames:
                    yield encode(frame)

    async def hand_out(self, request: PeerRequest) -> bytes:
        """The payload of a task, for those who may read it. Errors: as `payloads.hand_out`."""
        reply = hand_out(self._context, self._vault, request, self._traces)
        self._context.metrics.count("payloads_handed_out_total")
        return reply

    def measure_load(self) -> Load:
        """What others may know of how busy this node is."""
        slots, model = self._context.settings.parallel_answers, self._host.loaded
        context_tokens = model.context_tokens if model is not None else 0
        return Load(
            slots=slots,
            max_waiting=MAX_WAITING * slots,
            under_way=self.line.under_way,
            waiting=self.line.waiting,
            tokens_per_second_milli=self.tokens.compute_rate_milli(),
            free_context_tokens=context_tokens * max(0, slots - self.line.under_way),
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
        if voucher.index >= session.max_tasks or self._context.address not in get_executors(state, session, task_id):
            raise Invalid("not-drawn", "this node was not drawn for the task")
        self._check_undone(state, voucher, task_id)
        if voucher.prompt_hash != order.request.compute_hash():
            raise Invalid("wrong-prompt", "the voucher names another request")
        signed = voucher.signed_bytes(self._context.chain.chain_id)
        if not verify_signature(session.owner_key, signed, voucher.signature):
            raise Invalid("bad-voucher", "the voucher is not signed by the session's owner")
        return session, task_id

    def _check_undone(self, state: State, voucher: Voucher, task_id: bytes) -> None:
        """A restarted node has forgotten what it accepted, but not its receipts."""
        kept = (self._receipts / f"{task_id.hex()}.receipt").exists()
        if kept or task_id in self._accepted or is_paid(state, voucher.session, voucher.index):
            raise Invalid("already-done", "this task was answered before")

    async def _stream(
        self, model: LanguageModel, order: TaskOrder, generation: GenerationRequest, task_id: bytes
    ) -> AsyncGenerator[Frame, None]:
        outbox = Outbox(OUTBOX_BYTES)
        answer = Answer(model, order, generation, outbox.gone, outbox.push)
        began = time.monotonic()
        self._making.add(task_id)
        # Ends with the generation and not with the stream: a relay that reads slowly must not keep this node from its Race.
        self._context.serving.begin()
        work = asyncio.ensure_future(self._context.threads.run("answer", self._answer, answer))
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

    def _answer(self, answer: Answer) -> None:
        """Generate on the answer thread; whatever happens, the stream ends."""
        try:
            steps: list[TokenStep] = []
            for step in generate(answer.model, answer.generation, should_stop=answer.gone.is_set):
                steps.append(step)
                self.tokens.add(1)
                if step.text:
                    answer.push(TextFrame(step.text))
            self._context.metrics.count("executor_answers_total", "left" if answer.gone.is_set() else "complete")
            answer.push(self._keep(answer, steps))
        except WorkError as problem:
            self._context.metrics.count("executor_answers_total", "failed")
            answer.push(FailFrame("work-failed", str(problem)))
        finally:
            answer.push(None)

    def _keep(self, answer: Answer, steps: list[TokenStep]) -> EndFrame:
        """Store the payload, then the receipt, then say so."""
        transcript = build_transcript(answer.model, answer.generation, steps)
        payload = encode(Payload(answer.order.request, encode_transcript(transcript)))
        voucher = answer.order.voucher
        task_id = compute_task_id(voucher.session, voucher.index)
        digest = self._vault.put(task_id, payload)
        prompt_tokens, completion_tokens = len(answer.generation.prompt_tokens), len(steps)
        receipt = Receipt(voucher, digest, prompt_tokens, completion_tokens)
        write_whole(self._receipts / f"{task_id.hex()}.receipt", encode(receipt))
        return EndFrame(transcript.finish_reason, prompt_tokens, completion_tokens, digest)

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

    def _compute_cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        return compute_task_cost(prompt_tokens, completion_tokens, self._context.params.token_price)


def _weigh(frame: Frame | None) -> int:
    return len(encode(frame)) if isinstance(frame, TextFrame) else 0
