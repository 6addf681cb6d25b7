"""Numbers about one epoch for commands and scripts: plain structs made from committed state."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from paceline.economy.supply import TOTAL_SUPPLY
from paceline.ledger import clock, nodes, race, training
from paceline.ledger.accounts import compute_supply
from paceline.ledger.invariants import find_violations
from paceline.ledger.settlement import get_settlement
from paceline.ledger.state import State
from paceline.ledger.tasks import FINAL, GUILTY, TASKS
from paceline.node.context import Context
from paceline.protocol.messages import ACCEPTED, REJECTED


class RaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """The Race of the running epoch."""

    epoch: int
    phase: str
    claims: int
    accepted_hits: int
    hits: dict[str, int]
    """Claimed hits by node name."""
    rejected_nodes: list[str]


class InferenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of the running epoch, by node name where a mapping. `refunded` in nicoin."""

    answered: dict[str, int]
    verified: dict[str, int]
    """Answers with a decisive verdict that stands."""
    pending: int
    rejected_nodes: list[str]
    refunded: int


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """The running or last run. Losses in nats per byte; `committed_updates` counts updates over all rounds."""

    run: str
    phase: str
    round: int
    rounds: int
    trainers: list[str]
    losses: list[float]
    rejected_nodes: list[str]
    updates: dict[str, list[str]]
    """Outcome of each update of the kept rounds, by node name."""


class LedgerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The chain at one height."""

    chain_id: str
    height: int
    epoch: int
    epoch_ends: int
    app_hash: str
    nodes_agree: bool
    supply_conserved: bool
    violations: list[str]
    blob_bytes: int
    """Blob bytes that all nodes fetched from each other since their processes started."""


class SettlementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the settlement table; amounts in nicoin."""

    node: str
    voting_power: int
    tasks: int
    checks: int
    earned: int
    vesting: int
    """What is not free yet and would be lost by cheating."""
    forfeited: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at once, from one height."""

    race: RaceReport
    inference: InferenceReport
    training: TrainingReport | None
    ledger: LedgerReport
    settlements: dict[str, list[SettlementLine]]
    """By epoch number."""


def build_report(context: Context) -> Report:
    """All reports of this node's committed state."""
    state = context.chain.read()
    names = {address: node.name for address, node in nodes.NODES.items(state)}
    epoch = clock.compute_epoch(context.params, max(1, state.height))
    settled = {
        str(number): [
            SettlementLine(
                node=line.name,
                voting_power=line.voting_power,
                tasks=line.tasks,
                checks=line.checks,
                earned=line.earned,
                vesting=line.vesting,
                forfeited=line.forfeited,
            )
            for line in lines
        ]
        for number in range(max(0, epoch - 2), epoch + 1)
        if (lines := get_settlement(state, number)) is not None
    }
    return Report(
        race=_report_race(state, names),
        inference=_report_inference(state, names),
        training=_report_training(state, names),
        ledger=_report_ledger(context, state, epoch),
        settlements=settled,
    )


def _report_race(state: State, names: Mapping[bytes, str]) -> RaceReport:
    current = race.get_race(state)
    claims = race.CLAIMS_TABLE.items(state)
    return RaceReport(
        epoch=current.epoch if current else 0,
        phase=current.phase if current else "",
        claims=len(claims),
        accepted_hits=current.accepted_hits if current else 0,
        hits={names[address]: record.count for address, record in claims},
        rejected_nodes=sorted(names[address] for address, record in claims if record.outcome == REJECTED),
    )


def _report_inference(state: State, names: Mapping[bytes, str]) -> InferenceReport:
    everything = [task for _, task in TASKS.items(state)]
    tasks = [task for task in everything if not task.is_marked]
    answered: dict[str, int] = {}
    verified: dict[str, int] = {}
    for task in tasks:
        name = names[task.executor]
        answered[name] = answered.get(name, 0) + 1
        decisive = any(vote.outcome in {ACCEPTED, REJECTED} for vote in task.votes)
        if task.status in {FINAL, GUILTY} and decisive:
            verified[name] = verified.get(name, 0) + 1
    guilty = {names[task.executor] for task in everything if task.status == GUILTY}
    return InferenceReport(
        answered=answered,
        verified=verified,
        pending=sum(1 for task in tasks if task.status not in {FINAL, GUILTY}),
        rejected_nodes=sorted(guilty),
        refunded=sum(task.cost for task in tasks if task.refunded),
    )


def _report_training(state: State, names: Mapping[bytes, str]) -> TrainingReport | None:
    runs = training.RUNS.items(state)
    if not runs:
        return None
    run_id, run = max(runs, key=lambda item: item[1].opened_at)
    updates: dict[str, list[str]] = {}
    for key, update in training.UPDATES.items(state, run_id):
        updates.setdefault(names[key[training.ID_BYTES + 4 :]], []).append(update.outcome)
    return TrainingReport(
        run=run_id.hex(),
        phase=run.phase,
        round=run.round_index,
        rounds=run.rounds,
        trainers=[names[address] for address in run.joined],
        losses=[loss / 1_000_000 for loss in run.losses],
        rejected_nodes=sorted(names[address] for address in run.rejected),
        updates=updates,
    )


def _report_ledger(context: Context, state: State, epoch: int) -> LedgerReport:
    info = context.chain.application.info()
    return LedgerReport(
        chain_id=info.chain_id,
        height=info.height,
        epoch=epoch,
        epoch_ends=clock.compute_last_height(context.params, epoch),
        app_hash=info.app_hash.hex(),
        nodes_agree=_do_nodes_agree(context),
        supply_conserved=compute_supply(state) == TOTAL_SUPPLY,
        violations=find_violations(state, context.params),
        blob_bytes=context.peers.fetched_bytes + sum(s.fetched_bytes for s in context.chain.sightings.values()),
    )


def _do_nodes_agree(context: Context) -> bool:
    """Every other node was seen at a recent height with the app hash that this node has there."""
    own = {block.height: block.app_hash for block in context.chain.recent}
    others = [peer.address for peer in context.peers.all() if peer.address != context.address]
    sightings = [context.chain.sightings.get(address) for address in others]
    return all(seen is not None and own.get(seen.height) == seen.app_hash for seen in sightings)
