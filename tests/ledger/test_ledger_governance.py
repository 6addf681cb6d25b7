"""Governance: who proposes and votes, when a vote ends, what becomes of the deposit, and what each action but a parameter does."""

from __future__ import annotations

import msgspec
import pytest
from governed_chain import DEPOSIT, ENTRY, EPOCH, FUND, GOVERNED, VOTING, GovernedChain, submit

from paceline.base.errors import InvalidTransaction
from paceline.ledger import actions, experiments, governance, model_registry, nodes, proposals, upgrades
from paceline.ledger.accounts import EXPERIMENTS, POOLS, PROPOSAL_DEPOSITS, RESERVE, TRAINING_FUND, move_coins
from paceline.ledger.invariants import find_violations
from paceline.protocol import messages as m
from paceline.protocol import proposals as p
from paceline.protocol.codec import decode, encode

TEXT = p.Statement()
METHOD = p.ApproveMethod(b"c" * 32, "https://example.org/method.git")
PAYEE = b"p" * 20


def make_experiment(method, budget=10**11):
    return p.FundExperiment(method, b"d" * 32, b"plan", budget)


def statuses(chain):
    return {number: proposal.status for number, proposal in proposals.list_proposals(chain.state)}


# Proposing and voting


def test_a_proposal_takes_its_deposit_and_gives_it_back_when_it_passes():
    chain = GovernedChain()
    before = chain.balance(chain.user.address)
    number = chain.propose(TEXT)
    assert number == 1
    assert chain.balance(chain.user.address) == before - DEPOSIT - GOVERNED.transfer_fee
    assert chain.balance(PROPOSAL_DEPOSITS) == DEPOSIT
    chain.vote(number)
    assert proposals.get_votes(chain.state, number) == {key.address: p.YES for key in chain.keys}
    proposal = chain.finish(number)
    assert proposal.status == proposals.EXECUTED and proposal.reason == ""
    assert proposal.tally.yes == proposal.tally.total == 5_000
    assert chain.balance(chain.user.address) == before - GOVERNED.transfer_fee
    assert chain.balance(PROPOSAL_DEPOSITS) == 0
    assert proposals.get_votes(chain.state, number) == {}
    assert proposals.OPEN.items(chain.state) == []


@pytest.mark.parametrize(
    ("choices", "status", "returns"),
    [
        ({0: p.YES}, "no-quorum", False),
        ({}, "no-quorum", False),
        ({0: p.YES, 1: p.NO}, "rejected", True),
        ({0: p.YES, 1: p.YES}, "executed", True),
        ({0: p.NO, 1: p.NO, 2: p.YES}, "rejected", True),
        ({0: p.ABSTAIN, 1: p.ABSTAIN}, "rejected", True),
        ({0: p.YES, 1: p.YES, 2: p.VETO}, "vetoed", False),
        ({0: p.YES, 1: p.YES, 2: p.YES, 3: p.VETO}, "executed", True),
    ],
)
def test_the_outcome_and_where_the_deposit_goes(choices, status, returns):
    chain = GovernedChain()
    before, reserve = chain.balance(chain.user.address), chain.balance(RESERVE)
    number = chain.propose(TEXT)
    for index, choice in choices.items():
        chain.send(chain.keys[index], p.VoteProposal(number, choice))
    assert chain.finish(number).status == status
    fee = GOVERNED.transfer_fee
    assert chain.balance(chain.user.address) == before - fee - (0 if returns else DEPOSIT)
    assert chain.balance(RESERVE) == reserve + fee + (0 if returns else DEPOSIT)


def test_votes_are_taken_up_to_the_last_height_and_not_later():
    chain = GovernedChain()
    number = chain.propose(TEXT)
    assert chain.get(number).ends_at == chain.height + VOTING
    chain.vote(number, voters=(0,))
    chain.advance(chain.get(number).ends_at - 1)
    assert chain.get(number).status == proposals.VOTING
    chain.vote(number, voters=(1,))
    assert chain.get(number).status == proposals.EXECUTED
    assert chain.refuse(chain.keys[2], p.VoteProposal(number, p.YES)) == "voting-over"


