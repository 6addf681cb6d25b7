"""Runs that the network pays for: what a vote reserved is spent on accepted compute, pauses when it is gone, and returns."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import get_wealth
from funded_chain import AUDIT, DATA, FUNDED, METHOD, PLAN, ROUND, START, UPDATE, FundedChain
from governed_chain import FUND

from paceline.base.errors import InvalidTransaction
from paceline.economy.pay import compute_audited_pay
from paceline.ledger import experiments, nodes, prices, run_pay, training
from paceline.ledger.accounts import HELD_PAY, RUN_ESCROW, TRAINING_FUND, get_account, move_coins
from paceline.ledger.invariants import find_violations
from paceline.ledger.settlement import settle_epoch
from paceline.ledger.vesting import get_vesting
from paceline.protocol import funding as f
from paceline.protocol import messages as m


@pytest.fixture
def chain():
    return FundedChain()


def test_an_experiment_opens_the_run_that_was_voted_on(chain):
    number = chain.reserve()
    assert chain.pools() == (FUND - 10 * ROUND, 10 * ROUND, 0)
    run = chain.run_of(chain.open(number))
    assert (run.owner, run.plan, run.data_hash, run.state_hash) == (chain.user.address, PLAN, DATA, START)
    assert (run.budget, run.pay_per_update, run.funding.audit_pay) == (10 * ROUND, UPDATE, AUDIT)
    assert (run.funding.experiment, run.funding.code_hash) == (number, METHOD.code_hash)
    assert chain.pools() == (FUND - 10 * ROUND, 0, 10 * ROUND)
    assert experiments.get_experiment(chain.state, number) is None


def test_units_cost_what_they_cost_when_the_run_opens(chain):
    number = chain.reserve()
    state = chain.state
    prices.PRICE.put(state, b"", 2 * FUNDED.unit_price)
    assert chain.application.deliver(state, chain.sign(chain.user, chain.order(number))).code == "ok"
    [(_, run)] = training.RUNS.items(state)
    assert (run.pay_per_update, run.funding.audit_pay) == (2 * UPDATE, 2 * AUDIT)


def test_trainers_and_auditors_are_paid_and_the_rest_returns_to_the_fund(chain):
    run_id = chain.start()
    author = chain.balance(chain.user.address)
    before = {key.address: get_wealth(chain.state, key.address) for key in chain.keys}
    for _ in range(2):
        chain.play_round(run_id)
    assert chain.run_of(run_id).phase == training.ENDED
    assert chain.balance(chain.user.address) == author
    assert chain.pools() == (FUND - 2 * ROUND, 0, 0)
    assert chain.balance(HELD_PAY) == 2 * ROUND
    chain.settle()
    fund = FUNDED.fund_ppm
    gained = {address: get_wealth(chain.state, address) - had for address, had in before.items()}
    # Two of five train no more and audit every update: there are no others to draw.
    assert [gained[key.address] for key in chain.keys[:3]] == [2 * UPDATE * (10**6 - fund) // 10**6] * 3
    assert [gained[key.address] for key in chain.keys[3:]] == [6 * AUDIT * (10**6 - fund) // 10**6] * 2
    assert chain.pools() == (FUND - 2 * ROUND * (10**6 - fund) // 10**6, 0, 0)
    assert chain.balance(HELD_PAY) == 0


def test_pay_waits_for_the_settlement_and_its_criteria(chain):
    """A trainer that is found guilty of anything until then forfeits it."""
    run_id = chain.start(rounds=1)
    chain.play_round(run_id)
    state = chain.state
    guilty, honest = chain.keys[0].address, chain.keys[1].address
    nodes.update_node(state, guilty, guilty=0)
    assert get_account(state, HELD_PAY).balance == ROUND
    settle_epoch(state, FUNDED, 0)
    assert get_vesting(state, guilty) == 0
    assert get_vesting(state, honest) == UPDATE * (10**6 - FUNDED.fund_ppm) // 10**6
    assert find_violations(state, FUNDED) == []


def test_silent_and_undecided_auditors_earn_nothing(chain):
    run_id = chain.start()
    silent, undecided = chain.keys[3].address, chain.keys[4].address
    first = chain.keys[0].address

    def says(auditor, trainer):
        if trainer != first:
            return m.ACCEPTED
        return None if auditor == silent else m.UNDECIDED

    chain.play_round(run_id, says=says)
    updates = training.get_updates(chain.state, run_id, 0)
    assert updates[first].audited == () and updates[first].outcome == m.REJECTED
    assert sorted(updates[chain.keys[1].address].audited) == sorted([silent, undecided])
    assert chain.run_of(run_id).budget == 10 * ROUND - ROUND + UPDATE + 2 * AUDIT
    assert first not in dict(run_pay.collect_pay(chain.state, FUNDED))


def dispute(chain, run_id, ruled):
    """The first trainer's update: one auditor rejects, one accepts, and the others say how it was."""
    first, honest = chain.keys[0].address, chain.keys[3].address
    chain.wait(run_id, training.TRAINING)
    chain.commit(run_id)
    chain.audit(run_id, says=lambda a, t: m.REJECTED if (a, t) == (honest, first) else m.ACCEPTED)
    for index in (1, 2):
        chain.send(chain.keys[index], m.JudgeUpdate(run_id, 0, first, m.Verdict(ruled, "", ())))
    chain.tick()
    chain.tick()


