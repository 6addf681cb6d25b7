"""The end of a vote: ballots are weighed, deposits move, what passed is done.

Weights of the block that ends the voting decide, whoever held them when a vote was cast. A deposit is lost to the core reserve
when too few voted or a third called the proposal an abuse, and returns otherwise. It refuses to know what an action does.
Invariant: whatever becomes of a proposal, its deposit leaves the pool in the block that ends its voting.
Source: seed 001, Appendices J and K; decision 036.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.economy import ballots
from paceline.ledger import clock, experiments, nodes
from paceline.ledger.accounts import PROPOSAL_DEPOSITS, RESERVE, move_coins
from paceline.ledger.actions import Motion, execute_action, get_needed_thirds, waits_for_edge
from paceline.ledger.proposals import (
    EXECUTED,
    FAILED,
    NUMBER_BYTES,
    OPEN,
    PROPOSALS,
    VOTES,
    VOTING,
    WAITING,
    Proposal,
    get_proposal,
    get_votes,
    to_key,
)
from paceline.ledger.state import State
from paceline.protocol.params import NetworkParams


def end_block(state: State, params: NetworkParams) -> None:
    """Close what is due, in the order of numbers; at the end of an epoch do what waited for it, and forget the old."""
    for key, _ in OPEN.scan(state):
        if int.from_bytes(key[:-NUMBER_BYTES], "big") > state.height:
            break
        OPEN.delete(state, key)
        _close(state, params, int.from_bytes(key[-NUMBER_BYTES:], "big"))
    if clock.is_last(params, state.height):
        _end_epoch(state, params, clock.compute_epoch(params, state.height))


def _close(state: State, params: NetworkParams, number: int) -> None:
    proposal = get_proposal(state, number)
    assert proposal is not None and proposal.status == VOTING
    choices = get_votes(state, number)
    tally = ballots.count_ballots(choices, nodes.get_weights(state))
    outcome = ballots.judge_tally(tally, params.governance.quorum_ppm, get_needed_thirds(proposal.action))
    for voter in choices:
        VOTES.delete(state, to_key(number) + voter)
    lost = outcome in {ballots.NO_QUORUM, ballots.VETOED}
    move_coins(state, PROPOSAL_DEPOSITS, RESERVE if lost else proposal.author, proposal.deposit)
    counted = msgspec.structs.replace(proposal, tally=tally)
    if outcome == ballots.PASSED and not waits_for_edge(proposal.action):
        _execute(state, params, number, counted)
    else:
        _note(state, params, number, msgspec.structs.replace(counted, status=outcome))


def _execute(state: State, params: NetworkParams, number: int, proposal: Proposal) -> None:
    branch = state.branch()
    try:
        execute_action(branch, params, Motion(number=number, author=proposal.author, action=proposal.action))
    except InvalidTransaction as problem:
        _note(state, params, number, msgspec.structs.replace(proposal, status=FAILED, reason=problem.code))
        return
    state.merge(branch)
    _note(state, params, number, msgspec.structs.replace(proposal, status=EXECUTED))


def _note(state: State, params: NetworkParams, number: int, proposal: Proposal) -> None:
    epoch = clock.compute_epoch(params, state.height)
    PROPOSALS.put(state, to_key(number), msgspec.structs.replace(proposal, ended=epoch))
    state.emit("proposal-ended", number=number, status=proposal.status, reason=proposal.reason)


def _end_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    # What comes back from experiments can be granted again by the next vote, not by this one.
    for key, proposal in PROPOSALS.items(state):
        if proposal.status == WAITING:
            _execute(state, params, int.from_bytes(key, "big"), proposal)
        elif proposal.status != VOTING and proposal.ended + params.governance.kept_epochs <= epoch:
            PROPOSALS.delete(state, key)
    experiments.end_epoch(state, epoch)