def test_weights_of_the_end_decide_not_those_of_the_vote():
    chain = GovernedChain()
    number = chain.propose(TEXT)
    chain.vote(number, p.YES, voters=(0, 1, 2))
    chain.vote(number, p.NO, voters=(3,))
    state = chain.state
    state.height = chain.get(number).ends_at
    for index, weight in enumerate((0, 10, 10, 2_000)):
        nodes.update_node(state, chain.keys[index].address, weight=weight)
    governance.end_block(state, chain.params)
    proposal = proposals.get_proposal(state, number)
    assert proposal.status == "rejected"
    assert (proposal.tally.yes, proposal.tally.no, proposal.tally.total) == (20, 2_000, 3_020)


def test_invalid_votes():
    chain = GovernedChain()
    number = chain.propose(TEXT)
    assert chain.refuse(chain.keys[0], p.VoteProposal(number + 1, p.YES)) == "unknown-proposal"
    assert chain.refuse(chain.user, p.VoteProposal(number, p.YES)) == "not-a-node"
    chain.vote(number, p.NO, voters=(0,))
    assert chain.refuse(chain.keys[0], p.VoteProposal(number, p.YES)) == "already-voted"
    assert chain.refuse(chain.keys[0], p.VoteProposal(number, p.NO)) == "already-voted"
    state = chain.state
    nodes.update_node(state, chain.keys[1].address, weight=0)
    for sender in (chain.keys[1].address, chain.user.address):
        with pytest.raises(InvalidTransaction, match="no-vote"):
            proposals.apply_vote(state, sender, p.VoteProposal(number, p.YES))
    assert proposals.get_votes(state, number) == {chain.keys[0].address: p.NO}


@pytest.mark.parametrize(
    "message",
    [
        submit(TEXT, title=""),
        submit(TEXT, title=" padded"),
        submit(TEXT, title="two\nlines"),
        submit(TEXT, title="x" * 101),
        submit(TEXT, text="\x1b[31m"),
        submit(TEXT, text="x" * 2_001),
        submit(p.ChangeParameter("transfer_fee", -1)),
        submit(p.ChangeParameter("transfer_fee", 10**18 + 1)),
        submit(p.PayGrant(PAYEE, 0)),
        submit(p.PayGrant(b"short", 1)),
        submit(p.ApproveMethod(b"c" * 31, "x")),
        submit(p.ApproveMethod(b"c" * 32, "two words")),
        submit(make_experiment(0)),
        submit(make_experiment(1, budget=0)),
        submit(p.FundExperiment(1, b"d" * 32, b"", 1)),
        submit(p.FundExperiment(1, b"d" * 32, b"x" * 4_097, 1)),
        submit(p.SetUpgrade("V2", 100)),
        submit(p.SetUpgrade("v2", 0)),
        p.VoteProposal(0, p.YES),
        p.VoteProposal(1, "maybe"),
        p.VoteProposal(1, "yes\n"),
    ],
)
def test_invalid_fields_are_refused_at_decode(message):
    with pytest.raises(InvalidTransaction, match="malformed"):
        decode(type(message), encode(message), limit_bytes=20_000)


def test_proposals_at_once_are_limited_per_account_and_overall():
    chain = GovernedChain()
    for key in (chain.user, chain.user, chain.other):
        chain.propose(TEXT, key)
    assert chain.refuse(chain.user, submit(TEXT)) == "too-many-yours"
    chain.propose(TEXT, chain.other)
    third = chain.keys[0]
    chain.send(chain.user, m.Transfer(third.address, 10**10))
    assert chain.refuse(third, submit(TEXT)) == "too-many-open"
    chain.finish(1)
    chain.propose(TEXT, third)


def test_invalid_deposit_beyond_the_balance_changes_nothing():
    chain = GovernedChain(deposit=10**13)
    assert chain.refuse(chain.other, submit(TEXT)) == "over-balance"
    assert proposals.list_proposals(chain.state) == [] and proposals.LAST.get(chain.state) is None


def test_ended_proposals_are_forgotten_and_numbers_are_never_used_again():
    chain = GovernedChain()
    number, _ = chain.decide(TEXT)
    chain.end_epoch()
    chain.end_epoch()
    assert chain.get(number).status == "executed"
    later = chain.propose(TEXT)
    chain.end_epoch()
    assert chain.get(number) is None and later == number + 1
    assert chain.refuse(chain.keys[0], p.VoteProposal(number, p.YES)) == "unknown-proposal"
    for _ in range(3):
        chain.end_epoch()
    assert proposals.list_proposals(chain.state) == []


