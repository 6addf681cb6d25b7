"""Re-runs answers that this node was drawn for, or that somebody flagged, with the tokens forced.

A payload that its executor does not hand out in time counts as a lie: otherwise hiding would beat cheating.
"""

from __future__ import annotations

from paceline.base.errors import Invalid, TransportError
from paceline.ledger import nodes
from paceline.ledger.disputes import has_voted
from paceline.ledger.state import State
from paceline.ledger.tasks import CHECKING, DISPUTED, OPEN_TASKS, TASKS, Task
from paceline.node.context import Context
from paceline.node.models import ModelHost
from paceline.node.payloads import request_payload
from paceline.node.tracing import read_parent
from paceline.protocol.answers import MAX_PAYLOAD_BYTES, Payload
from paceline.protocol.codec import decode
from paceline.protocol.messages import REJECTED, JudgeTask, Verdict
from paceline.verification.payloads import Expected, judge_payload

LAST_BLOCKS = 60
"""A payload still missing this close to the deadline is called withheld."""


class CheckerRole:
    """Judge tasks when due."""

    def __init__(self, context: Context, host: ModelHost) -> None:
        self._context = context
        self._host = host

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        for task_id, _ in OPEN_TASKS.items(state):
            task = TASKS.get(state, task_id)
            if task is not None and self._must_judge(state, task):
                self._start(state, task_id, task)

    def _must_judge(self, state: State, task: Task) -> bool:
        me = self._context.address
        if me == task.executor or has_voted(task.votes, me):
            return False
        if task.status == CHECKING:
            return me in task.drawn
        return task.status == DISPUTED and me in nodes.get_weights(state)

    def _start(self, state: State, task_id: bytes, task: Task) -> None:
        height = state.height
        self._context.duties.start(("judge", task_id), lambda: self._judge(task_id, task, height))

    async def _judge(self, task_id: bytes, task: Task, height: int) -> None:
        context = self._context
        try:
            reply = await request_payload(context, task_id, task)
        except TransportError:
            if height < task.deadline - LAST_BLOCKS:
                raise
            await context.chain.send(JudgeTask(task_id, Verdict(REJECTED, "payload withheld", ())))
            return
        try:
            payload = decode(Payload, reply.payload, limit_bytes=MAX_PAYLOAD_BYTES)
        except Invalid as problem:
            await context.chain.send(JudgeTask(task_id, Verdict(REJECTED, f"malformed payload ({problem.code})", ())))
            return
        expected = Expected(
            task_id=task_id,
            session_seed=task.seed,
            owner=task.owner,
            prompt_hash=task.prompt_hash,
            prompt_tokens=task.prompt_tokens,
            completion_tokens=task.completion_tokens,
        )
        model = await self._host.get()
        with context.tracing.span("checker", read_parent(reply.traceparent), task=task_id.hex()):
            verdict = await context.threads.run("check", judge_payload, model, payload, expected)
        context.metrics.count("checks_total", verdict.outcome)
        await context.chain.send(JudgeTask(task_id, verdict))
