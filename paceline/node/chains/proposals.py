"""Governance for people: proposals with their votes, the numbers that a vote may change, models, reserved budgets.

Read from committed state; what is still voted on is weighed by the weights of that state. It changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.base.integers import PPM
from paceline.economy.ballots import Tally, count_ballots
from paceline.ledger import clock, experiments, model_registry, nodes, parameters, proposals
from paceline.ledger.accounts import TRAINING_FUND, get_account
from paceline.ledger.state import State
from paceline.protocol.params import NetworkParams


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of all race weight behind each choice."""

    yes_ppm: int
    no_ppm: int
    abstain_ppm: int
    veto_ppm: int


class CastVote(msgspec.Struct, frozen=True, kw_only=True):
    """A node's vote on an open proposal, with its share of all race weight."""

    node: str
    choice: str
    weight_ppm: int


class ProposalLine(msgspec.Struct, frozen=True, kw_only=True):
    """One proposal. `action` has the fields of its kind, bytes as hex digits; amounts in nicoin."""

    number: int
    status: str
    reason: str
    title: str
    text: str
    kind: str
    action: dict[str, Any]
    author: str
    deposit: int
    opened_at: int
    ends_at: int
    shares: Shares
    votes: list[CastVote]


class ParameterLine(msgspec.Struct, frozen=True, kw_only=True):
    """A number that votes may change: what holds in the next block, what genesis says, and its bounds."""

    name: str
    value: int
    genesis_value: int
    low: int
    high: int
    unit: str
    sentence: str


class ExperimentLine(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that waits for its training run; `until` is the last epoch in which it does."""

    proposal: int
    author: str
    method: int
    reserved: int
    until: int


class MethodLine(msgspec.Struct, frozen=True, kw_only=True):
    """An approved method and the last epoch in which it may be cited."""

    proposal: int
    author: str
    code_hash: str
    locator: str
    until: int


class GovernanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Governance as one node sees it. `edge` is the first height of the next epoch; amounts in nicoin."""

    height: int
    edge: int
    deposit: int
    fee: int
    voting_blocks: int
    quorum_ppm: int
    fund: int
    proposals: list[ProposalLine]
    parameters: list[ParameterLine]
    models: list[dict[str, Any]]
    methods: list[MethodLine]
    experiments: list[ExperimentLine]


def build_governance_status(state: State, genesis_params: NetworkParams) -> GovernanceStatus:
    """Read it all from committed state."""
    params = parameters.get_params(state, genesis_params)
    weights = nodes.get_weights(state)
    epoch = clock.compute_epoch(params, state.height + 1)
    return GovernanceStatus(
        height=state.height,
        edge=clock.compute_last_height(params, epoch) + 1,
        deposit=params.governance.deposit,
        fee=params.transfer_fee,
        voting_blocks=params.governance.voting_blocks,
        quorum_ppm=params.governance.quorum_ppm,
        fund=get_account(state, TRAINING_FUND).balance,
        proposals=[
            _show_proposal(state, weights, number, proposal) for number, proposal in proposals.list_proposals(state)
        ],
        parameters=[_show_parameter(params, genesis_params, name) for name in parameters.PARAMETERS],
        models=[_show_record(entry) for entry in model_registry.list_entries(state)],
        methods=[_show_method(state, key, method) for key, method in experiments.METHODS.items(state)],
        experiments=[show_experiment(state, key, found) for key, found in experiments.RESERVED.items(state)],
    )


def name_account(state: State, address: bytes) -> str:
    """A node's name, or the address in hex digits."""
    node = nodes.NODES.get(state, address)
    return address.hex() if node is None else node.name


def _show_proposal(state: State, weights: dict[bytes, int], number: int, proposal: proposals.Proposal) -> ProposalLine:
    choices = proposals.get_votes(state, number)
    tally = proposal.tally or count_ballots(choices, weights)
    total = max(1, sum(weights.values()))
    votes = [
        CastVote(node=name_account(state, voter), choice=choice, weight_ppm=PPM * weights.get(voter, 0) // total)
        for voter, choice in choices.items()
    ]
    return ProposalLine(
        number=number,
        status=proposal.status,
        reason=proposal.reason,
        title=proposal.title,
        text=proposal.text,
        kind=str(proposal.action.__struct_config__.tag),
        action=_show_record(proposal.action),
        author=name_account(state, proposal.author),
        deposit=proposal.deposit,
        opened_at=proposal.opened_at,
        ends_at=proposal.ends_at,
        shares=_show_shares(tally),
        votes=sorted(votes, key=lambda vote: vote.node),
    )


def _show_shares(tally: Tally) -> Shares:
    total = max(1, tally.total)
    return Shares(
        yes_ppm=PPM * tally.yes // total,
        no_ppm=PPM * tally.no // total,
        abstain_ppm=PPM * tally.abstain // total,
        veto_ppm=PPM * tally.veto // total,
    )


def _show_parameter(params: NetworkParams, genesis_params: NetworkParams, name: str) -> ParameterLine:
    bounds = parameters.PARAMETERS[name]
    return ParameterLine(
        name=name,
        value=parameters.get_value(params, name),
        genesis_value=parameters.get_value(genesis_params, name),
        low=bounds.low,
        high=bounds.high,
        unit=bounds.unit,
        sentence=bounds.sentence,
    )


def _show_method(state: State, key: bytes, method: experiments.Method) -> MethodLine:
    return MethodLine(
        proposal=int.from_bytes(key, "big"),
        author=name_account(state, method.author),
        code_hash=method.code_hash.hex(),
        locator=method.locator,
        until=method.until,
    )


def show_experiment(state: State, key: bytes, found: experiments.Experiment) -> ExperimentLine:
    """A budget that waits, by the key of its proposal."""
    return ExperimentLine(
        proposal=int.from_bytes(key, "big"),
        author=name_account(state, found.author),
        method=found.method,
        reserved=found.reserved,
        until=found.until,
    )


def _show_record(record: msgspec.Struct) -> dict[str, Any]:
    """Fields by name: bytes as hex digits, records inside as objects."""
    return {field: _show_value(getattr(record, field)) for field in record.__struct_fields__}


def _show_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return _show_record(value)
    if isinstance(value, tuple):
        return [_show_value(part) for part in value]
    return value
