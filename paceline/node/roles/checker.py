"""Re-runs answers that this node was drawn for, or that somebody flagged, with the tokens forced.

A drawn checker sends the hash of its verdict first and the verdict when all have; it stands on disk in between. A suspected
node's kept answers are re-run in the same way, and its sum is computed again with the own numbers.

A payload or an opening that its executor does not hand out in time counts as a lie: otherwise hiding would beat cheating.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import Invalid, TransportError
from paceline.base.hashing import hash_parts
from paceline.ledger import nodes, suspicion
from paceline.ledger.checks import has_committed
from paceline.ledger.disputes import has_voted
from paceline.ledger.state import State
from paceline.ledger.suspicion import CONFIRMING, INQUIRIES, VOTING, CheckedTask, Inquiry
from paceline.ledger.tasks import CHECKING, DISPUTED, OPEN_TASKS, REVEALING, TASKS, Task
from paceline.node.answers.kept_verdicts import KeptVerdicts
from paceline.node.answers.payloads import request_payload
from paceline.node.answers.traces import OpeningRequest, get_draw_seed
from paceline.node.context import Context
from paceline.node.models import ModelHost
from paceline.node.tracing import read_parent
from paceline.protocol.answers import MAX_PAYLOAD_BYTES, Payload
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import ACCEPTED, REJECTED, CommitVerdict, JudgeNode, JudgeTask, Verdict
from paceline.verification.payloads import Expected, commits_states, judge_payload

LAST_BLOCKS = 60
"""A payload still missing this close to the deadline is called withheld."""


class CheckerRole:
    """Judge tasks when due."""

    def __init__(self, context: Context, host: ModelHost) -> None:
        self._context = context
        self._host = host
        self._verdicts = KeptVerdicts(context.work_path / "verdicts")

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        self._verdicts.forget_all_but([task_id for task_id, _ in OPEN_TASKS.items(state)])
        for task_id, _ in OPEN_TASKS.items(state):
            task = TASKS.get(state, task_id)
            if task is not None and self._must_judge(state, task):
                self._start(state, task_id, task)
        for suspect, inquiry in INQUIRIES.items(state):
            if self._must_inquire(state, suspect, inquiry):
                self._start_inquiry(state, suspect, inquiry)

    def _must_judge(self, state: State, task: Task) -> bool:
        me = self._context.address
        if me == task.executor or has_voted(task.votes, me):
            return False
        if task.status == CHECKING:
            return me in task.asked and not has_committed(task, me)
        if task.status == REVEALING:
            return has_committed(task, me)
        return task.status == DISPUTED and me in nodes.get_weights(state)

    def _must_inquire(self, state: State, suspect: bytes, inquiry: Inquiry) -> bool:
        me = self._context.address
        if me == suspect or has_voted(inquiry.votes, me):
            return False
        if inquiry.status == CONFIRMING:
            return me in inquiry.drawn
        return inquiry.status == VOTING and me in nodes.get_weights(state)

    def _start(self, state: State, task_id: bytes, task: Task) -> None:
        height = state.height
        self._context.duties.start(("judge", task_id), lambda: self._judge(task_id, task, height))

    def _start_inquiry(self, state: State, suspect: bytes, inquiry: Inquiry) -> None:
        kept, height = suspicion.list_kept(state, suspect), state.height
        self._context.duties.start(("inquire", suspect), lambda: self._inquire(suspect, inquiry, kept, height))

    async def _judge(self, task_id: bytes, task: Task, height: int) -> None:
        context = self._context
        message = self._verdicts.get(task_id)
        if task.status == DISPUTED and not has_committed(task, context.address):
            # What is kept may be about the wrong version of a forced error; the true answer is another matter.
            message = None
        if task.status == REVEALING:
            # Without it nothing fits the commitment: the disk was lost, and the duty is.
            if message is not None:
                await context.chain.send(message)
            return
        if message is None:
            verdict = await self._form_verdict(task_id, task, height)
            salt = hash_parts("verdict-salt", context.key.secret, task_id)
            message = JudgeTask(task_id, verdict, salt)
        if task.status == DISPUTED:
            await context.chain.send(message)
            return
        self._verdicts.put(message)
        await context.chain.send(CommitVerdict(task_id, message.compute_commitment(context.address)))

    async def _inquire(
        self, suspect: bytes, inquiry: Inquiry, kept: list[tuple[bytes, CheckedTask]], height: int
    ) -> None:
        """The suspect's sum, with this node's own numbers in the place of those that it rests on."""
        tasks = self._context.params.tasks
        total = inquiry.rest
        for task_id, checked in kept:
            task = msgspec.structs.replace(checked.task, deadline=inquiry.deadline)
            verdict = await self._form_verdict(task_id, task, height, case=True)
            found = verdict.evidence[-1] if verdict.evidence else 0
            rejected = verdict.outcome == REJECTED
            high, low = tasks.evidence_high_micronats, tasks.evidence_low_micronats
            total += high if rejected else max(low, min(high, found))
        outcome = REJECTED if total >= tasks.suspicion_micronats else ACCEPTED
        verdict = Verdict(outcome, "the kept answers were run again", (len(kept), total))
        await self._context.chain.send(JudgeNode(suspect, verdict))

    async def _form_verdict(self, task_id: bytes, task: Task, height: int, *, case: bool = False) -> Verdict:
        context, state = self._context, self._context.chain.read()
        late = height >= task.deadline - LAST_BLOCKS
        try:
            reply = await request_payload(context, task_id, task, case=case)
        except TransportError:
            if not late:
                raise
            return Verdict(REJECTED, "payload withheld", ())
        try:
            payload = decode(Payload, reply.payload, limit_bytes=MAX_PAYLOAD_BYTES)
        except Invalid as problem:
            return Verdict(REJECTED, f"malformed payload ({problem.code})", ())
        model = await self._host.get(payload.request.model)
        seed = get_draw_seed(state, task_id, task)
        opening: bytes | None = None
        if commits_states(model, payload):
            try:
                opening = await self._request_opening(task_id, task, case)
            except (TransportError, Invalid):
                if not late:
                    raise
                return Verdict(REJECTED, "opening of the committed states withheld", ())
        expected = Expected(
            task_id=task_id,
            session_seed=task.seed,
            owner=task.owner,
            prompt_hash=task.prompt_hash,
            prompt_tokens=task.prompt_tokens,
            completion_tokens=task.completion_tokens,
            draw_seed=seed,
            is_marked=task.is_marked,
        )
        with context.tracing.span("checker", read_parent(reply.traceparent), task=task_id.hex()):
            verdict = await context.threads.run("check", judge_payload, model, payload, expected, opening)
        context.metrics.count("checks_total", verdict.outcome)
        return verdict

    async def _request_opening(self, task_id: bytes, task: Task, case: bool) -> bytes:
        """Ask the executor; what it sends is judged with the payload, also when it is no opening at all."""
        peers = self._context.peers
        if not peers.knows(task.executor):
            raise TransportError(f"no way to reach {task.executor.hex()} is known")
        return await peers.request(peers.name_of(task.executor), "opening", encode(OpeningRequest(task_id, case)))
