"""Makes one answer on its own thread: tokens or a vector out, then states, payload and receipt to disk, then the end frame.

A receipt is on disk before the end frame leaves, so a killed node is still paid for what it did. It refuses to know who asked and
whether the order holds. Invariant: whatever happens, the stream of frames ends, and nothing is committed that is not kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import cast

from paceline.base.errors import WorkError
from paceline.inference.backend import AnswerOptions, Backend
from paceline.inference.claim import build_transcript
from paceline.inference.embed import VectorPlan, claim_vector, compute_vector
from paceline.inference.forced_errors import WrongVersion
from paceline.inference.run import TokenStep
from paceline.inference.trace import Trace
from paceline.ledger.sessions import compute_task_id
from paceline.models.language import LanguageModel
from paceline.node.answers.frames import FrameWriter
from paceline.node.answers.load import TokenMeter
from paceline.node.answers.payloads import PayloadVault
from paceline.node.answers.traces import WRONG, TraceKeeper
from paceline.node.answers.traps import TrapSetter
from paceline.node.ceremony import CeremonyKey
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.protocol.answers import (
    AnswerRequest,
    EndFrame,
    FailFrame,
    Frame,
    Payload,
    TaskOrder,
    TextFrame,
    VectorFrame,
)
from paceline.protocol.codec import encode
from paceline.protocol.messages import Receipt
from paceline.protocol.transcripts import NO_TRACE, GenerationRequest, Transcript, encode_transcript

LOG = logging.getLogger(__name__)

RECEIPT, MARKED = "receipt", "marked"
"""Kinds of files: receipts of answers, and those of marked tasks, for which there is no voucher."""


@dataclass(frozen=True)
class Answer:
    """One answer in the making, as the answer thread sees it."""

    model: LanguageModel
    order: TaskOrder
    generation: GenerationRequest | VectorPlan
    backend: Backend
    gone: Event
    push: Callable[[Frame | None], object]
    commit: Callable[[Receipt], Frame] | None = None
    """What keeps the receipt instead of this node's folder, and the frame that tells of it."""
    is_marked: bool = False
    """Nobody waits for it: told to stop, it leaves nothing behind."""

    @property
    def task_id(self) -> bytes:
        """The task that it answers."""
        return compute_task_id(self.order.voucher.session, self.order.voucher.index)


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


class AnswerMaker:
    """What the answer threads of one node share."""

    def __init__(self, context: Context, receipts: Path, key: CeremonyKey) -> None:
        self._context = context
        self._receipts = receipts
        self.traces = TraceKeeper(context)
        self.vault = PayloadVault(context.work_path / "payloads", context.key)
        self.traps = TrapSetter(context, key, self.vault)
        self.tokens = TokenMeter()

    def make(self, answer: Answer) -> None:
        """Work until the end frame; whatever happens, the stream ends."""
        try:
            if isinstance(answer.order.request, AnswerRequest):
                self._generate(answer, answer.order.request)
            else:
                self._embed(answer)
        except WorkError as problem:
            self._context.metrics.count("executor_answers_total", "failed")
            answer.push(FailFrame("work-failed", str(problem)))
        finally:
            answer.push(None)

    def _generate(self, answer: Answer, request: AnswerRequest) -> None:
        steps: list[TokenStep] = []
        writer = FrameWriter(answer.model, request)
        generation = cast("GenerationRequest", answer.generation)
        options = AnswerOptions(should_stop=answer.gone.is_set, top_logprobs=writer.top_logprobs)
        with closing(answer.backend.generate(answer.model, generation, options)) as work:
            for step in work:
                steps.append(step)
                self.tokens.add(1)
                if (frame := writer.write(step)) is not None:
                    answer.push(frame)
        if answer.is_marked and answer.gone.is_set():
            return
        states = options.states
        # States are on disk before the receipt is, or a killed node could not open what it committed to.
        trace = Trace.join(states) if states else None
        root = self.traces.keep(answer.order.voucher, trace) if trace is not None else NO_TRACE
        transcript = build_transcript(answer.model, generation, steps, root)
        # A channel's leaf has no room for a seal: its answers carry no forced errors.
        is_leaf = answer.commit is not None
        wrong = None if is_leaf else self._force_error(answer, transcript, trace)
        answer.push(self._keep(answer, encode_transcript(transcript), transcript.finish_reason, len(steps), wrong))

    def _force_error(self, answer: Answer, transcript: Transcript, trace: Trace | None) -> WrongVersion | None:
        try:
            return self.traps.force_error(answer.model, answer.task_id, transcript, trace)
        except WorkError as problem:
            # The user has the whole answer already; it must not fail for what only its checkers would see.
            LOG.warning("no error is forced in task %s: %s", answer.task_id.hex()[:12], problem)
            return None

    def _embed(self, answer: Answer) -> None:
        tokens = answer.generation.prompt_tokens
        values = compute_vector(answer.model, tokens)
        answer.push(VectorFrame(values))
        answer.push(self._keep(answer, claim_vector(answer.model, tokens, values), "stop", 0))

    def _keep(
        self,
        answer: Answer,
        claim: bytes,
        finish_reason: str,
        completion_tokens: int,
        wrong: WrongVersion | None = None,
    ) -> EndFrame:
        """Store the payload, with the wrong version of a forced error, then the receipt, then say so."""
        digest = self.vault.put(answer.task_id, encode(Payload(answer.order.request, claim)))
        seal = self.traps.seal(answer.task_id, digest)
        if wrong is not None:
            digest = self._keep_wrong(answer, wrong)
        prompt_tokens = len(answer.generation.prompt_tokens)
        receipt = Receipt(answer.order.voucher, digest, prompt_tokens, completion_tokens, seal)
        if answer.commit is not None:
            answer.push(answer.commit(receipt))
        else:
            kind = MARKED if answer.is_marked else RECEIPT
            write_whole(self._receipts / f"{answer.task_id.hex()}.{kind}", encode(receipt))
        word = "marked" if answer.is_marked else ("left" if answer.gone.is_set() else "complete")
        self._context.metrics.count("executor_answers_total", word)
        return EndFrame(finish_reason, prompt_tokens, completion_tokens, digest)

    def _keep_wrong(self, answer: Answer, wrong: WrongVersion) -> bytes:
        if wrong.trace is not None:
            self.traces.keep(answer.order.voucher, wrong.trace, WRONG)
        payload = Payload(answer.order.request, encode_transcript(wrong.transcript))
        return self.vault.put_wrong(answer.task_id, encode(payload))


def _weigh(frame: Frame | None) -> int:
    return len(encode(frame)) if isinstance(frame, TextFrame | VectorFrame) else 0
