"""Attacks on governance: a cartel, votes cast twice, split keys, numbers nobody may touch, spam, a plan that halts the chain.

Power: all of them are exact. Less than a third of all weight passes nothing, whatever the others do; spam that voters ignore or
veto costs its whole deposit, and filling every place costs `most_open` deposits per voting.
"""

from __future__ import annotations

import msgspec
import pytest
from governed_chain import DEPOSIT, FUND, GOVERNED, VOTING, GovernedChain, submit

from paceline.base.errors import InvalidTransaction, UpgradeNeeded
from paceline.ledger import governance, nodes, parameters, proposals, upgrades
from paceline.ledger.accounts import TRAINING_FUND
from paceline.protocol import proposals as p

LOOT = p.PayGrant(b"l" * 20, FUND)
CARTEL, HONEST = [320], [170, 170, 170, 170]
TEXT = p.Statement()


def vote_by(chain, number, choices):
    for index, choice in choices.items():
        chain.send(chain.keys[index], p.VoteProposal(number, choice))


ANSWERS = {
    "everybody else stays away": {},
    "two abstain and bring the quorum about": {1: p.ABSTAIN, 2: p.ABSTAIN},
    "one of the honest says no": {1: p.NO},
    "all abstain": dict.fromkeys((1, 2, 3, 4), p.ABSTAIN),
    "all say no": dict.fromkeys((1, 2, 3, 4), p.NO),
}


@pytest.mark.parametrize("others", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_cartel_below_a_third_spends_nothing_whatever_the_others_do(others):
    chain = GovernedChain(weights=CARTEL + HONEST)
    number = chain.propose(LOOT)
    vote_by(chain, number, {0: p.YES, **others})
    assert chain.finish(number).status in {"no-quorum", "rejected"}
    assert chain.balance(TRAINING_FUND) == FUND and chain.balance(LOOT.to) == 0


def test_without_the_third_of_all_weight_abstaining_nodes_hand_the_fund_to_a_cartel(monkeypatch):
    monkeypatch.setattr(governance, "get_needed_thirds", lambda _: 0)
    chain = GovernedChain(weights=CARTEL + HONEST)
    number = chain.propose(LOOT)
    vote_by(chain, number, {0: p.YES, 1: p.ABSTAIN, 2: p.ABSTAIN})
    assert chain.finish(number).status == "executed" and chain.balance(LOOT.to) == FUND


def test_without_that_and_without_a_quorum_a_cartel_needs_nobody(monkeypatch):
    monkeypatch.setattr(governance, "get_needed_thirds", lambda _: 0)
    chain = GovernedChain(weights=CARTEL + HONEST, quorum_ppm=0)
    number = chain.propose(LOOT)
    vote_by(chain, number, {0: p.YES})
    assert chain.finish(number).status == "executed" and chain.balance(LOOT.to) == FUND


def move_weight_and_close(chain, number):
    """The hardware behind node 1 races under the key of node 2 before the voting ends; the proposal's tally."""
    state = chain.state
    state.height = chain.get(number).ends_at
    weights = nodes.get_weights(state)
    first, second = chain.keys[0].address, chain.keys[1].address
    weights[second] += weights.pop(first)
    nodes.set_weights(state, chain.params, weights)
    governance.end_block(state, chain.params)
    return proposals.get_proposal(state, number)


def test_weight_that_moves_to_another_key_counts_once():
    chain = GovernedChain(weights=[300, 10, 350, 340, 10])
    number = chain.propose(LOOT)
    vote_by(chain, number, {0: p.YES, 1: p.YES, 2: p.NO})
    chain.block()
    at_the_vote = nodes.get_weights(chain.state)
    proposal = move_weight_and_close(chain, number)
    assert proposal.tally.yes == 310 and proposal.status == "rejected"
    # Weights of the time of each vote, with the second key's vote cast after the move, would count the hardware twice.
    counted_twice = at_the_vote[chain.keys[0].address] + proposal.tally.yes
    assert counted_twice > proposal.tally.no


def test_weight_gained_after_the_vote_counts_and_lost_weight_does_not():
    """Nobody votes with hardware that it took away again: what rules at the end is what decides."""
    chain = GovernedChain(weights=[1_000, 100, 100, 100, 100])
    number = chain.propose(LOOT)
    vote_by(chain, number, {0: p.YES, 1: p.NO})
    chain.block()
    state = chain.state
    state.height = chain.get(number).ends_at
    addresses = [key.address for key in chain.keys]
    nodes.set_weights(state, chain.params, dict(zip(addresses[1:], (500, 100, 100, 100), strict=True)))
    governance.end_block(state, chain.params)
    found = proposals.get_proposal(state, number)
    assert (found.tally.yes, found.tally.no, found.status) == (0, 500, "rejected")


def test_splitting_a_key_changes_no_outcome():
    outcomes = []
    for weights, cartel in (([300, 175, 175, 175, 175], [0]), ([100, 100, 100, 350, 350], [0, 1, 2])):
        chain = GovernedChain(weights=weights)
        number = chain.propose(LOOT)
        honest = [index for index in range(5) if index not in cartel]
        vote_by(chain, number, {**dict.fromkeys(cartel, p.YES), **dict.fromkeys(honest, p.ABSTAIN)})
        proposal = chain.finish(number)
        outcomes.append((proposal.status, proposal.tally))
    assert outcomes[0] == outcomes[1] and outcomes[0][0] == "rejected"


def test_no_majority_cuts_the_funds_share_before_year_five(monkeypatch):
    change = p.ChangeParameter("fund_ppm", 0)
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(change)) == "not-yet"
    monkeypatch.setattr(parameters, "FUND_YEARS", 0)
    chain.decide(change)
    chain.end_epoch()
    assert chain.application.params.fund_ppm == 0


