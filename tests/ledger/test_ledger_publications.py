"""The last instalment of a paid run: withheld from every update, paid once drawn nodes have what was published, else returned."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import get_wealth
from funded_chain import ANSWER, AUDIT, KEPT_BACK, LAST, ROUND, UPDATE, FundedChain
from governed_chain import FUND

from paceline.ledger import nodes, publications, run_money, run_pay, training
from paceline.ledger.accounts import HELD_PAY, RUN_ESCROW, TRAINING_FUND, get_account
from paceline.ledger.invariants import find_violations
from paceline.protocol import funding as f
from paceline.protocol import messages as m

WITHHELD = 6 * KEPT_BACK


@pytest.fixture(scope="module")
def ended():
    """A run of two rounds whose last instalment waits."""
    chain = FundedChain(params=LAST)
    run_id = chain.start()
    chain.end_run(run_id)
    return chain, run_id


class Desk:
    """A working state of an ended run: messages run on it one by one, blocks end when a test says so."""

    def __init__(self, ended):
        self.chain, self.run_id = ended
        self.state = self.chain.state

    def do(self, key, message):
        result = self.chain.application.deliver(self.state, self.chain.sign(key, message))
        assert find_violations(self.state, LAST) == []
        return result.code

    def end_block(self, height=None):
        self.state.height = height or self.state.height + 1
        publications.end_block(self.state, LAST)
        assert find_violations(self.state, LAST) == []

    def put(self, key, **changes):
        """A publication in a later phase, without the wait for chance."""
        assert self.do(key, self.chain.publication(self.run_id)) == "ok"
        found = publications.PUBLICATIONS.get(self.state, self.run_id + key.address)
        slots = tuple(sorted((self.chain.keys[index].address, 10 + index) for index in (3, 4)))
        fields = {"status": publications.FETCHING, "seed": bytes(32), "slots": slots, "deadline": self.state.height + 1}
        changed = msgspec.structs.replace(found, **(fields | changes))
        publications.PUBLICATIONS.put(self.state, self.run_id + key.address, changed)

    def verdict(self, publisher, outcome=m.ACCEPTED, answer=ANSWER):
        return f.JudgePublication(self.run_id, publisher.address, outcome, answer, bytes(32))

    def judge(self, publisher, told):
        """Everybody in `told` (by index) commits and shows."""
        for index, verdict in told.items():
            key = self.chain.keys[index]
            commitment = f.CommitPublication(self.run_id, publisher.address, verdict.compute_commitment(key.address))
            assert self.do(key, commitment) == "ok"
        self.end_block()
        for index, verdict in told.items():
            assert self.do(self.chain.keys[index], verdict) == "ok"
        self.end_block(self.state.height + LAST.funding.reveal_blocks)

    def run(self):
        return training.RUNS.get(self.state, self.run_id)

    def node(self, index):
        return nodes.NODES.get(self.state, self.chain.keys[index].address)


@pytest.fixture
def desk(ended):
    return Desk(ended)


def test_a_share_of_every_update_is_withheld_and_audits_are_paid_in_full(ended):
    chain, run_id = ended
    run = chain.run_of(run_id)
    assert (run.phase, run.budget, run.funding.withheld) == (training.PUBLISHING, 0, WITHHELD)
    assert chain.balance(HELD_PAY) == 6 * (UPDATE - KEPT_BACK) + 12 * AUDIT
    assert chain.pools() == (FUND - 2 * ROUND, 0, WITHHELD)
    assert not any(run.phase == training.ENDED for _, run in training.RUNS.items(chain.state))


def test_what_was_published_and_fetched_pays_the_last_instalment_at_the_settlement():
    chain = FundedChain(params=LAST)
    run_id = chain.start(rounds=1)
    chain.end_run(run_id)
    before = get_wealth(chain.state, chain.keys[0].address)
    chain.check(run_id, chain.publish(run_id))
    run = chain.run_of(run_id)
    assert (run.phase, run.funding.withheld) == (training.ENDED, 0)
    assert chain.balance(RUN_ESCROW) == 0
    stands = publications.PUBLISHED.get(chain.state, run_id)
    assert stands.licence_name == "apache-2.0" and stands.blobs[0] == run.state_hash
    # Whoever trained earns by it, so only the others are drawn; 31 slots, by weight.
    assert [address for address, _ in stands.slots] == sorted(key.address for key in chain.keys[3:])
    assert sum(count for _, count in stands.slots) == LAST.funding.publication_slots
    assert chain.refuse(chain.keys[0], chain.publication(run_id)) == "wrong-phase"
    chain.settle()
    left = 10**6 - LAST.fund_ppm
    gained = get_wealth(chain.state, chain.keys[0].address) - before
    assert gained == (UPDATE - KEPT_BACK) * left // 10**6 + KEPT_BACK * left // 10**6
    assert run_money.RELEASED.items(chain.state) == [] and chain.balance(HELD_PAY) == 0


def test_without_a_publication_it_returns_to_the_fund_at_the_deadline(desk):
    fund = get_account(desk.state, TRAINING_FUND).balance
    desk.end_block(desk.run().deadline - 1)
    assert desk.run().phase == training.PUBLISHING
    desk.end_block()
    assert (desk.run().phase, desk.run().funding.withheld) == (training.ENDED, 0)
    assert get_account(desk.state, TRAINING_FUND).balance == fund + WITHHELD
    assert run_money.WITHHELD.items(desk.state) == []


def test_a_publication_under_way_outlasts_the_deadline_and_no_other_begins(desk):
    desk.put(desk.chain.user)
    desk.end_block(desk.run().deadline + 1)
    assert desk.run().phase == training.PUBLISHING
    assert desk.do(desk.chain.keys[0], desk.chain.publication(desk.run_id)) == "too-late"


@pytest.mark.parametrize(
    ("told", "is_over", "fulfilled"),
    [
        ({3: m.ACCEPTED, 4: m.ACCEPTED}, True, (1, 1)),
        ({4: m.ACCEPTED}, True, (0, 1)),
        ({3: m.REJECTED, 4: m.ACCEPTED}, True, (0, 1)),
        ({3: m.ACCEPTED, 4: m.REJECTED}, False, (0, 1)),
        ({3: m.ACCEPTED, 4: m.UNDECIDED}, False, (0, 0)),
        ({3: m.ACCEPTED}, False, (1, 0)),
        ({}, False, (0, 0)),
    ],
)
def test_more_than_half_of_the_slots_decide_and_the_others_missed_a_duty(desk, told, is_over, fulfilled):
    """The node 4 has 14 slots of 27."""
    user = desk.chain.user
    before = [desk.node(index) for index in (3, 4)]
    desk.put(user, slots=tuple(sorted([(desk.chain.keys[3].address, 13), (desk.chain.keys[4].address, 14)])))
    desk.judge(user, {index: desk.verdict(user, outcome) for index, outcome in told.items()})
    assert (desk.run().phase == training.ENDED) == is_over
    assert publications.PUBLICATIONS.items(desk.state) == []
    after = [desk.node(index) for index in (3, 4)]
    assert [now.duties - then.duties for now, then in zip(after, before, strict=True)] == [1, 1]
    assert tuple(now.fulfilled - then.fulfilled for now, then in zip(after, before, strict=True)) == fulfilled


def test_guilty_trainers_and_those_that_left_lose_it_to_the_fund(desk):
    user, state = desk.chain.user, desk.state
    guilty, gone = desk.chain.keys[0].address, desk.chain.keys[1].address
    training.RUNS.put(state, desk.run_id, msgspec.structs.replace(desk.run(), rejected=(guilty,)))
    fund = get_account(state, TRAINING_FUND).balance
    node = nodes.NODES.get(state, gone)
    nodes.NODES.delete(state, gone)
    training.end_publication(state, desk.run_id, desk.run(), is_published=True)
    nodes.NODES.put(state, gone, node)
    assert find_violations(state, LAST) == []
    assert get_account(state, TRAINING_FUND).balance == fund + 4 * KEPT_BACK
    assert desk.do(user, desk.chain.publication(desk.run_id)) == "wrong-phase"
    paid = [pay.total for address, pay in run_pay.collect_pay(state, LAST) if address == desk.chain.keys[2].address]
    assert paid[-1] == 2 * KEPT_BACK


def test_the_first_accepted_publication_ends_the_others_without_a_missed_duty(desk):
    user, other = desk.chain.user, desk.chain.keys[0]
    desk.put(user)
    desk.put(other)
    duties = desk.node(3).duties
    first, second = sorted([user, other], key=lambda key: key.address)
    desk.judge(first, {index: desk.verdict(first) for index in (3, 4)})
    assert desk.run().phase == training.ENDED
    assert publications.PUBLICATIONS.items(desk.state) == []
    assert desk.node(3).duties == duties + 1
    assert second.address not in [key[16:] for key, _ in publications.PUBLISHED.items(desk.state)]


def test_a_drawn_node_that_left_is_not_asked_for_its_duty(desk):
    user = desk.chain.user
    desk.put(user)
    verdict = desk.verdict(user)
    address = desk.chain.keys[4].address
    commitments = ((address, verdict.compute_commitment(address)),)
    found = (publications.Found(address, m.ACCEPTED, ANSWER),)
    key = desk.run_id + user.address
    opened = publications.PUBLICATIONS.get(desk.state, key)
    revealing = msgspec.structs.replace(opened, status=publications.REVEALING, commitments=commitments, found=found)
    publications.PUBLICATIONS.put(desk.state, key, revealing)
    node = nodes.NODES.get(desk.state, desk.chain.keys[3].address)
    nodes.NODES.delete(desk.state, desk.chain.keys[3].address)
    publications.end_block(desk.state, LAST)
    nodes.NODES.put(desk.state, desk.chain.keys[3].address, node)
    assert desk.run().phase == training.ENDED


def test_without_anybody_else_to_fetch_it_a_publication_fails(desk):
    user = desk.chain.user
    training.RUNS.put(
        desk.state, desk.run_id, msgspec.structs.replace(desk.run(), joined=tuple(k.address for k in desk.chain.keys))
    )
    desk.put(user, status=publications.DRAWING, round_index=0, slots=())
    desk.end_block()
    assert publications.PUBLICATIONS.items(desk.state) == []
    assert desk.run().phase == training.PUBLISHING


def test_a_draw_waits_for_its_chance(desk):
    desk.put(desk.chain.user, status=publications.DRAWING, slots=())
    desk.end_block()
    [(_, found)] = publications.PUBLICATIONS.items(desk.state)
    assert found.status == publications.DRAWING


def test_invalid_publications(desk):
    chain, user = desk.chain, desk.chain.user
    publish = chain.publication
    assert desk.do(user, msgspec.structs.replace(publish(desk.run_id), run=bytes(16))) == "unknown-run"
    assert desk.do(chain.other, publish(desk.run_id)) == "not-yours"
    assert desk.do(user, publish(desk.run_id, checkpoint=b"x" * 32)) == "wrong-checkpoint"
    assert desk.do(user, publish(desk.run_id, code=b"x" * 32)) == "wrong-code"
    assert desk.do(user, publish(desk.run_id, licence_name="no-commerce-1.0")) == "closed-licence"
    desk.put(user)
    assert desk.do(user, publish(desk.run_id)) == "already-published"
    assert desk.do(chain.other, f.FundRun(desk.run_id, 1)) == "wrong-phase"


def test_invalid_verdicts(desk):
    user, keys = desk.chain.user, desk.chain.keys
    verdict = desk.verdict(user)
    commit = f.CommitPublication(desk.run_id, user.address, verdict.compute_commitment(keys[3].address))
    assert desk.do(keys[3], commit) == "nothing-to-judge"
    desk.put(user)
    assert desk.do(keys[0], commit) == "not-drawn"
    assert desk.do(keys[3], verdict) == "nothing-to-judge"
    assert desk.do(keys[3], commit) == "ok"
    assert desk.do(keys[3], commit) == "already-committed"
    desk.end_block()
    assert desk.do(keys[4], verdict) == "not-committed"
    assert desk.do(keys[3], desk.verdict(user, answer=b"x" * 32)) == "not-committed"
    assert desk.do(keys[3], verdict) == "ok"
    found = publications.PUBLICATIONS.get(desk.state, desk.run_id + user.address)
    more = msgspec.structs.replace(found, commitments=(*found.commitments, (keys[4].address, bytes(32))))
    publications.PUBLICATIONS.put(desk.state, desk.run_id + user.address, more)
    assert desk.do(keys[3], verdict) == "already-judged"


def test_windows_stay_open_until_everybody_acted_or_their_time_is_over(desk):
    user, keys = desk.chain.user, desk.chain.keys
    desk.put(user, deadline=desk.state.height + 20)
    status = lambda: publications.PUBLICATIONS.get(desk.state, desk.run_id + user.address).status  # noqa: E731
    verdict = desk.verdict(user)
    for index in (3, 4):
        desk.end_block()
        assert status() == publications.FETCHING
        digest = verdict.compute_commitment(keys[index].address)
        assert desk.do(keys[index], f.CommitPublication(desk.run_id, user.address, digest)) == "ok"
    for index in (3, 4):
        desk.end_block()
        assert status() == publications.REVEALING
        assert desk.do(keys[index], verdict) == "ok"
    desk.end_block()
    assert desk.run().phase == training.ENDED