@pytest.mark.parametrize(("ruled", "right"), [(m.REJECTED, 3), (m.ACCEPTED, 4)])
def test_an_auditor_whom_the_majority_contradicts_earns_nothing(chain, ruled, right):
    run_id = chain.start()
    dispute(chain, run_id, ruled)
    update = training.get_updates(chain.state, run_id, 0)[chain.keys[0].address]
    assert (update.ruled, update.pay, len(update.audited)) == (ruled, 0, 2)
    pay = dict(run_pay.collect_pay(chain.state, FUNDED))[chain.keys[0].address]
    fund = AUDIT * FUNDED.fund_ppm // 10**6
    assert pay.checkers == ((chain.keys[right].address, AUDIT - fund),)
    assert (pay.fund, pay.total) == (AUDIT + fund, 2 * AUDIT)


def test_an_update_in_dispute_waits_and_so_does_an_auditor_that_left(chain):
    run_id = chain.start()
    first, honest = chain.keys[0].address, chain.keys[3].address
    chain.commit(run_id)
    chain.audit(run_id, says=lambda a, t: m.REJECTED if (a, t) == (honest, first) else m.ACCEPTED)
    state = chain.state
    assert first not in dict(run_pay.collect_pay(state, FUNDED))
    chain.run_until(lambda: not training.DISPUTES.items(chain.state))
    state = chain.state
    nodes.NODES.delete(state, honest)
    paid = dict(run_pay.collect_pay(state, FUNDED))[first]
    assert [auditor for auditor, _ in paid.checkers] == [chain.keys[4].address]
    assert paid.total == 2 * AUDIT


def test_a_budget_that_covers_no_further_round_pauses_the_run_and_more_coins_resume_it(chain):
    run_id = chain.start(budget=ROUND + 7, rounds=3)
    chain.play_round(run_id)
    run = chain.run_of(run_id)
    assert (run.phase, run.round_index, run.budget) == (training.PAUSED, 1, 7)
    chain.send(chain.other, f.FundRun(run_id, ROUND - 8))
    chain.tick()
    assert chain.run_of(run_id).phase == training.PAUSED
    chain.send(chain.user, f.FundRun(run_id, 1))
    chain.tick()
    assert chain.run_of(run_id).phase == training.TRAINING
    chain.play_round(run_id)
    run = chain.run_of(run_id)
    assert (run.phase, run.budget, run.losses) == (training.PAUSED, 0, (1_000, 1_000))


def test_a_pause_without_coins_ends_with_the_state_that_was_reached(chain):
    run_id = chain.start(budget=2 * ROUND - 1, rounds=3)
    chain.play_round(run_id)
    assert chain.run_of(run_id).phase == training.PAUSED
    supply = sum(chain.pools())
    chain.wait(run_id, training.ENDED)
    run = chain.run_of(run_id)
    assert run.losses == (1_000,) and run.state_hash != START
    assert chain.pools() == (FUND - ROUND, 0, 0) and sum(chain.pools()) == supply
    assert chain.refuse(chain.other, f.FundRun(run_id, 1)) == "wrong-phase"