def test_no_majority_sets_a_number_out_of_its_bounds(monkeypatch):
    free = p.ChangeParameter("check_floor_ppm", 0)
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(free)) == "out-of-bounds"
    loose = parameters.Bounds(0, 10**6, "ppm", "anything goes")
    monkeypatch.setattr(parameters, "PARAMETERS", {"check_floor_ppm": loose})
    chain.decide(free)
    chain.end_epoch()
    # With it nodes of good reputation would be checked no more.
    assert chain.application.params.check_floor_ppm == 0


def submit_until_refused(chain, most):
    """How many proposals an account gets into one block."""
    for count in range(most):
        try:
            chain.send(chain.other, submit(TEXT, title=f"{chain.height}-{count}"))
        except InvalidTransaction:
            return count
    return most


def spam(chain, rounds, most=60):
    """As many proposals as an account gets in, voting after voting; the most that ever lay on the ledger."""
    reached = 0
    for _ in range(rounds):
        submit_until_refused(chain, most)
        chain.block()
        reached = max(reached, len(proposals.OPEN.items(chain.state)))
        chain.advance(chain.height + VOTING)
    return reached


def test_spam_costs_its_deposits_and_takes_bounded_room():
    chain = GovernedChain()
    before = chain.balance(chain.other.address)
    most = spam(chain, 5)
    sent = proposals.LAST.get(chain.state)
    assert most <= GOVERNED.governance.most_open_each and sent == 5 * most
    assert chain.balance(chain.other.address) == before - sent * (DEPOSIT + GOVERNED.transfer_fee)
    for _ in range(GOVERNED.governance.kept_epochs + 1):
        chain.end_epoch()
    assert proposals.list_proposals(chain.state) == [] and proposals.VOTES.items(chain.state) == []


def test_without_deposit_and_limit_spam_is_free_and_fills_the_ledger():
    chain = GovernedChain(deposit=0, most_open=10**6, most_open_each=10**6)
    before = chain.balance(chain.other.address)
    assert spam(chain, 5) == 60
    assert chain.balance(chain.other.address) == before - 5 * 60 * GOVERNED.transfer_fee


def test_vetoed_spam_loses_its_deposit_even_where_enough_voted():
    chain = GovernedChain()
    before = chain.balance(chain.user.address)
    _, proposal = chain.decide(TEXT, p.VETO)
    assert proposal.status == "vetoed"
    assert chain.balance(chain.user.address) == before - DEPOSIT - GOVERNED.transfer_fee


def test_a_majority_without_two_thirds_cannot_halt_the_chain_by_a_plan(monkeypatch):
    def plan(chain):
        height = chain.height + 40
        number = chain.propose(p.SetUpgrade("nobody-has-it", height))
        vote_by(chain, number, {0: p.YES, 1: p.YES, 2: p.YES})
        chain.finish(number)
        return height

    chain = GovernedChain()
    height = plan(chain)
    assert upgrades.PLAN.get(chain.state) is None
    chain.advance(height + 1)
    monkeypatch.setattr(governance, "get_needed_thirds", lambda _: 1)
    chain = GovernedChain()
    height = plan(chain)
    with pytest.raises(UpgradeNeeded):
        chain.advance(height)


def test_one_fund_is_not_spent_twice():
    chain = GovernedChain()
    for to in (b"x" * 20, b"y" * 20):
        chain.send(chain.user, submit(msgspec.structs.replace(LOOT, to=to)))
    chain.block()
    chain.vote(1)
    chain.vote(2)
    assert (chain.finish(2).status, chain.get(1).status) == ("failed", "executed")
    assert chain.balance(b"x" * 20) + chain.balance(b"y" * 20) == FUND
