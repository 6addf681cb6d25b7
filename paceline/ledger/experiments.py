"""Training paid by the network, in two stages: methods that a vote approved, and budgets that a vote reserved for them.

An experiment cites an approved method of the same account. Its budget leaves the training fund when it passes and waits in
a pool of its own; what is not used in time goes back. It refuses to know how a run is opened and what trains in it.
Invariant: the pool of experiments holds exactly the budgets that are reserved.
Source: seed 001, Appendix K; SPEC section 4; decision 036.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger.accounts import EXPERIMENTS, TRAINING_FUND, get_account, move_coins
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams
from paceline.protocol.proposals import ApproveMethod, FundExperiment


class Method(Record, frozen=True, kw_only=True):
    """A way of training that a vote approved."""

    author: bytes
    code_hash: bytes
    locator: str
    until: int
    """Last epoch in which it may be cited."""


class Experiment(Record, frozen=True, kw_only=True):
    """A training run that a vote decided to pay for."""

    author: bytes
    method: int
    """Number of the proposal that approved its method."""
    data_hash: bytes
    plan: bytes
    micro_units: int
    """Millionths of a unit of compute that an update stands for."""
    code_hash: bytes
    """Of its method, which may be forgotten earlier."""
    reserved: int
    """Nicoin of its budget in the pool of experiments."""
    until: int
    """Last epoch in which they wait for it."""


METHODS: Table[Method] = Table("experiments/method", Method)
RESERVED: Table[Experiment] = Table("experiments/reserved", Experiment)
"""Both by number of the proposal that made them."""


def get_method(state: State, number: int) -> Method | None:
    """The method that a proposal approved, while it may be cited."""
    return METHODS.get(state, number.to_bytes(8, "big"))


def get_experiment(state: State, number: int) -> Experiment | None:
    """The experiment that a proposal reserved a budget for, while it waits."""
    return RESERVED.get(state, number.to_bytes(8, "big"))


def require_in_fund(state: State, amount: int) -> None:
    """Errors: InvalidTransaction over-fund, when the training fund holds less."""
    held = get_account(state, TRAINING_FUND).balance
    if amount > held:
        raise InvalidTransaction("over-fund", f"{amount} nicoin are asked for, the training fund holds {held}")


def require_citable(state: State, author: bytes, number: int) -> Method:
    """The method that an account's experiment cites. Errors: InvalidTransaction unknown-method, not-your-method."""
    method = get_method(state, number)
    if method is None:
        raise InvalidTransaction("unknown-method", f"proposal {number} approved no method that may still be cited")
    if method.author != author:
        raise InvalidTransaction("not-your-method", f"the method of proposal {number} is another account's")
    return method


def approve_method(state: State, number: int, author: bytes, action: ApproveMethod, until: int) -> None:
    """Note a method that passed."""
    method = Method(author=author, code_hash=action.code_hash, locator=action.locator, until=until)
    METHODS.put(state, number.to_bytes(8, "big"), method)


def reserve_budget(
    state: State, params: NetworkParams, number: int, author: bytes, action: FundExperiment, epoch: int
) -> None:
    """Take a passed experiment's budget out of the fund.

    Errors: InvalidTransaction unknown-method, not-your-method, over-fund.
    """
    method = require_citable(state, author, action.method)
    require_in_fund(state, action.budget)
    move_coins(state, TRAINING_FUND, EXPERIMENTS, action.budget)
    cited = msgspec.structs.replace(method, until=epoch + params.governance.method_epochs)
    METHODS.put(state, action.method.to_bytes(8, "big"), cited)
    experiment = Experiment(
        author=author,
        method=action.method,
        data_hash=action.data_hash,
        plan=action.plan,
        micro_units=action.micro_units,
        code_hash=method.code_hash,
        reserved=action.budget,
        until=epoch + params.governance.experiment_epochs,
    )
    RESERVED.put(state, number.to_bytes(8, "big"), experiment)
    state.emit("experiment", proposal=number, author=author.hex(), reserved=action.budget)


def take_reserved(state: State, number: int, author: bytes, to: bytes) -> Experiment:
    """Move a waiting budget to where its run is paid from, once, for the account that it was voted to.

    Errors: InvalidTransaction unknown-experiment, not-your-experiment.
    """
    experiment = get_experiment(state, number)
    if experiment is None:
        raise InvalidTransaction("unknown-experiment", f"no budget of proposal {number} waits for a run")
    if experiment.author != author:
        raise InvalidTransaction("not-your-experiment", f"the experiment of proposal {number} is another account's")
    move_coins(state, EXPERIMENTS, to, experiment.reserved)
    RESERVED.delete(state, number.to_bytes(8, "big"))
    return experiment


def end_epoch(state: State, epoch: int) -> None:
    """Budgets that waited too long go back to the fund; methods that nobody cited for long are forgotten."""
    for key, experiment in RESERVED.items(state):
        if experiment.until <= epoch:
            move_coins(state, EXPERIMENTS, TRAINING_FUND, experiment.reserved)
            RESERVED.delete(state, key)
            state.emit("experiment-over", proposal=int.from_bytes(key, "big"), returned=experiment.reserved)
    for key, method in METHODS.items(state):
        if method.until <= epoch:
            METHODS.delete(state, key)


def compute_reserved(state: State) -> int:
    """Nicoin of all budgets that wait."""
    return sum(experiment.reserved for _, experiment in RESERVED.items(state))
