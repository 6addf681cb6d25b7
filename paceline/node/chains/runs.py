"""Training runs for people: who pays, how far they are, what they have left; and what an experiment's plan says of its run.

Read from committed state; it changes nothing.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import ConfigError, InvalidClaim
from paceline.ledger import experiments, publications, shares, training
from paceline.ledger.publications import Publication
from paceline.ledger.state import State
from paceline.ledger.training import Run
from paceline.node.chains.proposals import ExperimentLine, name_account, show_experiment
from paceline.training.plan import TrainingPlan, decode_plan

PUBLISHED = "published"


class PublicationLine(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody published of a run; `published` is its status once drawn nodes had it. Blobs by their hashes."""

    publisher: str
    """Empty for the one that stands: it is the run's, whoever sent it."""
    status: str
    licence_name: str
    checkpoint: str
    code: str
    recipe: str
    log: str
    licence: str
    fetched: int
    """Drawn nodes that said so far what they found."""
    drawn: int


class ShareLine(msgspec.Struct, frozen=True, kw_only=True):
    """Who has put so much into a run of participants, or holds so much of its table."""

    holder: str
    paid: int
    """Nicoin, while the run goes on."""
    ppm: int
    """Millionths, once it is over."""


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `experiment` is the proposal that reserved its budget, 0 when its owner paid; amounts in nicoin."""

    run: str
    phase: str
    round: int
    rounds: int
    deadline: int
    owner: str
    experiment: int
    budget: int
    update_pay: int
    audit_pay: int
    trainers: list[str]
    seats: int
    state_hash: str
    code_hash: str
    """Of the method that was voted on; empty when the owner paid."""
    withheld: int
    """The last instalments of its trainers, until it is published."""
    publications: list[PublicationLine]
    goal: int
    """Coins with which a run of participants begins; 0 for any other."""
    fee_ppm: int
    """Part of later fees for its models that the shares split."""
    shares: list[ShareLine]


class RunsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All kept runs, the latest first, and the budgets that wait for one."""

    height: int
    runs: list[RunLine]
    experiments: list[ExperimentLine]


class ShapeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan in hex digits, or the number of the proposal that reserved an experiment's budget."""

    experiment: int = 0
    plan: str = ""


class RunShape(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a voted plan: the first state, kept here for whoever trains, and how its rounds are cut."""

    state_hash: str
    data_hash: str
    rounds: int
    segments: int


def build_runs_status(state: State) -> RunsStatus:
    """Read it all from committed state."""
    runs = sorted(training.RUNS.items(state), key=lambda item: (-item[1].opened_at, item[0]))
    return RunsStatus(
        height=state.height,
        runs=[_show_run(state, run_id, run) for run_id, run in runs],
        experiments=[show_experiment(state, key, found) for key, found in experiments.RESERVED.items(state)],
    )


def find_plan(state: State, order: ShapeOrder) -> TrainingPlan:
    """The plan that is asked for. Errors: ConfigError when it is none, or no such experiment waits for its run."""
    if not order.plan:
        return get_voted_plan(state, order.experiment)
    try:
        return decode_plan(bytes.fromhex(order.plan))
    except (InvalidClaim, ValueError) as problem:
        raise ConfigError(f"the plan cannot be trained: {problem}") from None


def get_voted_plan(state: State, number: int) -> TrainingPlan:
    """The plan of an experiment that waits for its run. Errors: ConfigError when none does, or its plan cannot be trained."""
    experiment = experiments.get_experiment(state, number)
    if experiment is None:
        raise ConfigError(f"no budget of proposal {number} waits for a run; `paceline run list` shows those that do")
    try:
        plan = decode_plan(experiment.plan)
    except InvalidClaim as problem:
        raise ConfigError(f"the plan of proposal {number} cannot be trained: {problem.message}") from None
    if plan.data_hash != experiment.data_hash:
        raise ConfigError(f"the plan of proposal {number} names other data than the proposal does")
    return plan


def _show_run(state: State, run_id: bytes, run: Run) -> RunLine:
    return RunLine(
        run=run_id.hex(),
        phase=run.phase,
        round=run.round_index,
        rounds=run.rounds,
        deadline=run.deadline,
        owner=name_account(state, run.owner),
        experiment=run.funding.experiment if run.funding else 0,
        budget=run.budget,
        update_pay=run.pay_per_update,
        audit_pay=run.funding.audit_pay if run.funding else 0,
        trainers=[name_account(state, address) for address in run.joined],
        seats=run.seats,
        state_hash=run.state_hash.hex(),
        code_hash=run.funding.code_hash.hex() if run.funding else "",
        withheld=run.funding.withheld if run.funding else 0,
        publications=_show_publications(state, run_id),
        goal=run.funding.goal if run.funding else 0,
        fee_ppm=run.funding.fee_ppm if run.funding else 0,
        shares=_show_shares(state, run_id),
    )


def _show_shares(state: State, run_id: bytes) -> list[ShareLine]:
    paid, held = shares.get_contributions(state, run_id), shares.get_shares(state, run_id)
    return [
        ShareLine(holder=name_account(state, address), paid=paid.get(address, 0), ppm=held.get(address, 0))
        for address in sorted({*paid, *held})
    ]


def _show_publications(state: State, run_id: bytes) -> list[PublicationLine]:
    lines = [
        _show_publication(found, found.status, name_account(state, key[len(run_id) :]))
        for key, found in publications.PUBLICATIONS.items(state, run_id)
    ]
    done = publications.PUBLISHED.get(state, run_id)
    return lines if done is None else [_show_publication(done, PUBLISHED, ""), *lines]


def _show_publication(found: Publication, status: str, publisher: str) -> PublicationLine:
    checkpoint, code, recipe, log, licence = (digest.hex() for digest in found.blobs)
    return PublicationLine(
        publisher=publisher,
        status=status,
        licence_name=found.licence_name,
        checkpoint=checkpoint,
        code=code,
        recipe=recipe,
        log=log,
        licence=licence,
        fetched=len(found.found) or len(found.commitments),
        drawn=len(found.slots),
    )
