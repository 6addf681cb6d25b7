"""Training runs on the ledger: rendezvous, rounds, audits of updates, one agreed state hash per round.

The ledger sees hashes and verdicts, never a tensor. A round: trainers commit updates and the states at their segment
borders; the beacon then draws auditors and segments; only accepted updates count; every node computes the outer step,
and the state that more than half of all weight reports opens the next round.
Source: seed 001, Appendix L.
"""

from __future__ import annotations

import itertools

import msgspec

from paceline.base.draws import derive_seed, draw_order, draw_sample
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.integers import compute_weighted_median
from paceline.ledger import beacon, nodes, run_money, shares
from paceline.ledger.accounts import HELD_PAY, RUN_ESCROW, move_coins
from paceline.ledger.disputes import Vote, compute_majority, get_outcomes, has_voted
from paceline.ledger.run_money import Funding
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED, CommitUpdate, JoinRun, JudgeUpdate, ReportState
from paceline.protocol.openings import OpenRun
from paceline.protocol.params import NetworkParams

GATHERING, JOINING, TRAINING, DRAWING, AUDITING, REPORTING, PAUSED, PUBLISHING, ENDED = (
    "gathering",
    "joining",
    "training",
    "drawing",
    "auditing",
    "reporting",
    "paused",
    "publishing",
    "ended",
)
ID_BYTES = 16


QUIET = (GATHERING, TRAINING, PAUSED, PUBLISHING, ENDED)
"""Phases that wait for somebody's message, or for nothing: what is sent brings the next block by itself."""


class Run(Record, frozen=True, kw_only=True):
    """A run. `round_index` counts from 0, `budget` is what is left, `losses` holds the loss of each agreed state."""

    owner: bytes
    plan: bytes
    data_hash: bytes
    state_hash: bytes
    rounds: int
    seats: int
    segments: int
    budget: int
    pay_per_update: int
    opened_at: int
    phase: str
    deadline: int
    trainers: tuple[bytes, ...] = ()
    joined: tuple[bytes, ...] = ()
    round_index: int = 0
    beacon_round: int = 0
    seed: bytes = b""
    losses: tuple[int, ...] = ()
    rejected: tuple[bytes, ...] = ()
    funding: Funding | None = None
    """How it is paid when its owner does not pay for it."""


class Update(Record, frozen=True, kw_only=True):
    """A trainer's update of one round. `outcome` is empty until its auditors have judged."""

    update_hash: bytes
    state_hashes: tuple[bytes, ...]
    previous_state: bytes
    """Last committed state of this trainer (its optimizer moments), empty when it has none."""
    loss_micronats: int
    outcome: str = ""
    auditors: tuple[bytes, ...] = ()
    segments: tuple[int, ...] = ()
    votes: tuple[Vote, ...] = ()
    disputed_until: int = 0
    pay: int = 0
    """Nicoin in held pay for this update until the epoch settles."""
    audit_pay: int = 0
    """Nicoin that each audit of it earns beside that; 0 when auditors share the trainer's pay."""
    audited: tuple[bytes, ...] = ()
    """Auditors whose pay is held as well."""
    ruled: str = ""
    """What a majority found in a dispute."""

    @property
    def held(self) -> int:
        """All nicoin in held pay for it."""
        return self.pay + self.audit_pay * len(self.audited)


class RoundStart(Record, frozen=True):
    """What a round started from, kept for those who audit it later."""

    state_hash: bytes
    trainers: tuple[bytes, ...]


class Report(Record, frozen=True):
    """What state a node computed for the round."""

    state_hash: bytes
    loss_micronats: int


RUNS: Table[Run] = Table("training/run", Run)
UPDATES: Table[Update] = Table("training/update", Update)
REPORTS: Table[Report] = Table("training/report", Report)
LAST_STATES: Table[bytes] = Table("training/last-state", bytes)
STARTS: Table[RoundStart] = Table("training/start", RoundStart)
DISPUTES: Table[int] = Table("training/dispute", int)
RUNNING: Table[int] = Table("training/running", int)
"""Runs that have not ended, so that a block looks only at these."""
ENDINGS: Table[int] = Table("training/ending", int)
"""Runs that have, by the height at which they did."""
KEPT_EPOCHS = 64
"""An ended run is remembered so long."""
MOST_FORGOTTEN = 1_000
"""At the end of an epoch; the others at the next."""


