"""Trains, audits and combines: the three parts a node takes in a training run.

Blobs are stored before their hashes are committed. Every node computes the outer step itself, so nobody has to believe
the state that the others report.
"""

from __future__ import annotations

import asyncio
import logging

from paceline.base.errors import InvalidClaim, TransportError, WorkError
from paceline.base.hashing import hash_blob
from paceline.ledger import nodes, training
from paceline.ledger.disputes import has_voted
from paceline.ledger.state import State
from paceline.ledger.training import RoundStart, Run, Update
from paceline.node.cheats import UNTRAINED_UPDATE
from paceline.node.context import Context
from paceline.protocol.messages import ACCEPTED, CommitUpdate, JoinRun, JudgeUpdate, ReportState
from paceline.training.check import UpdateAudit
from paceline.training.claim import RoundClaim, build_initial_state, compute_start_state
from paceline.training.invent import invent_work
from paceline.training.outer import compute_outer_step
from paceline.training.plan import TrainingPlan, decode_plan, derive_assignments
from paceline.training.run import RoundWork, evaluate, train_round
from paceline.verification.updates import judge_update

LOG = logging.getLogger(__name__)
LAST_BLOCKS = 60
"""A blob still missing this close to the deadline is called withheld."""
KEPT_ROUNDS = 1
"""Closed rounds whose inner states stay."""
FIRST_LOSS = 5_000_000
"""What the cheater claims before anybody measured a loss."""


