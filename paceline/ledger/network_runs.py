"""Runs that their opener does not pay for: an experiment that passed opens one, or participants gather coins; anybody may add some.

Plan, data, method, budget and units of compute are those that were voted on; the opener adds the first state and the shape that
follows from the plan, which trainers compare with it before they join. It refuses to know rounds and audits.
Invariant: a reserved budget opens one run, and all of it is in that run's escrow then.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, experiments, prices, run_money, shares
from paceline.ledger.accounts import RUN_ESCROW, move_coins
from paceline.ledger.run_money import Funding
from paceline.ledger.shares import Room
from paceline.ledger.state import State
from paceline.ledger.training import ENDED, GATHERING, JOINING, PAUSED, PUBLISHING, RUNS, Run, compute_run_id, put_new
from paceline.protocol.funding import FundRun, OpenExperiment, OpenSharedRun
from paceline.protocol.params import NetworkParams


def apply_open(
    state: State, params: NetworkParams, sender: bytes, transaction_hash: bytes, message: OpenExperiment
) -> None:
    """Move a reserved budget into escrow and wait for trainers.

    Errors: InvalidTransaction unknown-experiment, not-your-experiment, small-budget.
    """
    experiment = experiments.take_reserved(state, message.experiment, sender, RUN_ESCROW)
    pay = run_money.compute_update_pay(prices.get_unit_price(state, params), experiment.micro_units)
    funding = Funding(
        experiment=message.experiment,
        code_hash=experiment.code_hash,
        audit_pay=run_money.compute_audit_pay(params, pay, message.segments),
        instalment_ppm=params.funding.instalment_ppm,
    )
    cost = run_money.compute_round_cost(params, funding, pay, message.trainers)
    if cost > experiment.reserved:
        raise InvalidTransaction(
            "small-budget",
            f"a round with {message.trainers} trainers costs {cost} nicoin, {experiment.reserved} are reserved",
        )
    run = Run(
        owner=sender,
        plan=experiment.plan,
        data_hash=experiment.data_hash,
        state_hash=message.state_hash,
        rounds=message.rounds,
        seats=message.trainers,
        segments=message.segments,
        budget=experiment.reserved,
        pay_per_update=pay,
        opened_at=state.height,
        phase=JOINING,
        deadline=state.height + params.join_blocks,
        beacon_round=beacon.request_round(state),
        funding=funding,
    )
    put_new(state, compute_run_id(sender, transaction_hash), run)


def apply_open_shared(
    state: State, params: NetworkParams, sender: bytes, transaction_hash: bytes, message: OpenSharedRun
) -> None:
    """Let participants gather the coins for a run. Errors: InvalidTransaction small-budget."""
    pay = run_money.compute_update_pay(prices.get_unit_price(state, params), message.micro_units)
    funding = Funding(
        experiment=0,
        code_hash=b"",
        audit_pay=run_money.compute_audit_pay(params, pay, message.segments),
        instalment_ppm=0,
        goal=message.goal,
        fee_ppm=message.fee_ppm,
    )
    cost = run_money.compute_round_cost(params, funding, pay, message.trainers)
    if cost > message.goal:
        raise InvalidTransaction("small-budget", f"a round with {message.trainers} trainers costs {cost} nicoin")
    run = Run(
        owner=sender,
        plan=message.plan,
        data_hash=message.data_hash,
        state_hash=message.state_hash,
        rounds=message.rounds,
        seats=message.trainers,
        segments=message.segments,
        budget=0,
        pay_per_update=pay,
        opened_at=state.height,
        phase=GATHERING,
        deadline=state.height + params.funding.gather_blocks,
        funding=funding,
    )
    put_new(state, compute_run_id(sender, transaction_hash), run)


def apply_fund(state: State, params: NetworkParams, sender: bytes, message: FundRun) -> None:
    """Add coins to a run's budget; one that waits for them goes on with the end of the block when they are enough.

    Errors: InvalidTransaction zero-amount, unknown-run, not-fundable, wrong-phase, small-part, over-goal, over-balance.
    """
    if message.amount == 0:
        raise InvalidTransaction("zero-amount", "add at least 1 nicoin")
    run = RUNS.get(state, message.run)
    if run is None:
        raise InvalidTransaction("unknown-run", "no run has this id")
    if run.funding is None:
        raise InvalidTransaction("not-fundable", "whoever opened this run has paid for all of it")
    if run.phase in {PUBLISHING, ENDED}:
        raise InvalidTransaction("wrong-phase", "the run is over")
    if run.funding.goal:
        shares.contribute(state, message.run, sender, message.amount, _find_room(params, run))
    move_coins(state, sender, RUN_ESCROW, message.amount)
    RUNS.put(state, message.run, msgspec.structs.replace(run, budget=run.budget + message.amount))
    state.emit("run-funded", run=message.run.hex(), account=sender.hex(), amount=message.amount)


def _find_room(params: NetworkParams, run: Run) -> Room:
    """How much participants may still put into a run: what it lacks, and only while it waits for it.

    Later coins would buy shares of a run that others have borne the risk of, and return what these have paid.
    """
    assert run.funding is not None
    if run.phase == GATHERING:
        return Room(run.funding.goal, run.funding.goal - run.budget)
    if run.phase != PAUSED:
        raise InvalidTransaction(
            "wrong-phase", f"participants pay before a run begins or while it is paused, not {run.phase}"
        )
    cost = run_money.compute_round_cost(params, run.funding, run.pay_per_update, len(run.trainers))
    return Room(run.funding.goal, (run.rounds - run.round_index) * cost - run.budget)