def compute_run_id(owner: bytes, transaction_hash: bytes) -> bytes:
    """16 bytes that name the run a transaction opens."""
    return hash_parts("run", owner, transaction_hash)[:ID_BYTES]


def put_new(state: State, run_id: bytes, run: Run) -> None:
    """Write a run that was just opened."""
    RUNS.put(state, run_id, run)
    RUNNING.put(state, run_id, 0)
    state.emit("run", run=run_id.hex(), phase=run.phase, round=0)


def list_running(state: State) -> list[tuple[bytes, Run]]:
    """Runs that have not ended, by id."""
    found = [(run_id, RUNS.get(state, run_id)) for run_id, _ in RUNNING.items(state)]
    return [(run_id, run) for run_id, run in found if run is not None]


def forget_ended(state: State, params: NetworkParams) -> None:
    """At the end of an epoch: runs that ended long ago go, once nothing of theirs waits for a verdict."""
    for key, _ in itertools.islice(ENDINGS.scan(state), MOST_FORGOTTEN):
        if int.from_bytes(key[:8], "big") + KEPT_EPOCHS * params.epoch_blocks > state.height:
            return
        if not any(True for _ in UPDATES.scan(state, key[8:])):
            ENDINGS.delete(state, key)
            RUNS.delete(state, key[8:])


def update_key(run_id: bytes, round_index: int, trainer: bytes) -> bytes:
    """Key of a trainer's update."""
    return run_id + round_index.to_bytes(4, "big") + trainer


def get_updates(state: State, run_id: bytes, round_index: int) -> dict[bytes, Update]:
    """Updates of a round by trainer, in address order."""
    found = UPDATES.items(state, run_id + round_index.to_bytes(4, "big"))
    return {key[ID_BYTES + 4 :]: update for key, update in found}


def get_round_start(state: State, run_id: bytes, round_index: int) -> RoundStart | None:
    """State and trainers that a round of a kept run started from."""
    return STARTS.get(state, run_id + round_index.to_bytes(4, "big"))


def apply_open(state: State, params: NetworkParams, sender: bytes, transaction_hash: bytes, message: OpenRun) -> None:
    """Reserve the budget and wait for trainers."""
    pay_per_update = message.budget // (message.rounds * message.trainers)
    if pay_per_update == 0:
        raise InvalidTransaction("small-budget", "the budget must pay at least 1 nicoin per update")
    move_coins(state, sender, RUN_ESCROW, message.budget)
    run = Run(
        owner=sender,
        plan=message.plan,
        data_hash=message.data_hash,
        state_hash=message.state_hash,
        rounds=message.rounds,
        seats=message.trainers,
        segments=message.segments,
        budget=message.budget,
        pay_per_update=pay_per_update,
        opened_at=state.height,
        phase=JOINING,
        deadline=state.height + params.join_blocks,
        beacon_round=beacon.request_round(state),
    )
    put_new(state, compute_run_id(sender, transaction_hash), run)


def apply_join(state: State, sender: bytes, message: JoinRun) -> None:
    """A node takes a free seat."""
    run = _get_run(state, message.run, JOINING)
    node = nodes.NODES.get(state, sender)
    if node is None or node.leaves >= 0:
        raise InvalidTransaction("not-a-node", "only nodes that stay train")
    if sender in run.joined or len(run.joined) == run.seats:
        raise InvalidTransaction("no-seat", "all seats are taken or this node has one")
    RUNS.put(state, message.run, msgspec.structs.replace(run, joined=tuple(sorted((*run.joined, sender)))))


def apply_update(state: State, sender: bytes, message: CommitUpdate) -> None:
    """A trainer commits its update and segment states of the running round."""
    run = _get_run(state, message.run, TRAINING, message.round_index)
    if sender not in run.trainers:
        raise InvalidTransaction("not-a-trainer", "this node has no seat in the run")
    if len(message.state_hashes) != run.segments + 1:
        raise InvalidTransaction("wrong-segments", f"{run.segments + 1} state hashes are due")
    key = update_key(message.run, message.round_index, sender)
    if UPDATES.get(state, key) is not None:
        raise InvalidTransaction("already-committed", "one update per round")
    previous = LAST_STATES.get(state, message.run + sender) or b""
    update = Update(
        update_hash=message.update_hash,
        state_hashes=message.state_hashes,
        previous_state=previous,
        loss_micronats=message.loss_micronats,
    )
    UPDATES.put(state, key, update)


