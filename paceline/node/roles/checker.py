"""Re-runs answers that this node was drawn for, or that somebody flagged, with the tokens forced.

A payload or an opening that its executor does not hand out in time counts as a lie: otherwise hiding would beat cheating.
"""

from __future__ import annotations

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.ledger import nodes
from paceline.ledger.disputes import has_voted
from paceline.ledger.state import State
from paceline.ledger.tasks import CHECKING, DISPUTED, OPEN_TASKS, TASKS, Task
from paceline.node.context import Context
from paceline.node.models import ModelHost
from paceline.node.roles.traces import get_draw_seed
from paceline.protocol.answers import MAX_PAYLOAD_BYTES, Payload
from paceline.protocol.codec import decode
from paceline.protocol.messages import REJECTED, JudgeTask, Verdict
from paceline.verification.payloads import Expected, commits_states, judge_payload

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
        verdict = await self._form_verdict(task_id, task, height)
        await self._context.chain.send(JudgeTask(task_id, verdict))

    async def _form_verdict(self, task_id: bytes, task: Task, height: int) -> Verdict:
        context, state = self._context, self._context.chain.read()
        late = height >= task.deadline - LAST_BLOCKS
        try:
            await context.peers.fetch_blob(task.payload_hash, [task.executor])
            payload = decode(Payload, context.blobs.get(task.payload_hash), limit_bytes=MAX_PAYLOAD_BYTES)
        except (TransportError, WorkError):
            if not late:
                raise
            return Verdict(REJECTED, "payload withheld", ())
        except Invalid as problem:
            return Verdict(REJECTED, f"malformed payload ({problem.code})", ())
        model = await self._host.get(payload.request.model)
        seed = get_draw_seed(state, task_id, task)
        opening: bytes | None = None
        if commits_states(model, payload):
            try:
                opening = await self._request_opening(task_id, task)
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
        )
        return await context.threads.run("check", judge_payload, model, payload, expected, opening)

    async def _request_opening(self, task_id: bytes, task: Task) -> bytes:
        """Ask the executor; what it sends is judged with the payload, also when it is no opening at all."""
        peers = self._context.peers
        if not peers.knows(task.executor):
            raise TransportError(f"no way to reach {task.executor.hex()} is known")
        return await peers.request(peers.name_of(task.executor), "opening", task_id)