def test_several_votes_end_in_one_block_in_the_order_of_their_numbers():
    chain = GovernedChain()
    first, second = submit(p.PayGrant(PAYEE, FUND)), submit(p.PayGrant(b"q" * 20, FUND))
    chain.send(chain.user, first)
    chain.send(chain.user, second)
    chain.block()
    chain.vote(1)
    chain.vote(2)
    chain.finish(2)
    assert statuses(chain) == {1: "executed", 2: "failed"}
    assert chain.get(2).reason == "over-fund"
    assert chain.balance(PAYEE) == FUND and chain.balance(TRAINING_FUND) == 0


# Models


def test_a_model_enters_the_registry_with_the_next_epoch():
    chain = GovernedChain()
    number, proposal = chain.decide(p.EnterModel(ENTRY))
    assert proposal.status == proposals.WAITING
    assert model_registry.get_entry(chain.state, ENTRY.name) is None
    chain.end_epoch()
    assert model_registry.get_entry(chain.state, ENTRY.name) == ENTRY
    assert chain.get(number).status == "executed"
    chain.decide(p.EnterModel(msgspec.structs.replace(ENTRY, micro_units=5)))
    chain.end_epoch()
    assert model_registry.get_micro_units(chain.state, ENTRY.name) == 5


def test_invalid_model_and_a_full_registry(monkeypatch):
    chain = GovernedChain()
    twice = msgspec.structs.replace(ENTRY, memory=(p.Memory("bf16", 1), p.Memory("bf16", 2)))
    assert chain.refuse(chain.user, submit(p.EnterModel(twice))) == "bad-entry"
    number, _ = chain.decide(p.EnterModel(ENTRY))
    monkeypatch.setattr(model_registry, "MOST_ENTRIES", 0)
    chain.end_epoch()
    assert (chain.get(number).status, chain.get(number).reason) == ("failed", "registry-full")


# The training fund


def test_a_grant_is_paid_in_the_block_that_ends_the_vote():
    chain = GovernedChain()
    _, proposal = chain.decide(p.PayGrant(PAYEE, FUND // 2))
    assert proposal.status == "executed"
    assert chain.balance(PAYEE) == FUND // 2 and chain.balance(TRAINING_FUND) == FUND // 2


def test_invalid_grant_above_the_fund_or_to_a_pool():
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(p.PayGrant(PAYEE, FUND + 1))) == "over-fund"
    for pool in POOLS.values():
        assert chain.refuse(chain.user, submit(p.PayGrant(pool, 1))) == "pool-address"


def test_a_rejected_grant_moves_nothing():
    chain = GovernedChain()
    _, proposal = chain.decide(p.PayGrant(PAYEE, FUND), p.NO)
    assert proposal.status == "rejected"
    assert chain.balance(PAYEE) == 0 and chain.balance(TRAINING_FUND) == FUND


# Methods and experiments


def test_an_approved_method_and_then_an_experiment_by_the_same_account():
    chain = GovernedChain()
    method, _ = chain.decide(METHOD)
    found = experiments.get_method(chain.state, method)
    assert (found.author, found.code_hash) == (chain.user.address, METHOD.code_hash)
    number, proposal = chain.decide(make_experiment(method))
    assert proposal.status == "executed"
    reserved = experiments.get_experiment(chain.state, number)
    assert (reserved.author, reserved.method, reserved.reserved) == (chain.user.address, method, 10**11)
    assert (reserved.plan, reserved.data_hash) == (b"plan", b"d" * 32)
    assert chain.balance(EXPERIMENTS) == 10**11 and chain.balance(TRAINING_FUND) == FUND - 10**11


def test_invalid_experiments():
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(make_experiment(1))) == "unknown-method"
    rejected, _ = chain.decide(METHOD, p.NO)
    assert chain.refuse(chain.user, submit(make_experiment(rejected))) == "unknown-method"
    method, _ = chain.decide(METHOD)
    assert chain.refuse(chain.other, submit(make_experiment(method))) == "not-your-method"
    assert chain.refuse(chain.user, submit(make_experiment(method, FUND + 1))) == "over-fund"


