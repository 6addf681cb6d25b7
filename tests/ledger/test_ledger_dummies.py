"""Dummies on the ledger: promised, drawn, shown, paid back, and settled as work without pay."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from dummy_chain import DummySession

from paceline.base.bls import EncryptionKey
from paceline.base.errors import InvalidTransaction
from paceline.base.private_draws import Lot, compute_point, draw_lot, verify_lot
from paceline.ledger import clock, dummies, nodes, task_pay
from paceline.ledger.accounts import TRAINING_FUND, get_account
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.settlement import settle_epoch
from paceline.ledger.tasks import DISPUTED, FINAL, TASKS
from paceline.protocol import messages as m
from paceline.protocol.dummies import Payout, RevealDummies
from paceline.protocol.params import DummyParams

TASKS_MADE = 8
OFTEN = msgspec.structs.replace(
    PARAMS, epoch_blocks=400, dummies=DummyParams(rate_ppm=400_000, share_ppm=900_000), check_blocks=4
)


@pytest.fixture(scope="module")
def chain():
    found = Chain(params=OFTEN)
    found.run_race([100] * 5)
    return found


@pytest.fixture(scope="module")
def made(chain):
    """A session whose tasks are final; its state is put back before each test."""
    session = DummySession(chain)
    session.answer_all(TASKS_MADE)
    return session


@pytest.fixture
def state(made):
    return made.chain.state.branch()


def apply(state, made, message, sender=None):
    sender = sender or made.relay.address
    dummies.apply_reveal(state, made.chain.params, made.chain.application.chain_id, sender, message)


def refuse(state, made, message, sender=None):
    with pytest.raises(InvalidTransaction) as refused:
        apply(state.branch(), made, message, sender)
    return refused.value.code


def test_a_shown_dummy_pays_nobody_and_comes_back_to_new_accounts(made, state):
    shown = made.drawn(TASKS_MADE)
    assert 1 <= len(shown) < TASKS_MADE
    total = made.cost(shown)
    payouts = made.payouts(total)
    held = {index: state_held(state, made, index) for index in shown}
    apply(state, made, made.reveal(shown, payouts=payouts))
    assert [get_account(state, payout.to).balance for payout in payouts] == [payout.amount for payout in payouts]
    for index in shown:
        task = TASKS.get(state, compute_task_id(made.session_id, index))
        assert (task.cost, task.is_dummy) == (0, True)
        assert state_held(state, made, index) < held[index]
    assert nodes.NODES.get(state, made.relay.address).returned == total
    untouched = next(index for index in range(TASKS_MADE) if index not in shown)
    assert TASKS.get(state, compute_task_id(made.session_id, untouched)).cost > 0


def state_held(state, made, index):
    return nodes.NODES.get(state, TASKS.get(state, compute_task_id(made.session_id, index)).executor).held


def test_a_dummy_counts_as_work_and_builds_reputation_without_pay(made, state):
    params, shown = made.chain.params, made.drawn(TASKS_MADE)
    executor = TASKS.get(state, compute_task_id(made.session_id, shown[0])).executor
    # Everything else leaves, so that its only work is the dummy.
    for task_id, task in TASKS.items(state):
        if task_id != compute_task_id(made.session_id, shown[0]):
            TASKS.put(state, task_id, msgspec.structs.replace(task, cost=0))
    apply(state, made, made.reveal(shown[:1]))
    before = nodes.NODES.get(state, executor)
    assert before.drawn >= before.answered >= 1
    fund = get_account(state, TRAINING_FUND).balance
    settle_epoch(state, params, clock.compute_epoch(params, state.height))
    after = nodes.NODES.get(state, executor)
    assert after.reputation == before.reputation + 1
    assert after.earned == before.earned
    assert get_account(state, TRAINING_FUND).balance == fund
    assert (after.dummies, after.relayed, after.returned) == (0, 0, 0)


def test_invalid_reveals(made, state):
    drawn = made.drawn(TASKS_MADE)
    other = next(index for index in range(TASKS_MADE) if index not in drawn)
    good = made.reveal(drawn[:1])
    assert refuse(state, made, msgspec.structs.replace(good, session=bytes(16))) == "unknown-session"
    assert refuse(state, made, good, sender=made.chain.keys[1].address) == "not-the-relay"
    entry = msgspec.structs.replace(good.entries[0], index=200)
    assert refuse(state, made, msgspec.structs.replace(good, entries=(entry,))) == "unknown-task"
    salted = msgspec.structs.replace(good.entries[0], salt=bytes(32))
    assert refuse(state, made, msgspec.structs.replace(good, entries=(salted,))) == "not-committed"
    # A user's task: nothing under the root fits its prompt.
    assert refuse(state, made, made.reveal([other])) == "not-committed"
    twice = made.reveal(drawn[:1], entries=(good.entries[0],) * 2)
    assert refuse(state, made, twice) == "already-revealed"
    apply(state, made, good)
    assert refuse(state, made, good) == "already-revealed"


def test_invalid_payouts(made, state):
    shown = made.drawn(TASKS_MADE)[:1]
    cost = made.cost(shown)
    fresh, second = made.payouts(cost)[0].to, made.payouts(cost)[1].to

    def pay(*payouts):
        return refuse(state, made, made.reveal(shown, payouts=payouts))

    assert pay(Payout(fresh, cost - 2), Payout(second, 1)) == "wrong-payout"
    assert pay(Payout(fresh, cost), Payout(second, 1)) == "wrong-payout"
    for known in (made.relay.address, made.chain.user.address, TRAINING_FUND):
        assert pay(Payout(known, cost - 1), Payout(second, 1)) == "not-fresh"
    assert pay(Payout(fresh, cost - 1), Payout(fresh, 1)) == "not-fresh"
    apply(state, made, made.reveal(shown, payouts=(Payout(fresh, cost - 1), Payout(second, 1))))


def test_a_task_is_shown_only_once_it_is_final(made, state):
    index = made.drawn(TASKS_MADE)[0]
    task_id = compute_task_id(made.session_id, index)
    message = made.reveal([index])
    TASKS.put(state, task_id, msgspec.structs.replace(TASKS.get(state, task_id), status=DISPUTED))
    assert refuse(state, made, message) == "not-final"
    TASKS.put(state, task_id, msgspec.structs.replace(TASKS.get(state, task_id), status=FINAL))
    apply(state, made, message)


def test_an_index_that_was_not_drawn_and_a_foreign_draw_are_refused(made, state):
    """Also with the promised prompt: the relay put a dummy where none belongs."""
    drawn = made.drawn(TASKS_MADE)
    other = next(index for index in range(TASKS_MADE) if index not in drawn)
    task_id = compute_task_id(made.session_id, other)
    TASKS.put(state, task_id, msgspec.structs.replace(TASKS.get(state, task_id), prompt_hash=made.plan.hashes[0]))
    assert refuse(state, made, made.reveal([other], entries=(made.entry(other, place=0),))) == "not-drawn"
    entry = msgspec.structs.replace(made.entry(drawn[0]), point=made.entry(drawn[-1]).point, proof=bytes(64))
    assert refuse(state, made, made.reveal(drawn[:1], entries=(entry,))) == "not-drawn"
    foreign = made.chain.group_keys[made.chain.keys[1].address]
    entries = tuple(
        entry for index in drawn if dummies.is_drawn((entry := made.entry(index, key=foreign)).point, made.chain.params)
    )
    for entry in entries[:1]:
        assert refuse(state, made, made.reveal(drawn[:1], entries=(entry,))) == "not-drawn"


def test_the_share_is_a_boundary(made, state):
    shown = made.drawn(TASKS_MADE)[:1]
    cost = made.cost(shown)
    share = made.chain.params.dummies.share_ppm
    relayed = -(-cost * 1_000_000 // share)
    nodes.update_node(state, made.relay.address, relayed=relayed - 1)
    assert refuse(state, made, made.reveal(shown)) == "over-share"
    nodes.update_node(state, made.relay.address, relayed=relayed)
    apply(state, made, made.reveal(shown))


def test_refunded_tasks_of_the_epoch_no_longer_count_for_the_share(made, state):
    params, relay = made.chain.params, made.relay.address
    shown = made.drawn(TASKS_MADE)[0]
    task_ids = [compute_task_id(made.session_id, index) for index in range(TASKS_MADE) if index != shown]
    before = nodes.NODES.get(state, relay).relayed
    old = TASKS.get(state, task_ids[0])
    # What an earlier epoch counted is not taken from this one.
    TASKS.put(state, task_ids[0], msgspec.structs.replace(old, epoch=old.epoch - 1))
    for task_id in task_ids:
        task_pay.settle_task(state, params, task_id, m.REJECTED)
    left = sum(TASKS.get(state, task_id).cost for task_id in task_ids[:1]) + made.cost([shown])
    assert nodes.NODES.get(state, relay).relayed == left < before
    # Nine tenths may come back: of a dummy and the old task, but not of the dummy alone.
    apply(state.branch(), made, made.reveal([shown]))
    nodes.update_node(state, relay, relayed=left - old.cost)
    assert refuse(state, made, made.reveal([shown])) == "over-share"


def test_a_key_registered_after_the_opening_draws_nothing(made):
    promise = dummies.PROMISES.get(made.chain.state, made.session_id)
    assert promise.draw_key == made.key.public_key
    assert promise.root == made.plan.compute_root()


def test_one_lot_for_each_key_and_message():
    key, other = EncryptionKey.from_secret(b"a" * 32), EncryptionKey.from_secret(b"b" * 32)
    lot = draw_lot(key, b"message")
    assert lot.point == compute_point(key, b"message")
    assert verify_lot(key.public_key, b"message", lot)
    assert not verify_lot(key.public_key, b"other", lot)
    assert not verify_lot(other.public_key, b"message", lot)
    forged = Lot(compute_point(other, b"message"), lot.proof)
    assert not verify_lot(key.public_key, b"message", forged)
    for damaged in (
        Lot(b"", lot.proof),
        Lot(lot.point, bytes(63)),
        Lot(bytes(48), lot.proof),
    ):
        assert not verify_lot(key.public_key, b"message", damaged)


def test_invalid_shapes_do_not_decode(made):
    good = made.reveal(made.drawn(TASKS_MADE)[:1])
    for changes in ({"payouts": good.payouts[:1]}, {"entries": ()}, {"entries": good.entries * 17}):
        with pytest.raises(InvalidTransaction):
            made.chain.send(made.relay, msgspec.structs.replace(good, **changes))
    short = msgspec.structs.replace(good.entries[0], path=good.entries[0].path[:-1])
    with pytest.raises(InvalidTransaction):
        made.chain.send(made.relay, RevealDummies(made.session_id, (short,), good.payouts))


def test_the_whole_way_through_blocks(chain):
    """As a transaction, without fee, in a block that the replica agrees to; promises go with their sessions."""
    session = DummySession(chain, nonce=b"w" * 32)
    session.answer_all(6)
    shown = session.drawn(6)
    balance = get_account(chain.state, session.relay.address).balance
    chain.send(session.relay, session.reveal(shown, payouts=session.payouts(session.cost(shown), tag=9)))
    chain.tick()
    assert all(TASKS.get(chain.state, compute_task_id(session.session_id, i)).is_dummy for i in shown)
    assert get_account(chain.state, session.relay.address).balance == balance
    chain.send(chain.user, m.CloseSession(session.session_id))
    chain.run_until(lambda: clock.is_last(chain.params, chain.height), limit=2_500)
    assert dummies.PROMISES.get(chain.state, session.session_id) is None
