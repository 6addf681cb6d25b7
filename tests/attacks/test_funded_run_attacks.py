"""Attacks on runs that the network pays for: an author who wants the coins, checkers who never fetched, trainers who judge themselves.

Power: exact, but for one: a third of all weight, lying together, decides alone about a publication in less than 3 of 100 draws of 31
slots. Publishing may be tried again by every trainer, so it is mostly a lost instalment of a run that nobody published that is at stake.
"""

from __future__ import annotations

from math import comb

import msgspec
import pytest
from chain_harness import get_wealth
from funded_chain import ANSWER, DATA, LAST, METHOD, PLAN, ROUND, START, UPDATE, FundedChain
from governed_chain import FUND, submit

from paceline.ledger import publications, run_money, training
from paceline.ledger.accounts import RUN_ESCROW, TRAINING_FUND, get_account, move_coins
from paceline.ledger.invariants import find_violations
from paceline.protocol import funding as f
from paceline.protocol import messages as m
from paceline.protocol import proposals as p


@pytest.fixture(scope="module")
def ended():
    chain = FundedChain(params=LAST)
    run_id = chain.start(rounds=1)
    chain.end_run(run_id)
    return chain, run_id


def deliver(chain, state, key, message):
    code = chain.application.deliver(state, chain.sign(key, message)).code
    assert find_violations(state, LAST) == []
    return code


def test_an_author_keeps_nothing_of_the_unspent_budget():
    """Neither by a run that nobody joins, nor by one that ends, nor by adding coins to it."""
    chain = FundedChain(params=LAST)
    empty = chain.open(chain.reserve())
    author = chain.balance(chain.user.address)
    chain.wait(empty, training.ENDED)
    assert chain.balance(chain.user.address) == author and chain.pools() == (FUND, 0, 0)
    run_id = chain.start(rounds=1)
    author = chain.balance(chain.user.address)
    chain.send(chain.user, f.FundRun(run_id, 5 * ROUND))
    chain.play_round(run_id)
    chain.wait(run_id, training.PUBLISHING)
    chain.wait(run_id, training.ENDED)
    assert chain.balance(chain.user.address) == author - 5 * ROUND - LAST.transfer_fee
    assert chain.balance(TRAINING_FUND) > FUND


def test_if_the_rest_returned_to_the_opener_an_author_would_empty_the_fund(monkeypatch):
    """The defence off: as with a run that its owner pays for."""
    chain = FundedChain(params=LAST)
    author = chain.balance(chain.user.address)
    monkeypatch.setattr(
        run_money, "return_rest", lambda state, budget: move_coins(state, RUN_ESCROW, chain.user.address, budget)
    )
    empty = chain.open(chain.reserve())
    chain.wait(empty, training.ENDED)
    assert chain.balance(chain.user.address) > author
    assert chain.balance(TRAINING_FUND) < FUND


def test_an_experiment_opens_once():
    chain = FundedChain(params=LAST)
    number = chain.reserve()
    chain.open(number)
    assert chain.refuse(chain.user, chain.order(number)) == "unknown-experiment"
    assert len(training.RUNS.items(chain.state)) == 1


def test_two_openings_in_one_block_open_once():
    chain = FundedChain(params=LAST)
    number = chain.reserve()
    state = chain.state
    codes = [deliver(chain, state, chain.user, chain.order(number, rounds=rounds)) for rounds in (1, 2)]
    assert codes == ["ok", "unknown-experiment"]


def test_an_opener_names_neither_plan_nor_data_nor_pay():
    """Whatever shape it gives the run: what is trained and what an update earns was voted on."""
    assert set(f.OpenExperiment.__struct_fields__) == {"experiment", "state_hash", "rounds", "trainers", "segments"}
    chain = FundedChain(params=LAST)
    number = chain.reserve()
    for shape in ({"rounds": 1, "trainers": 1, "segments": 1}, {"rounds": 10_000, "segments": 1_000}):
        state = chain.state
        assert deliver(chain, state, chain.user, chain.order(number, **shape)) == "ok"
        [(_, run)] = training.RUNS.items(state)
        assert (run.plan, run.data_hash, run.pay_per_update) == (PLAN, DATA, UPDATE)
        assert run.funding.audit_pay <= UPDATE


def test_another_account_opens_nobodys_experiment_and_cites_nobodys_method():
    chain = FundedChain(params=LAST)
    number = chain.reserve()
    assert chain.refuse(chain.other, chain.order(number)) == "not-your-experiment"
    assert chain.refuse(chain.other, submit(p.FundExperiment(1, DATA, PLAN, 1))) == "not-your-method"


def test_trainers_that_collude_with_the_author_get_no_more_than_the_price_of_what_was_accepted():
    """One seat, one round: the rest of the budget is the fund's, not the lone trainer's."""
    chain = FundedChain(params=LAST)
    run_id = chain.open(chain.reserve(), rounds=1, trainers=1)
    chain.join(run_id, trainers=(0,))
    before = get_wealth(chain.state, chain.keys[0].address)
    chain.commit(run_id, trainers=(0,))
    chain.audit(run_id)
    chain.report(run_id)
    chain.settle()
    assert 0 < get_wealth(chain.state, chain.keys[0].address) - before <= UPDATE
    assert chain.balance(TRAINING_FUND) >= FUND - UPDATE - LAST.auditors * UPDATE


# What is published


def open_publication(chain, state, run_id, publisher, **changes):
    """A publication that every node may judge, with equal slots for all that did not train."""
    assert deliver(chain, state, publisher, chain.publication(run_id, **changes)) == "ok"
    key = run_id + publisher.address
    found = publications.PUBLICATIONS.get(state, key)
    slots = tuple(sorted((chain.keys[index].address, 1) for index in range(5)))
    changed = msgspec.structs.replace(found, status=publications.FETCHING, slots=slots, deadline=state.height + 1)
    publications.PUBLICATIONS.put(state, key, changed)