def apply_verdict(state: State, params: NetworkParams, sender: bytes, message: JudgeUpdate) -> None:
    """A drawn auditor judges an update; once one rejects, everybody with weight may judge it."""
    run = RUNS.get(state, message.run)
    key = update_key(message.run, message.round_index, message.trainer)
    update = UPDATES.get(state, key)
    if run is None or update is None or not update.auditors:
        raise InvalidTransaction("nothing-to-judge", "no update of this round waits for verdicts")
    disputed = update.disputed_until >= state.height
    if sender == message.trainer or has_voted(update.votes, sender):
        raise InvalidTransaction("no-vote", "one verdict per update, and none on one's own")
    if sender not in update.auditors and not (disputed and sender in nodes.get_weights(state)):
        raise InvalidTransaction("not-drawn", "this node was not drawn to audit the update")
    verdict = message.verdict
    vote = Vote(sender, verdict.outcome, verdict.reason, verdict.evidence)
    update = msgspec.structs.replace(update, votes=(*update.votes, vote))
    if sender in update.auditors:
        nodes.add_to_node(state, sender, checks=1, fulfilled=1)
    if verdict.outcome == REJECTED and sender in update.auditors and update.disputed_until == 0:
        update = msgspec.structs.replace(update, disputed_until=state.height + params.dispute_blocks)
        DISPUTES.put(state, key, 0)
    UPDATES.put(state, key, update)
    state.emit(
        "update-verdict",
        run=message.run.hex(),
        round=message.round_index,
        trainer=message.trainer.hex(),
        node=sender.hex(),
        outcome=verdict.outcome,
    )