def test_a_run_that_nobody_joins_returns_its_budget(chain):
    run_id = chain.open(chain.reserve())
    chain.wait(run_id, training.ENDED)
    assert chain.pools() == (FUND, 0, 0)


def test_a_pause_ends_at_once_when_a_late_verdict_takes_the_last_trainer(chain):
    run_id = chain.start(budget=ROUND, rounds=2)
    chain.play_round(run_id)
    state = chain.state
    run = training.RUNS.get(state, run_id)
    training.RUNS.put(state, run_id, msgspec.structs.replace(run, trainers=()))
    training.end_block(state, FUNDED, 0)
    assert training.RUNS.get(state, run_id).phase == training.ENDED
    assert find_violations(state, FUNDED) == []


def test_invalid_openings(chain):
    assert chain.refuse(chain.user, chain.order(1)) == "unknown-experiment"
    number = chain.reserve(budget=ROUND - 1)
    assert chain.refuse(chain.other, chain.order(number)) == "not-your-experiment"
    assert chain.refuse(chain.user, chain.order(number)) == "small-budget"
    assert chain.pools() == (FUND - ROUND + 1, ROUND - 1, 0)
    chain.open(number, trainers=2)


def test_invalid_additions(chain):
    assert chain.refuse(chain.other, f.FundRun(bytes(16), 1)) == "unknown-run"
    own = m.OpenRun(PLAN, DATA, START, 1, 1, 4, 100)
    run_id = training.compute_run_id(chain.user.address, chain.send(chain.user, own))
    chain.block()
    assert chain.refuse(chain.other, f.FundRun(run_id, 1)) == "not-fundable"
    assert chain.refuse(chain.other, f.FundRun(run_id, 0)) == "zero-amount"
    funded = chain.open(chain.reserve())
    assert chain.refuse(chain.other, f.FundRun(funded, 10**18)) == "over-balance"


def test_invalid_messages_of_a_round(chain):
    run_id = chain.open(chain.reserve(), trainers=2)
    assert chain.refuse(chain.user, m.JoinRun(run_id)) == "not-a-node"
    state = chain.state
    with pytest.raises(InvalidTransaction, match="only nodes that stay"):
        training.apply_join(state, chain.user.address, m.JoinRun(run_id))
    joins = [
        chain.application.deliver(state, chain.sign(chain.keys[index], m.JoinRun(run_id))).code for index in range(3)
    ]
    assert joins == ["ok", "ok", "no-seat"]
    verdict = m.JudgeUpdate(run_id, 0, chain.keys[0].address, m.Verdict(m.ACCEPTED, "", ()))
    assert chain.refuse(chain.keys[3], verdict) == "nothing-to-judge"
    training.RUNS.put(state, run_id, msgspec.structs.replace(chain.run_of(run_id), phase=training.REPORTING))
    report = m.ReportState(run_id, 0, START, 1)
    with pytest.raises(InvalidTransaction, match="only nodes with weight"):
        training.apply_report(state, chain.user.address, report)
    training.apply_report(state, chain.keys[0].address, report)
    with pytest.raises(InvalidTransaction, match="one report"):
        training.apply_report(state, chain.keys[0].address, report)
    assert training.get_round_start(state, run_id, 0) is None


def test_the_invariants_see_an_escrow_that_does_not_add_up(chain):
    chain.open(chain.reserve())
    state = chain.state
    move_coins(state, TRAINING_FUND, RUN_ESCROW, 1)
    assert [line.split(":")[0] for line in find_violations(state, FUNDED)] == ["run escrow"]


def test_shares_of_audited_pay_add_up():
    pay = compute_audited_pay(101, [b"b", b"a"], 33, 200_000)
    assert pay.total == 101 + 2 * 33
    assert pay.checkers == ((b"a", 27), (b"b", 27)) and (pay.worker, pay.fund) == (81, 20 + 12)
    assert compute_audited_pay(0, [], 5, 200_000).total == 0
