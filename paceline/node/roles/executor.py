"""Answers requests that the public draw gave to this node, and sends the receipts.

A receipt is on disk before the last frame leaves, and stays there until the ledger has it, so a killed node is still
paid for what it did. Generation runs on its own thread; a relay that goes away stops it within one token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from threading import Event
from typing import cast

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.base.keys import verify_signature
from paceline.economy.pay import compute_task_cost
from paceline.inference.backend import Backend, TorchBackend
from paceline.inference.claim import build_transcript
from paceline.inference.embed import VectorPlan, claim_vector, compute_vector, plan_vector
from paceline.inference.run import TokenStep
from paceline.ledger.sessions import SESSIONS, Session, compute_task_id, get_executors, is_paid
from paceline.ledger.state import State
from paceline.models.language import LanguageModel
from paceline.network.wire import PeerRequest
from paceline.node.cheats import CHEAP_MODEL
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.node.models import ModelHost
from paceline.node.roles.frames import FrameWriter
from paceline.protocol.answers import (
    MAX_ORDER_BYTES,
    AnswerRequest,
    EndFrame,
    FailFrame,
    Frame,
    Payload,
    Request,
    TaskOrder,
    VectorFrame,
    derive_sampler_seed,
)
from paceline.protocol.codec import decode, decode_own, encode
from paceline.protocol.messages import Receipt, SubmitReceipts
from paceline.protocol.transcripts import GenerationRequest, encode_transcript
from paceline.verification.payloads import build_generation

LOG = logging.getLogger(__name__)
MAX_QUEUE = 8
MAX_BATCH = 32
LAG_BLOCKS = 2
LAG_SECONDS = 1.0
"""How long an order may wait for the block that this node does not have yet, per block."""


@dataclass(frozen=True)
class Answer:
    """One answer in the making, as the answer thread sees it."""

    model: LanguageModel
    order: TaskOrder
    generation: GenerationRequest | VectorPlan
    gone: Event
    push: Callable[[Frame | None], object]


class ExecutorRole:
    """Serve orders, keep receipts until they are on the ledger."""

    def __init__(self, context: Context, host: ModelHost) -> None:
        self._context = context
        self._host = host
        self.backend: Backend = TorchBackend()
        """What writes answers; whoever wires the node may put another engine here before orders come."""
        self._busy = 0
        self._accepted: set[bytes] = set()
        self._receipts = context.work_path / "receipts"
        self._receipts.mkdir(parents=True, exist_ok=True)

    def on_block(self, state: State) -> None:
        """Send waiting receipts; forget those the ledger has."""
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

    async def serve(self, request: PeerRequest) -> AsyncGenerator[bytes, None]:
        """Frames of one answer.

        Errors: Invalid when the order does not hold; WorkError when this node is full.
        """
        order = decode(TaskOrder, request.body, limit_bytes=MAX_ORDER_BYTES)
        await self._wait_for_session(order.voucher.session)
        session, task_id = self._check_order(self._context.chain.read(), request.sender_address, order)
        if self._busy >= max(MAX_QUEUE, self.backend.parallel):
            raise WorkError("this node is at its limit of waiting requests")
        self.backend.check_ready()
        model = await self._host.get(cheap=self._context.settings.cheat == CHEAP_MODEL)
        generation = _plan(model, order.request, session, task_id, self.backend.engine)
        if self._compute_cost(len(generation.prompt_tokens), order.request.max_tokens) > order.voucher.max_cost:
            raise Invalid("over-maximum", "the voucher does not pay for prompt and max_tokens")
        self._accepted.add(task_id)
        async with aclosing(self._stream(model, order, generation)) as frames:
            async for frame in frames:
                yield encode(frame)

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
        if is_paid(state, voucher.session, voucher.index) or task_id in self._accepted:
            raise Invalid("already-done", "this task was answered before")
        if voucher.prompt_hash != order.request.compute_hash():
            raise Invalid("wrong-prompt", "the voucher names another request")
        signed = voucher.signed_bytes(self._context.chain.chain_id)
        if not verify_signature(session.owner_key, signed, voucher.signature):
            raise Invalid("bad-voucher", "the voucher is not signed by the session's owner")
        return session, task_id

    async def _stream(
        self, model: LanguageModel, order: TaskOrder, generation: GenerationRequest | VectorPlan
    ) -> AsyncGenerator[Frame, None]:
        frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        gone = Event()
        loop = asyncio.get_running_loop()
        answer = Answer(model, order, generation, gone, lambda f: loop.call_soon_threadsafe(frames.put_nowait, f))
        self._busy += 1
        # Ends with the generation and not with the stream: a relay that reads slowly must not keep this node from its Race.
        self._context.serving.begin()
        waits = self.backend.parallel > 1 and isinstance(order.request, AnswerRequest)
        kind = "stream" if waits else "answer"
        work = asyncio.ensure_future(self._context.threads.run(kind, self._answer, answer))
        work.add_done_callback(self._release)
        try:
            while (frame := await frames.get()) is not None:
                yield frame
        finally:
            gone.set()

    def _release(self, work: asyncio.Future[None]) -> None:
        self._busy -= 1
        self._context.serving.end()
        if not work.cancelled() and (problem := work.exception()) is not None:
            LOG.error("answer failed", exc_info=problem)

    def _answer(self, answer: Answer) -> None:
        """Work on the answer thread; whatever happens, the stream ends."""
        try:
            if isinstance(answer.order.request, AnswerRequest):
                self._generate(answer, answer.order.request)
            else:
                self._embed(answer)
        except WorkError as problem:
            answer.push(FailFrame("work-failed", str(problem)))
        finally:
            answer.push(None)

    def _generate(self, answer: Answer, request: AnswerRequest) -> None:
        steps: list[TokenStep] = []
        writer = FrameWriter(answer.model, request)
        generation = cast("GenerationRequest", answer.generation)
        work = self.backend.generate(
            answer.model, generation, should_stop=answer.gone.is_set, top_logprobs=writer.top_logprobs
        )
        with closing(work):
            for step in work:
                steps.append(step)
                if (frame := writer.write(step)) is not None:
                    answer.push(frame)
        transcript = build_transcript(answer.model, generation, steps)
        answer.push(self._keep(answer, encode_transcript(transcript), transcript.finish_reason, len(steps)))

    def _embed(self, answer: Answer) -> None:
        tokens = answer.generation.prompt_tokens
        values = compute_vector(answer.model, tokens)
        answer.push(VectorFrame(values))
        answer.push(self._keep(answer, claim_vector(answer.model, tokens, values), "stop", 0))

    def _keep(self, answer: Answer, claim: bytes, finish_reason: str, completion_tokens: int) -> EndFrame:
        """Store the payload, then the receipt, then say so."""
        digest = self._context.blobs.put(encode(Payload(answer.order.request, claim)))
        prompt_tokens = len(answer.generation.prompt_tokens)
        voucher = answer.order.voucher
        receipt = Receipt(voucher, digest, prompt_tokens, completion_tokens)
        name = f"{compute_task_id(voucher.session, voucher.index).hex()}.receipt"
        write_whole(self._receipts / name, encode(receipt))
        return EndFrame(finish_reason, prompt_tokens, completion_tokens, digest)

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


def _plan(
    model: LanguageModel, request: Request, session: Session, task_id: bytes, engine: str
) -> GenerationRequest | VectorPlan:
    if not isinstance(request, AnswerRequest):
        return plan_vector(model, request.prompt)
    seed = derive_sampler_seed(session.seed, task_id, request, session.owner)
    return build_generation(model, request, seed, engine)