def test_an_experiment_that_the_fund_can_no_longer_pay_fails_whole():
    chain = GovernedChain()
    method, _ = chain.decide(METHOD)
    until = experiments.get_method(chain.state, method).until
    chain.send(chain.user, submit(p.PayGrant(PAYEE, FUND)))
    chain.send(chain.user, submit(make_experiment(method)))
    chain.block()
    chain.vote(2)
    chain.vote(3)
    chain.finish(3)
    assert (chain.get(3).status, chain.get(3).reason) == ("failed", "over-fund")
    assert experiments.get_experiment(chain.state, 3) is None
    assert experiments.get_method(chain.state, method).until == until
    assert chain.balance(EXPERIMENTS) == 0


def test_a_budget_that_is_not_used_returns_and_its_method_is_forgotten_last():
    chain = GovernedChain()
    method, _ = chain.decide(METHOD)
    assert experiments.get_method(chain.state, method).until == 2
    chain.end_epoch()
    number, _ = chain.decide(make_experiment(method))
    assert (
        experiments.get_method(chain.state, method).until == experiments.get_experiment(chain.state, number).until == 3
    )
    chain.end_epoch()
    chain.end_epoch()
    assert experiments.get_experiment(chain.state, number) is not None
    chain.end_epoch()
    assert experiments.get_experiment(chain.state, number) is None
    assert chain.balance(EXPERIMENTS) == 0 and chain.balance(TRAINING_FUND) == FUND
    assert experiments.get_method(chain.state, method) is None
    assert chain.refuse(chain.user, submit(make_experiment(method))) == "unknown-method"


def test_a_method_that_expires_while_its_experiment_is_voted_on_fails_it():
    chain = GovernedChain(voting_blocks=EPOCH, method_epochs=1)
    method, _ = chain.decide(METHOD)
    chain.end_epoch()
    chain.propose(make_experiment(method))
    chain.vote(2)
    assert (chain.finish(2).status, chain.get(2).reason) == ("failed", "unknown-method")


def test_the_invariants_see_a_pool_that_does_not_add_up():
    chain = GovernedChain()
    chain.propose(TEXT)
    state = chain.state
    move_coins(state, TRAINING_FUND, EXPERIMENTS, 1)
    move_coins(state, TRAINING_FUND, PROPOSAL_DEPOSITS, 1)
    found = find_violations(state, chain.params)
    assert [line.split(":")[0] for line in found] == ["proposal deposits", "experiments"]


# Upgrades


def test_an_upgrade_by_vote_sets_the_plan_and_ends_the_ballots_for_others():
    chain = GovernedChain()
    height = chain.height + 100
    chain.send(chain.keys[0], m.PlanUpgrade("other", height))
    _, proposal = chain.decide(p.SetUpgrade("v2", height))
    assert proposal.status == "executed"
    assert upgrades.PLAN.get(chain.state) == upgrades.Plan("v2", height)
    assert upgrades.BALLOTS.items(chain.state) == []
    chain.advance(height)
    assert upgrades.get_done_height(chain.state, "v2") == height


def test_an_upgrade_needs_more_than_two_thirds_of_all_weight():
    chain = GovernedChain()
    number = chain.propose(p.SetUpgrade("v2", chain.height + 100))
    chain.vote(number, p.YES, voters=(0, 1, 2))
    assert chain.finish(number).status == "rejected"
    assert upgrades.PLAN.get(chain.state) is None
    assert actions.get_needed_thirds(TEXT) == 1


def test_invalid_upgrades():
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(p.SetUpgrade("fill-fund", chain.height + 200))) == "already-done"
    # The last height of voting, plus one window of duties.
    first = chain.height + 1 + VOTING + GOVERNED.duty_window_blocks
    assert chain.refuse(chain.user, submit(p.SetUpgrade("v2", first - 1))) == "too-early"
    assert chain.decide(p.SetUpgrade("v2", first))[1].status == "executed"


def test_an_upgrade_behind_a_standing_plan_fails():
    chain = GovernedChain()
    height = chain.height + 100
    number = chain.propose(p.SetUpgrade("v2", height))
    for key in chain.keys:
        chain.send(key, m.PlanUpgrade("v3", height))
    chain.vote(number)
    assert (chain.finish(number).status, chain.get(number).reason) == ("failed", "plan-stands")
    assert upgrades.PLAN.get(chain.state) == upgrades.Plan("v3", height)
    # The deposit of what passed and failed returns.
    assert chain.balance(PROPOSAL_DEPOSITS) == 0
