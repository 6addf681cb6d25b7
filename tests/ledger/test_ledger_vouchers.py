"""The drawn order is binding, indices are paid in order, and contradictions cost the deposit."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.economy.rewards import compute_work_ppm
from paceline.ledger import attendance, nodes
from paceline.ledger.accounts import RESERVE, TRAINING_FUND, get_account
from paceline.ledger.indices import is_paid
from paceline.ledger.sessions import GRACE_BLOCKS, SESSIONS
from paceline.ledger.vouchers import are_contradictory
from paceline.protocol import messages as m

SHORT = msgspec.structs.replace(
    PARAMS, tasks=msgspec.structs.replace(PARAMS.tasks, unused_blocks=10, late_limit=5, away_blocks=8, late_credit=5)
)


@pytest.fixture
def chain():
    found = Chain(params=SHORT)
    found.run_race([100] * 5)
    return found


def refuse(chain, key, message):
    before = chain.application.read()
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    assert chain.application.read().changes == before.changes
    return refused.value.code


def key_of(chain, address):
    return next(key for key in chain.keys if key.address == address)


def submit(chain, session_id, index, *, rank=0, kind=m.LATE, **options):
    order = chain.order(session_id, index)
    skips = [chain.skip(session_id, index, address, kind) for address in order[:rank]]
    executor = key_of(chain, order[rank])
    chain.send(executor, m.SubmitReceipts((chain.receipt(session_id, index, executor, skips=skips, **options),)))
    chain.tick()
    return executor


def get_node(chain, address):
    return nodes.NODES.get(chain.state, address)


def test_the_first_drawn_needs_no_skip_and_a_later_one_needs_all_before_it(chain):
    session_id = chain.open_session()
    first, second, *_ = chain.order(session_id, 0)
    submit(chain, session_id, 0, rank=1)
    assert is_paid(chain.state, session_id, 0)
    assert (get_node(chain, first).drawn, get_node(chain, first).answered) == (1, 0)
    assert (get_node(chain, second).drawn, get_node(chain, second).answered) == (1, 1)
    # The mark is the relay's word, and counts against it as well.
    assert (chain.node(0).marks, SESSIONS.get(chain.state, session_id).late) == (1, 1)


def test_a_busy_mark_counts_against_the_skipped_node_only(chain):
    session_id = chain.open_session()
    first = chain.order(session_id, 0)[0]
    submit(chain, session_id, 0, rank=1, kind=m.BUSY)
    assert get_node(chain, first).drawn == 1
    assert (chain.node(0).marks, SESSIONS.get(chain.state, session_id).late) == (0, 0)


def test_invalid_places_in_the_order(chain):
    session_id = chain.open_session()
    first, second, third, _ = chain.order(session_id, 0)
    other = AccountKey.from_secret(b"o" * 32)

    def send(rank, *skips):
        key = key_of(chain, chain.order(session_id, 0)[rank])
        return refuse(chain, key, m.SubmitReceipts((chain.receipt(session_id, 0, key, skips=skips),)))

    late = chain.skip(session_id, 0, first)
    assert send(1) == "unskipped"
    assert send(2, late) == "unskipped"
    assert send(2, chain.skip(session_id, 0, second), late) == "wrong-skip"
    assert send(1, late, late) == "wrong-skip"
    assert send(0, late) == "wrong-skip"
    assert send(1, late, chain.skip(session_id, 0, third)) == "wrong-skip"
    assert send(1, chain.skip(session_id, 0, first, signer=other)) == "bad-skip"
    assert send(1, chain.skip(session_id, 0, first, m.BUSY, signer=chain.keys[0])) == "bad-skip"
    assert send(1, chain.skip(session_id, 1, first)) == "bad-skip"
    assert send(1, chain.skip(session_id, 0, first, height=chain.height + 2)) == "bad-skip"
    assert (
        send(1, chain.skip(session_id, 0, first, height=SESSIONS.get(chain.state, session_id).drawn_at - 1))
        == "bad-skip"
    )


def mark_late(chain, session_id, address):
    """Skip a node at the next index that is its own to answer."""
    start = SESSIONS.get(chain.state, session_id).next_index
    index = next(i for i in range(start, 200) if chain.order(session_id, i)[0] == address)
    submit(chain, session_id, index, rank=1)


def test_a_node_that_does_not_show_itself_is_away_and_costs_the_relay_nothing(chain):
    session_id = chain.open_session()
    absent = chain.keys[1].address
    mark_late(chain, session_id, absent)
    mark_late(chain, session_id, absent)
    assert (get_node(chain, absent).drawn, chain.node(0).marks) == (2, 2)
    while not attendance.is_away(chain.state, SHORT, absent):
        chain.tick()
    mark_late(chain, session_id, absent)
    assert (get_node(chain, absent).drawn, chain.node(0).marks) == (2, 2)
    node = get_node(chain, absent)
    chain.send(chain.keys[1], m.DescribeNode(node.url, node.link, node.serves))
    chain.tick()
    assert not attendance.is_marked(chain.state, absent)
    assert (get_node(chain, absent).drawn, chain.node(0).marks) == (2, 0)
    assert refuse(chain, chain.keys[1], m.DescribeNode(node.url, node.link, node.serves)) == "unchanged"


def test_a_mark_against_who_shows_itself_stays_the_relays(chain):
    session_id = chain.open_session()
    present = chain.keys[1].address
    mark_late(chain, session_id, present)
    for _ in range(SHORT.tasks.away_blocks - 3):
        chain.tick()
    node = get_node(chain, present)
    chain.send(chain.keys[1], m.DescribeNode(node.url, node.link, node.serves))
    for _ in range(5):
        chain.tick()
    mark_late(chain, session_id, present)
    assert chain.node(0).marks == 2


def test_many_late_marks_end_a_session(chain):
    session_id = chain.open_session()
    for index in range(SHORT.tasks.late_limit):
        assert SESSIONS.get(chain.state, session_id).expires_at > chain.height
        submit(chain, session_id, index, rank=1)
    assert SESSIONS.get(chain.state, session_id).expires_at <= chain.height
    for index in range(SHORT.tasks.late_limit, 2 * SHORT.tasks.late_limit):
        submit(chain, session_id, index, rank=1)
    index += 1
    first, second, *_ = chain.order(session_id, index)
    receipt = chain.receipt(session_id, index, key_of(chain, second), skips=[chain.skip(session_id, index, first)])
    assert refuse(chain, key_of(chain, second), m.SubmitReceipts((receipt,))) == "too-many-late"
    submit(chain, session_id, index)
    # Whoever calls others late so often gets no more sessions before it answered as much, or the epoch ends.
    relay = chain.keys[0].address
    assert refuse(chain, chain.user, m.OpenSession(relay, "test-model", 10**9)) == "blamed-relay"
    chain.run_until(lambda: SESSIONS.get(chain.state, session_id) is None, limit=GRACE_BLOCKS + 3)


def test_an_unused_index_pays_the_node_that_was_drawn_for_it(chain):
    session_id = chain.open_session()
    drawn = chain.order(session_id, 0)[0]
    before, fund = get_account(chain.state, drawn).balance, get_account(chain.state, TRAINING_FUND).balance
    submit(chain, session_id, 1)
    chain.run_until(lambda: is_paid(chain.state, session_id, 0), limit=SHORT.tasks.unused_blocks + 1)
    charge = SHORT.tasks.unused_tokens * SHORT.unit_price
    assert get_account(chain.state, drawn).balance - before == charge * 4 // 5
    assert get_account(chain.state, TRAINING_FUND).balance - fund == charge // 5
    executor = key_of(chain, drawn)
    receipt = chain.receipt(session_id, 0, executor)
    assert refuse(chain, executor, m.SubmitReceipts((receipt,))) == "already-paid"


def test_a_receipt_just_in_time_is_no_unused_index(chain):
    session_id = chain.open_session()
    submit(chain, session_id, 1)
    left = SESSIONS.get(chain.state, session_id).left
    for _ in range(SHORT.tasks.unused_blocks - 3):
        chain.tick()
    submit(chain, session_id, 0)
    for _ in range(5):
        chain.tick()
    assert left - SESSIONS.get(chain.state, session_id).left == 30 * SHORT.unit_price


def test_honest_vouchers_never_contradict_each_other(chain):
    session_id = chain.open_session()
    first, second, third, _ = (key_of(chain, address) for address in chain.order(session_id, 0))
    late = [chain.skip(session_id, 0, key.address) for key in (first, second)]
    honest = [
        chain.voucher(session_id, 0, first),
        chain.voucher(session_id, 0, second, skips=late[:1]),
        chain.voucher(session_id, 0, third, skips=late),
        chain.voucher(session_id, 1, first),
        chain.voucher(session_id, 5, first),
    ]
    assert not any(are_contradictory(one, other) for one in honest for other in honest)
    for other in (
        chain.voucher(session_id, 0, second),
        chain.voucher(session_id, 0, first, prompt=b"p" * 32),
        chain.voucher(session_id, 0, first, max_cost=5),
        chain.voucher(session_id, 1, first, total=10**8),
    ):
        assert are_contradictory(honest[0], other)
        assert are_contradictory(other, honest[0])


def test_two_vouchers_for_one_index_forfeit_the_rest_of_the_deposit(chain):
    session_id = chain.open_session(deposit=10**10)
    first, second, *_ = (key_of(chain, address) for address in chain.order(session_id, 0))
    proof = m.ProveVouchers(chain.voucher(session_id, 0, first), chain.voucher(session_id, 0, second))
    accuser = chain.keys[4]
    chain.send(chain.user, m.Transfer(accuser.address, 10_000))
    chain.tick()
    owner, reserve = get_account(chain.state, chain.user.address).balance, get_account(chain.state, RESERVE).balance
    before = get_account(chain.state, accuser.address).balance
    chain.send(accuser, proof)
    chain.tick()
    # Work that was done is still paid.
    submit(chain, session_id, 0)
    chain.run_until(lambda: SESSIONS.get(chain.state, session_id) is None, limit=GRACE_BLOCKS + 3)
    assert get_account(chain.state, chain.user.address).balance == owner
    bounty = get_account(chain.state, accuser.address).balance - before + SHORT.transfer_fee
    assert SHORT.race.bounty <= bounty <= SHORT.race.bounty + 3 * SHORT.tasks.unused_tokens * SHORT.unit_price
    assert get_account(chain.state, RESERVE).balance > reserve + 10**10 * 9 // 10


def test_invalid_proofs(chain):
    session_id = chain.open_session()
    first, second, *_ = (key_of(chain, address) for address in chain.order(session_id, 0))
    one, other = chain.voucher(session_id, 0, first), chain.voucher(session_id, 0, second)
    forged = chain.voucher(session_id, 0, second, signer=second)
    passed_on = chain.voucher(session_id, 0, second, skips=[chain.skip(session_id, 0, first.address)])
    assert refuse(chain, chain.user, m.ProveVouchers(one, forged)) == "bad-voucher"
    assert refuse(chain, chain.user, m.ProveVouchers(one, passed_on)) == "no-contradiction"
    assert refuse(chain, chain.user, m.ProveVouchers(one, one)) == "no-contradiction"
    elsewhere = chain.voucher(bytes(16), 0, second)
    assert refuse(chain, chain.user, m.ProveVouchers(one, elsewhere)) == "unknown-session"
    assert refuse(chain, chain.user, m.ProveVouchers(elsewhere, elsewhere)) == "unknown-session"
    chain.send(chain.user, m.ProveVouchers(one, other))
    chain.tick()
    assert refuse(chain, chain.user, m.ProveVouchers(other, one)) == "already-proven"


@pytest.mark.parametrize(
    ("answered", "drawn", "released"),
    [
        (0, 0, 1_000_000),
        (0, 1, 1_000_000),
        (95, 100, 1_000_000),
        (88, 100, 1_000_000),
        (0, 100, 125_383),
        (50, 100, 625_383),
    ],
)
def test_work_proportion(answered, drawn, released):
    assert compute_work_ppm(answered, drawn, 50_000) == released
