"""Accused reports: who may accuse and judge, when, what a verdict does, and that no bond is left behind."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.range_tree import RangeTree
from paceline.ledger import bonds, race, race_reviews
from paceline.ledger.accounts import RACE_BONDS, get_account
from paceline.protocol import messages as m

BOND = PARAMS.race.bond
COUNTS = [100, 90, 80, 70, 60]


def make_chain(weights=None, **changes):
    """All claims reported on by everybody drawn, and no block since."""
    changed = {"verdict_blocks": 8, "review_blocks": 3, **changes}
    chain = Chain(
        params=msgspec.structs.replace(PARAMS, race=msgspec.structs.replace(PARAMS.race, **changed)), weights=weights
    )
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    trees = {index: RangeTree(range(0, 7 * count, 7)) for index, count in enumerate(COUNTS)}
    chain.claim_all(trees)
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    for index, tree in trees.items():
        chain.send(chain.keys[index], chain.open_race(index, tree))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    return chain


def reach_verdicts(weights=None, **changes):
    chain = make_chain(weights, **changes)
    chain.act_on_claims()
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    return chain


def refuse(chain, index, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(chain.keys[index], message)
    return refused.value.code


def address(chain, index):
    return chain.keys[index].address


def pick(chain, prover=0):
    """Index of the first checker with a report on a claim, and indices of all others but the prover."""
    checkers = [
        checker for owner, checker, _ in race_reviews.get_reports(chain.state) if owner == address(chain, prover)
    ]
    checker = next(index for index in range(5) if address(chain, index) == checkers[0])
    return checker, [index for index in range(5) if index not in {checker, prover}]


def accuse(chain, prover, checker):
    return m.AccuseReport(0, address(chain, prover), address(chain, checker))


def judge(chain, prover, checker, outcome):
    return m.JudgeReport(0, address(chain, prover), address(chain, checker), m.Verdict(outcome, "test", ()))


def test_a_report_is_kept_with_its_digest_until_the_race_ends():
    chain = reach_verdicts()
    reports = race_reviews.get_reports(chain.state)
    assert len(reports) == sum(len(record.reports) for _, record in race.CLAIMS_TABLE.items(chain.state))
    assert all(len(digest) == 32 for _, _, digest in reports)
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert race_reviews.get_reports(chain.state) == []


def test_a_majority_against_a_report_voids_it_and_its_checker_is_guilty():
    chain = reach_verdicts()
    checker, others = pick(chain)
    before = chain.node(checker).fulfilled
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.tick()
    for index in others[:2]:
        chain.send(chain.keys[index], judge(chain, 0, checker, m.REJECTED))
        chain.tick()
        assert chain.node(checker).guilty == -1
    chain.send(chain.keys[0], judge(chain, 0, checker, m.REJECTED))
    chain.tick()
    found = chain.node(checker)
    assert (found.guilty, found.reputation, found.fulfilled) == (0, 0, before - 1)
    assert address(chain, checker) not in race.CLAIMS_TABLE.get(chain.state, address(chain, 0)).reports
    assert bonds.BOUNTIES.get(chain.state, address(chain, checker)) == address(chain, 0)
    assert get_account(chain.state, RACE_BONDS).balance == 0
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert [chain.node(index).weight for index in range(5)] == COUNTS


def test_a_majority_for_a_report_takes_the_bond():
    chain = reach_verdicts()
    checker, others = pick(chain)
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.tick()
    for index in others:
        chain.send(chain.keys[index], judge(chain, 0, checker, m.ACCEPTED))
    chain.tick()
    assert race_reviews.get_report_accusations(chain.state) == []
    assert bonds.DEBTS.get(chain.state, address(chain, 0)) == BOND
    assert chain.node(checker).guilty == -1
    assert refuse(chain, 0, judge(chain, 0, checker, m.REJECTED)) == "nothing-to-judge"


def test_without_a_majority_the_report_stands_and_the_bond_goes_back():
    chain = reach_verdicts()
    checker, others = pick(chain)
    chain.send(chain.user, m.Transfer(address(chain, 0), 2 * BOND))
    chain.tick()
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.send(chain.keys[others[0]], judge(chain, 0, checker, m.REJECTED))
    chain.tick()
    assert get_account(chain.state, RACE_BONDS).balance == BOND
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert get_account(chain.state, RACE_BONDS).balance == 0
    assert get_account(chain.state, address(chain, 0)).balance == 2 * BOND
    assert chain.node(checker).guilty == -1
    assert [chain.node(index).weight for index in range(5)] == COUNTS


def test_a_claim_that_lost_too_many_reports_is_drawn_again():
    chain = reach_verdicts(report_slots=16)
    checker, others = pick(chain)
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.tick()
    for index in (0, *others[:2]):
        chain.send(chain.keys[index], judge(chain, 0, checker, m.REJECTED))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    assert race.get_race(chain.state).draws == 2
    assert race_reviews.get_reports(chain.state) == []


def test_verdicts_wait_for_the_review_and_not_longer():
    chain = make_chain()
    chain.act_on_claims()
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    entered = race.get_race(chain.state).deadline - chain.params.race.verdict_blocks
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert chain.height == entered + chain.params.race.review_blocks


def test_boundary_of_the_review_window():
    chain = reach_verdicts()
    checker, _ = pick(chain)
    closes = race.get_race(chain.state).deadline - chain.params.race.verdict_blocks + chain.params.race.review_blocks
    # An open accusation keeps the phase, so that the window alone refuses the next one.
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.run_until(lambda: chain.height == closes - 1)
    assert not race_reviews.is_review_over(chain.state, chain.params, race.get_race(chain.state))
    chain.tick()
    later, _ = pick(chain, prover=1)
    assert chain.phase() == race.VERDICTS
    assert refuse(chain, 1, accuse(chain, 1, later)) == "wrong-phase"


def test_reports_may_be_accused_while_others_are_still_checking():
    chain = make_chain()
    chain.act_on_claims(silent=(2,))
    chain.tick()
    assert chain.phase() == race.CHECKS
    checker, others = pick(chain)
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.tick()
    assert len(race_reviews.get_report_accusations(chain.state)) == 1
    assert refuse(chain, others[0], judge(chain, 0, checker, m.REJECTED)) == "wrong-phase"


def test_invalid_accusations_of_reports():
    chain = make_chain()
    assert refuse(chain, 1, m.AccuseReport(1, address(chain, 0), address(chain, 2))) == "wrong-race"
    assert refuse(chain, 1, accuse(chain, 0, 2)) == "nothing-to-accuse"
    chain.act_on_claims()
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    checker, others = pick(chain)
    assert refuse(chain, checker, accuse(chain, 0, checker)) == "no-vote"
    assert refuse(chain, others[0], accuse(chain, 0, 0)) == "nothing-to-accuse"
    chain.send(chain.keys[others[0]], accuse(chain, 0, checker))
    chain.tick()
    assert refuse(chain, 0, accuse(chain, 0, checker)) == "already-accused"
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert refuse(chain, 0, accuse(chain, 0, checker)) == "wrong-phase"


def test_invalid_word_of_a_node_without_weight_but_on_its_own_claim():
    chain = reach_verdicts(weights=[1_000] * 4 + [0])
    (foreign, _), (own, others) = pick(chain, prover=0), pick(chain, prover=4)
    assert refuse(chain, 4, accuse(chain, 0, foreign)) == "no-vote"
    chain.send(chain.keys[4], accuse(chain, 4, own))
    chain.tick()
    assert refuse(chain, 4, judge(chain, 4, own, m.REJECTED)) == "no-vote"
    for index in others:
        chain.send(chain.keys[index], judge(chain, 4, own, m.REJECTED))
    chain.tick()
    assert chain.node(own).guilty == 0


def test_invalid_verdicts_on_reports():
    chain = reach_verdicts()
    checker, others = pick(chain)
    assert refuse(chain, 0, judge(chain, 0, checker, m.REJECTED)) == "nothing-to-judge"
    chain.send(chain.keys[0], accuse(chain, 0, checker))
    chain.tick()
    assert refuse(chain, checker, judge(chain, 0, checker, m.ACCEPTED)) == "no-vote"
    wrong = msgspec.structs.replace(judge(chain, 0, checker, m.REJECTED), race=3)
    assert refuse(chain, 0, wrong) == "wrong-race"
    chain.send(chain.keys[others[0]], judge(chain, 0, checker, m.REJECTED))
    chain.tick()
    assert refuse(chain, others[0], judge(chain, 0, checker, m.ACCEPTED)) == "already-judged"