def judge(chain, state, run_id, publisher, answers):
    """Nodes by index commit to their answers and show them; None rejects."""
    verdicts = {
        chain.keys[index]: f.JudgePublication(
            run_id, publisher.address, m.REJECTED if answer is None else m.ACCEPTED, answer or bytes(32), bytes(32)
        )
        for index, answer in answers.items()
    }
    for key, verdict in verdicts.items():
        digest = verdict.compute_commitment(key.address)
        assert deliver(chain, state, key, f.CommitPublication(run_id, publisher.address, digest)) == "ok"
    for move in (1, LAST.funding.reveal_blocks):
        state.height += move
        publications.end_block(state, LAST)
        if move == 1:
            assert all(deliver(chain, state, key, verdict) == "ok" for key, verdict in verdicts.items())
    return training.RUNS.get(state, run_id).phase == training.ENDED


GUESSES = {index: bytes([index]) * 32 for index in range(3)}


def test_checkers_who_never_fetched_anything_release_nothing(ended):
    """Three of five say that they hashed it, each with a guess of its own; the two that have it are no majority, and lose nothing."""
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.user)
    assert not judge(chain, state, run_id, chain.user, {**GUESSES, 3: ANSWER, 4: ANSWER})
    assert training.RUNS.get(state, run_id).funding.withheld


def test_a_lazy_checker_beside_an_honest_majority_missed_its_duty(ended):
    chain, run_id = ended
    state = chain.state
    before = [node.fulfilled for _, node in training.nodes.NODES.items(state)]
    open_publication(chain, state, run_id, chain.user)
    assert judge(chain, state, run_id, chain.user, {0: b"x" * 32, 1: ANSWER, 2: ANSWER, 3: ANSWER, 4: ANSWER})
    lazy = training.nodes.NODES.get(state, chain.keys[0].address)
    assert lazy.duties > lazy.fulfilled
    assert sum(node.fulfilled for _, node in training.nodes.NODES.items(state)) == sum(before) + 4


def test_if_the_word_alone_counted_they_would_release_it(ended, monkeypatch):
    monkeypatch.setattr(publications, "_group", lambda found: (found.outcome, b""))
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.user)
    assert judge(chain, state, run_id, chain.user, GUESSES)


def test_a_copied_commitment_is_of_no_use_to_whoever_copied_it(ended):
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.user)
    honest = f.JudgePublication(run_id, chain.user.address, m.ACCEPTED, ANSWER, b"s" * 32)
    digest = honest.compute_commitment(chain.keys[3].address)
    for index in (3, 0):
        message = f.CommitPublication(run_id, chain.user.address, digest)
        assert deliver(chain, state, chain.keys[index], message) == "ok"
    state.height += 1
    publications.end_block(state, LAST)
    assert deliver(chain, state, chain.keys[3], honest) == "ok"
    assert deliver(chain, state, chain.keys[0], honest) == "not-committed"


def test_who_saw_the_answer_when_it_was_shown_comes_too_late(ended):
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.user)
    state.height += 1
    publications.end_block(state, LAST)
    verdict = f.JudgePublication(run_id, chain.user.address, m.ACCEPTED, ANSWER, bytes(32))
    late = f.CommitPublication(run_id, chain.user.address, verdict.compute_commitment(chain.keys[0].address))
    assert deliver(chain, state, chain.keys[0], late) == "nothing-to-judge"
    assert deliver(chain, state, chain.keys[0], verdict) == "not-committed"


def test_nobody_who_earns_by_it_is_drawn():
    """Two trainers that hold nearly all weight do not judge their own publication."""
    chain = FundedChain(params=LAST, weights=[100_000, 100_000, 100_000, 10, 10])
    run_id = chain.start(rounds=1)
    chain.end_run(run_id)
    publisher = chain.publish(run_id)
    drawn = {address for address, _ in chain.published(run_id, publisher).slots}
    assert drawn <= {key.address for key in chain.keys[3:]}


def test_nothing_but_the_agreed_state_the_voted_code_and_an_open_licence_is_published(ended):
    chain, run_id = ended
    wrong = {"checkpoint": START, "code": b"x" * 32, "licence_name": "proprietary-1.0"}
    codes = [chain.refuse(chain.user, chain.publication(run_id, **{name: value})) for name, value in wrong.items()]
    assert codes == ["wrong-checkpoint", "wrong-code", "closed-licence"]
    assert chain.publication(run_id).code == METHOD.code_hash


def test_a_trainer_who_publishes_junk_stands_in_nobodys_way(ended):
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.keys[0], log=b"junk" * 8)
    open_publication(chain, state, run_id, chain.user)
    assert judge(chain, state, run_id, chain.user, dict.fromkeys(range(1, 5), ANSWER))
    assert publications.PUBLISHED.get(state, run_id).blobs[3] != b"junk" * 8


def test_an_author_who_does_not_publish_cannot_keep_trainers_from_their_instalment(ended):
    chain, run_id = ended
    state = chain.state
    open_publication(chain, state, run_id, chain.keys[0])
    assert judge(chain, state, run_id, chain.keys[0], dict.fromkeys(range(1, 5), ANSWER))
    assert get_account(state, chain.user.address).balance <= chain.balance(chain.user.address)


def test_a_third_of_all_weight_decides_alone_in_less_than_three_of_a_hundred_draws():
    slots = 31
    assert LAST.funding.publication_slots == slots
    power = sum(comb(slots, k) * 2 ** (slots - k) for k in range(slots // 2 + 1, slots + 1)) / 3**slots
    assert power < 0.03