def apply_report(state: State, sender: bytes, message: ReportState) -> None:
    """A node says which state the accepted updates lead to."""
    _get_run(state, message.run, REPORTING, message.round_index)
    if sender not in nodes.get_weights(state):
        raise InvalidTransaction("no-vote", "only nodes with weight report states")
    key = message.run + sender
    if REPORTS.get(state, key) is not None:
        raise InvalidTransaction("already-reported", "one report per round")
    REPORTS.put(state, key, Report(message.state_hash, message.loss_micronats))


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Move every running run on, and decide disputes."""
    for key, _ in DISPUTES.items(state):
        _decide_dispute(state, key, epoch)
    for run_id, run in list_running(state):
        if run.phase == GATHERING:
            _leave_gathering(state, params, run_id, run)
        elif run.phase == JOINING:
            _leave_joining(state, params, run_id, run)
        elif run.phase == TRAINING:
            _leave_training(state, run_id, run)
        elif run.phase == DRAWING:
            _draw_auditors(state, params, run_id, run)
        elif run.phase == AUDITING:
            _leave_auditing(state, params, run_id, run)
        elif run.phase == REPORTING:
            _leave_reporting(state, params, run_id, run)
        elif run.phase == PAUSED:
            _leave_pause(state, params, run_id, run)


def _leave_gathering(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    assert run.funding is not None
    if run.budget >= run.funding.goal:
        run = msgspec.structs.replace(run, beacon_round=beacon.request_round(state))
        _enter(state, run_id, run, JOINING, state.height + params.join_blocks)
    elif state.height >= run.deadline:
        _end_run(state, params, run_id, run)


def _leave_joining(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    seed = beacon.derive_at(state, run.beacon_round, "run", run_id)
    full = len(run.joined) == run.seats
    if seed is None or not (full or state.height >= run.deadline):
        return
    if not run.joined:
        _end_run(state, params, run_id, run)
        return
    run = msgspec.structs.replace(run, seed=seed, trainers=run.joined)
    _open_round(state, params, run_id, run)


def _go_on(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    """The next round, a pause when the budget does not cover it, or the end."""
    if run.round_index == run.rounds or not run.trainers:
        _end_run(state, params, run_id, run)
    elif _covers_round(params, run):
        _open_round(state, params, run_id, run)
    else:
        _enter(state, run_id, run, PAUSED, state.height + params.funding.pause_blocks)


def _covers_round(params: NetworkParams, run: Run) -> bool:
    if run.funding is None:
        return True
    return run.budget >= run_money.compute_round_cost(params, run.funding, run.pay_per_update, len(run.trainers))


def _leave_pause(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    if _covers_round(params, run):
        _go_on(state, params, run_id, run)
    elif state.height >= run.deadline:
        _end_run(state, params, run_id, run)


def _open_round(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    for key, _ in REPORTS.items(state, run_id):
        REPORTS.delete(state, key)
    start = RoundStart(run.state_hash, run.trainers)
    STARTS.put(state, run_id + run.round_index.to_bytes(4, "big"), start)
    _enter(state, run_id, run, TRAINING, state.height + params.round_blocks)


def _leave_training(state: State, run_id: bytes, run: Run) -> None:
    updates = get_updates(state, run_id, run.round_index)
    if not all(trainer in updates for trainer in run.trainers) and state.height < run.deadline:
        return
    run = msgspec.structs.replace(run, beacon_round=beacon.request_round(state))
    _enter(state, run_id, run, DRAWING, 0)


def _draw_auditors(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    seed = beacon.derive_at(state, run.beacon_round, "audit", run_id)
    if seed is None:
        return
    weights = {a: w for a, w in nodes.get_weights(state).items() if a not in run.joined}
    for trainer, update in get_updates(state, run_id, run.round_index).items():
        auditors = tuple(draw_order(derive_seed(seed, "auditors", trainer), weights)[: params.auditors])
        segments = tuple(draw_sample(derive_seed(seed, "segments", trainer), run.segments, params.audit_segments))
        for auditor in auditors:
            nodes.add_to_node(state, auditor, duties=1)
        drawn = msgspec.structs.replace(update, auditors=auditors, segments=segments)
        UPDATES.put(state, update_key(run_id, run.round_index, trainer), drawn)
    _enter(state, run_id, run, AUDITING, state.height + params.audit_blocks)


def _leave_auditing(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    updates = get_updates(state, run_id, run.round_index)
    waiting = [u for u in updates.values() if not all(has_voted(u.votes, a) for a in u.auditors)]
    if waiting and state.height < run.deadline:
        return
    for trainer, update in updates.items():
        votes = [vote.outcome for vote in update.votes if vote.voter in update.auditors]
        # One rejection keeps an update out of the round; whether its trainer is guilty is for the majority.
        outcome = ACCEPTED if ACCEPTED in votes and REJECTED not in votes else REJECTED
        run = _close_update(state, run_id, run, trainer, msgspec.structs.replace(update, outcome=outcome))
    _enter(state, run_id, run, REPORTING, state.height + params.round_report_blocks)


def _close_update(state: State, run_id: bytes, run: Run, trainer: bytes, update: Update) -> Run:
    withheld = 0
    if update.outcome == ACCEPTED:
        if run.funding is not None:
            withheld = run_money.withhold(state, run_id, trainer, run.funding, run.pay_per_update)
        update = msgspec.structs.replace(update, pay=run.pay_per_update - withheld)
        LAST_STATES.put(state, run_id + trainer, update.state_hashes[-1])
        nodes.add_to_node(state, trainer, tasks=1)
    if run.funding is not None:
        audited = tuple(v.voter for v in update.votes if v.voter in update.auditors and v.outcome != UNDECIDED)
        update = msgspec.structs.replace(update, audit_pay=run.funding.audit_pay, audited=audited)
        funding = msgspec.structs.replace(run.funding, withheld=run.funding.withheld + withheld)
        run = msgspec.structs.replace(run, funding=funding)
    move_coins(state, RUN_ESCROW, HELD_PAY, update.held)
    UPDATES.put(state, update_key(run_id, run.round_index, trainer), update)
    state.emit("update", run=run_id.hex(), round=run.round_index, trainer=trainer.hex(), outcome=update.outcome)
    return msgspec.structs.replace(run, budget=run.budget - update.held - withheld)


def _leave_reporting(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    weights = nodes.get_weights(state)
    reports = {key[ID_BYTES:]: report for key, report in REPORTS.items(state, run_id)}
    agreed = _find_agreed_state(reports, weights)
    if not agreed and state.height < run.deadline:
        return
    losses, state_hash = run.losses, run.state_hash
    if agreed:
        state_hash = agreed
        values = [(r.loss_micronats, weights.get(a, 0)) for a, r in reports.items() if r.state_hash == agreed]
        losses = (*losses, compute_weighted_median(values))
    run = msgspec.structs.replace(run, state_hash=state_hash, losses=losses, round_index=run.round_index + 1)
    state.emit("round", run=run_id.hex(), round=run.round_index, loss_micronats=losses[-1] if losses else 0)
    _go_on(state, params, run_id, run)


def _find_agreed_state(reports: dict[bytes, Report], weights: dict[bytes, int]) -> bytes:
    total = sum(weights.values())
    by_hash: dict[bytes, int] = {}
    for address, report in reports.items():
        by_hash[report.state_hash] = by_hash.get(report.state_hash, 0) + weights.get(address, 0)
    return next((state_hash for state_hash in sorted(by_hash) if 2 * by_hash[state_hash] > total), b"")


def _end_run(state: State, params: NetworkParams, run_id: bytes, run: Run) -> None:
    phase, deadline = ENDED, 0
    if run.funding is None:
        move_coins(state, RUN_ESCROW, run.owner, run.budget)
    elif run.funding.goal:
        shares.close_run(state, run_id, run.funding.fee_ppm, run.budget)
    else:
        run_money.return_rest(state, run.budget)
        if run.funding.withheld:
            phase, deadline = PUBLISHING, state.height + params.funding.publish_blocks
    for key, _ in [*REPORTS.items(state, run_id), *LAST_STATES.items(state, run_id)]:
        REPORTS.delete(state, key)
        LAST_STATES.delete(state, key)
    _enter(state, run_id, msgspec.structs.replace(run, budget=0), phase, deadline)


def end_publication(state: State, run_id: bytes, run: Run, *, is_published: bool) -> None:
    """A run that has ended is published, or it is too late for that: its last instalment is paid or returns."""
    assert run.funding is not None
    run_money.end_instalments(state, run_id, run.rejected if is_published else None)
    funding = msgspec.structs.replace(run.funding, withheld=0)
    _enter(state, run_id, msgspec.structs.replace(run, funding=funding), ENDED, 0)


def _decide_dispute(state: State, key: bytes, epoch: int) -> None:
    update = UPDATES.get(state, key)
    assert update is not None
    outcome = compute_majority(get_outcomes(update.votes), nodes.get_weights(state))
    if not outcome and state.height < update.disputed_until:
        return
    DISPUTES.delete(state, key)
    UPDATES.put(state, key, msgspec.structs.replace(update, disputed_until=-1, ruled=outcome))
    if outcome == REJECTED:
        _convict(state, key[:ID_BYTES], key[ID_BYTES + 4 :], epoch)


def _convict(state: State, run_id: bytes, trainer: bytes, epoch: int) -> None:
    run = RUNS.get(state, run_id)
    assert run is not None
    nodes.update_node(state, trainer, guilty=epoch, reputation=0)
    left = tuple(address for address in run.trainers if address != trainer)
    rejected = tuple(sorted({*run.rejected, trainer}))
    RUNS.put(state, run_id, msgspec.structs.replace(run, trainers=left, rejected=rejected))
    state.emit("trainer-guilty", run=run_id.hex(), trainer=trainer.hex())


def _get_run(state: State, run_id: bytes, phase: str, round_index: int | None = None) -> Run:
    run = RUNS.get(state, run_id)
    if run is None:
        raise InvalidTransaction("unknown-run", "no run has this id")
    if run.phase != phase or (round_index is not None and run.round_index != round_index):
        raise InvalidTransaction("wrong-phase", f"the run is in round {run.round_index}, phase {run.phase}")
    return run


def _enter(state: State, run_id: bytes, run: Run, phase: str, deadline: int) -> None:
    RUNS.put(state, run_id, msgspec.structs.replace(run, phase=phase, deadline=deadline))
    if phase == ENDED:
        RUNNING.delete(state, run_id)
        ENDINGS.put(state, state.height.to_bytes(8, "big") + run_id, 0)
    state.emit("run", run=run_id.hex(), phase=phase, round=run.round_index)