class TrainerRole:
    """Join, train, audit, report when due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = False
        self._tidied: set[tuple[bytes, int]] = set()
        self._refused: set[bytes] = set()
        """Runs whose first state is not the one of their plan."""

    def stop(self) -> None:
        """End running steps soon."""
        self._stopping = True

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        for run_id, run in training.RUNS.items(state):
            if run.phase == training.JOINING:
                self._join_if_due(run_id, run)
            elif run.phase == training.TRAINING:
                self._train_if_due(state, run_id, run)
            elif run.phase == training.REPORTING:
                self._report_if_due(state, run_id, run)
            if run.phase != training.JOINING:
                self._audit_if_due(state, run_id, run)
                self._tidy(state, run_id, run)

    def _join_if_due(self, run_id: bytes, run: Run) -> None:
        free = len(run.joined) < run.seats and self._context.address not in run.joined
        if free and run_id not in self._refused and self._context.settings.trains and _is_consistent(run):
            self._context.duties.start(("join", run_id), lambda: self._join(run_id, run))

    def _train_if_due(self, state: State, run_id: bytes, run: Run) -> None:
        me = self._context.address
        done = training.UPDATES.get(state, training.update_key(run_id, run.round_index, me)) is not None
        if me in run.trainers and not done:
            self._context.duties.start(("train", run_id, run.round_index), lambda: self._train(run_id, run))

    def _audit_if_due(self, state: State, run_id: bytes, run: Run) -> None:
        me = self._context.address
        for trainer, update in training.get_updates(state, run_id, run.round_index).items():
            if me in update.auditors:
                self._start_audit(run_id, run, run.round_index, trainer, update)
        for key, _ in training.DISPUTES.items(state, run_id):
            disputed = training.UPDATES.get(state, key)
            if disputed is not None and me in nodes.get_weights(state):
                trainer = key[training.ID_BYTES + 4 :]
                index = int.from_bytes(key[training.ID_BYTES : training.ID_BYTES + 4], "big")
                self._start_audit(run_id, run, index, trainer, disputed)

    def _start_audit(self, run_id: bytes, run: Run, index: int, trainer: bytes, update: Update) -> None:
        me = self._context.address
        if trainer != me and not has_voted(update.votes, me):
            key = ("audit", run_id, index, trainer)
            self._context.duties.start(key, lambda: self._audit(run_id, run, index, trainer, update))

    def _report_if_due(self, state: State, run_id: bytes, run: Run) -> None:
        me = self._context.address
        weighty = me in nodes.get_weights(state)
        if weighty and training.REPORTS.get(state, run_id + me) is None:
            updates = training.get_updates(state, run_id, run.round_index)
            accepted = {trainer: update for trainer, update in updates.items() if update.outcome == ACCEPTED}
            self._context.duties.start(("report", run_id, run.round_index), lambda: self._report(run_id, run, accepted))

    def _tidy(self, state: State, run_id: bytes, run: Run) -> None:
        """Drop the inner states of rounds that nobody can question any more; they are most of a run's bytes."""
        for index in range(max(0, run.round_index - KEPT_ROUNDS)):
            if (run_id, index) in self._tidied:
                continue
            updates = training.get_updates(state, run_id, index)
            if any(0 <= state.height <= update.disputed_until for update in updates.values()):
                continue
            self._tidied.add((run_id, index))
            for update in updates.values():
                for digest in update.state_hashes[:-1]:
                    self._context.blobs.delete(digest)

    async def _join(self, run_id: bytes, run: Run) -> None:
        # Whose money it is decides: an owner may go on from any state, other people's coins train the plan that they saw.
        if run.funding is not None and await self._build_first_hash(run) != run.state_hash:
            LOG.warning("run %s does not begin with the state of its plan", run_id.hex())
            self._refused.add(run_id)
            return
        await self._context.chain.send(JoinRun(run_id))

    async def _build_first_hash(self, run: Run) -> bytes:
        return hash_blob(await self._context.threads.run("check", build_initial_state, decode_plan(run.plan)))

    async def _train(self, run_id: bytes, run: Run) -> None:
        context = self._context
        previous = training.LAST_STATES.get(context.chain.read(), run_id + context.address)
        plan, corpus = await self._load(run)
        global_state = await context.peers.fetch_blob(run.state_hash, [])
        last = None if previous is None else context.blobs.get(previous)
        begin = compute_start_state(plan, global_state, last)
        if context.settings.cheat == UNTRAINED_UPDATE:
            work = invent_work(plan, begin, global_state, run.losses[-1] if run.losses else FIRST_LOSS)
        else:
            trainers = self._get_start(run_id, run.round_index).trainers
            assignment = derive_assignments(run.seed, run_id, run.round_index, trainers)[context.address]
            work = await context.threads.run(
                "train", train_round, plan, assignment, corpus, begin, global_state, should_stop=lambda: self._stopping
            )
        await asyncio.to_thread(self._keep, work)
        claim = work.claim
        await context.chain.send(
            CommitUpdate(run_id, run.round_index, claim.update_hash, claim.state_hashes, claim.loss_micronats)
        )

    def _keep(self, work: RoundWork) -> None:
        for data in work.blobs.values():
            self._context.blobs.put(data)

    async def _audit(self, run_id: bytes, run: Run, index: int, trainer: bytes, update: Update) -> None:
        context = self._context
        plan, corpus = await self._load(run)
        deadline = update.disputed_until or run.deadline
        fetched = await self._fetch_claimed(
            trainer, plan, update, patient=context.chain.height < deadline - LAST_BLOCKS
        )
        start = self._get_start(run_id, index)
        audit = UpdateAudit(
            plan=plan,
            assignment=derive_assignments(run.seed, run_id, index, start.trainers)[trainer],
            corpus=corpus,
            claim=RoundClaim(update.update_hash, update.state_hashes, update.loss_micronats),
            global_state=await context.peers.fetch_blob(start.state_hash, []),
            previous_state=fetched.get(update.previous_state),
            segments=update.segments,
            get_blob=fetched.get,
        )
        verdict = await context.threads.run("check", judge_update, audit)
        await context.chain.send(JudgeUpdate(run_id, index, trainer, verdict))

    async def _fetch_claimed(
        self, trainer: bytes, plan: TrainingPlan, update: Update, *, patient: bool
    ) -> dict[bytes, bytes]:
        """Blobs that the audit needs. Near the deadline a missing one is left out, and judged as withheld.

        Errors: TransportError while there is time left: the trainer may be restarting.
        """
        borders = {index for segment in update.segments for index in (segment, segment + 1)} | {plan.segment_count}
        # Nobody hands over the first state: the auditor builds it from the global one.
        wanted = [update.state_hashes[index] for index in sorted(borders - {0})]
        if update.previous_state:
            wanted.append(update.previous_state)
        fetched = {}
        for digest in wanted:
            try:
                fetched[digest] = await self._context.peers.fetch_blob(digest, [trainer])
            except TransportError as problem:
                if patient:
                    raise
                LOG.warning("audit: %s", problem)
        return fetched

    async def _report(self, run_id: bytes, run: Run, accepted: dict[bytes, Update]) -> None:
        context = self._context
        plan, corpus = await self._load(run)
        global_state = await context.peers.fetch_blob(run.state_hash, [])
        updates = [
            (trainer, await context.peers.fetch_blob(update.update_hash, [trainer]))
            for trainer, update in sorted(accepted.items())
        ]
        state = global_state
        if updates:
            state = await context.threads.run("check", compute_outer_step, plan, global_state, updates)
        digest = context.blobs.put(state)
        loss = await context.threads.run("check", evaluate, plan, state, corpus)
        await context.chain.send(ReportState(run_id, run.round_index, digest, loss))

    def _get_start(self, run_id: bytes, index: int) -> RoundStart:
        start = training.get_round_start(self._context.chain.read(), run_id, index)
        if start is None:
            raise WorkError("the start of this round is not kept any more")
        return start

    async def _load(self, run: Run) -> tuple[TrainingPlan, bytes]:
        return decode_plan(run.plan), await self._context.peers.fetch_blob(run.data_hash, [])


def _is_consistent(run: Run) -> bool:
    """True when the ledger's part of the run says the same as the plan. Nobody should train what cannot be audited."""
    try:
        plan = decode_plan(run.plan)
    except InvalidClaim:
        return False
    return (plan.segment_count, plan.rounds, plan.data_hash) == (run.segments, run.rounds, run.data_hash)
