"""Channels on the ledger: opening, passing on, states, draws of leaves, forfeits, and every coin accounted for."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from channel_setup import COST, PRICE, Account
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.base.merkle import GrowingTree, compute_root
from paceline.ledger import attendance, checks, clock, nodes, registration
from paceline.ledger.accounts import HELD_PAY, RESERVE, SESSION_ESCROW, TRAINING_FUND, get_account
from paceline.ledger.channel_records import (
    CHANNELS,
    CHECKING,
    CLOSING,
    LEAVES,
    OPEN,
    OPENING,
    SETTLED,
    WATCHED,
    draw_points,
    needs_payloads,
)
from paceline.ledger.channels import compute_reserve
from paceline.ledger.disputes import has_voted
from paceline.ledger.settlement import get_settlement
from paceline.ledger.tasks import CHECKING as TASK_CHECKING
from paceline.ledger.tasks import FINAL, REVEALING, TASKS
from paceline.protocol import channels as c
from paceline.protocol import messages as m

SHORT = msgspec.structs.replace(
    PARAMS,
    slots_per_member=2,
    tasks=msgspec.structs.replace(PARAMS.tasks, away_blocks=8),
    channels=msgspec.structs.replace(
        PARAMS.channels, most_blocks=200, pass_blocks=12, dispute_blocks=8, open_blocks=15, most_tasks=40
    ),
)
DEPOSIT = 10**10


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


def balance(chain, address):
    return get_account(chain.state, address).balance


def find_node(chain, key):
    return nodes.NODES.get(chain.state, key.address)


def judge_all(chain, outcome=m.ACCEPTED):
    """Every drawn checker commits and reveals, until no task waits for one."""
    for task_id, task in TASKS.items(chain.state):
        message = m.JudgeTask(task_id, m.Verdict(outcome, "test", (1, -20_000)))
        for key in chain.keys:
            bound = checks.has_committed(task, key.address)
            if task.status == TASK_CHECKING and key.address in task.asked and not bound:
                chain.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
            elif task.status == REVEALING and bound and not has_voted(task.votes, key.address):
                chain.send(key, message)


def run_checks(chain, account):
    for _ in range(80):
        if account.record is None or account.record.status == SETTLED:
            return
        judge_all(chain)
        chain.tick()
    raise AssertionError("the checks do not end")


def close_and_open(chain, account):
    chain.send(account.executor, account.claim())
    account.run_to_draw()
    chain.send(account.executor, account.open_all())
    chain.tick()


def pass_on(account, kind=m.BUSY, *, signer=None, height=None):
    chain, executor = account.chain, account.executor
    signer = signer or (executor if kind == m.BUSY else chain.keys[0])
    skip = chain.skip(account.id, 0, executor.address, kind, signer=signer, height=height)
    return c.PassChannel(account.id, skip.kind, skip.height, skip.signature)


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_a_tree_that_grows_has_the_root_of_the_whole(leaves):
    tree = GrowingTree()
    for count, leaf in enumerate(leaves):
        assert tree.root == compute_root(leaves[:count])
        tree.append(leaf)
    assert (tree.root, tree.count) == (compute_root(leaves), len(leaves))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 50), st.integers(1, 10**12))
def test_points_lie_on_the_line_of_money(seed, count, total):
    points = draw_points(seed, count, total)
    assert len(points) == count
    assert points == sorted(points)
    assert 0 <= points[0] <= points[-1] < total


def test_the_beacon_draws_one_executor_that_is_not_the_relay(chain):
    account = Account(chain)
    assert account.record.status == OPEN
    assert account.executor != chain.keys[0]
    assert balance(chain, SESSION_ESCROW) == DEPOSIT
    assert needs_payloads(chain.state, account.id)


def test_invalid_openings(chain):
    relay = chain.keys[0].address

    def send(**changes):
        fields = {"relay": relay, "model": "test-model", "deposit": DEPOSIT, "blocks": 200, **changes}
        return refuse(chain, chain.user, c.OpenChannel(*fields.values()))

    assert send(relay=b"u" * 20) == "unknown-relay"
    assert send(model="other") == "unknown-model"
    assert send(deposit=SHORT.unit_price - 1) == "small-deposit"
    assert send(blocks=SHORT.channels.most_blocks + 1) == "long-channel"


def test_one_claim_pays_many_answers_and_returns_the_rest(chain):
    account = Account(chain)
    account.serve(20)
    executor, before = account.executor, balance(chain, chain.user.address)
    close_and_open(chain, account)
    assert balance(chain, chain.user.address) == before + DEPOSIT - 20 * COST
    assert balance(chain, HELD_PAY) == 20 * COST
    node = find_node(chain, executor)
    assert (node.tasks, node.answered, node.drawn, node.held) == (20, 20, 20, 20 * COST)
    assert account.record.status == CHECKING
    assert not needs_payloads(chain.state, account.id)
    run_checks(chain, account)
    tasks = [task for _, task in TASKS.items(chain.state) if task.session == account.id]
    assert all(task.status == FINAL for task in tasks)
    # At reputation 0 as many points as leaves: two thirds of the leaves are hit, some of them more than once.
    assert sum(task.slots for task in tasks) == 20
    assert 8 <= len(tasks) <= 17
    assert all(len(task.drawn) == min(3, task.slots) for task in tasks)


def test_settlement_pays_drawn_leaves_by_their_checks_and_the_others_whole(chain):
    account = Account(chain)
    account.serve(20)
    executor = account.executor
    close_and_open(chain, account)
    run_checks(chain, account)
    drawn = {task_id: task for task_id, task in TASKS.items(chain.state) if task.session == account.id}
    end = clock.compute_last_height(chain.params, 0)
    issued = balance(chain, RESERVE)
    chain.run_until(lambda: chain.height >= end, limit=500)
    line = next(line for line in get_settlement(chain.state, 0) if line.address == executor.address)
    pay = sum(task.cost * 8 // 20 for task in drawn.values()) + (20 - len(drawn)) * COST * 8 // 10
    assert pay <= line.earned <= pay + issued - balance(chain, RESERVE)
    assert account.record is None
    assert LEAVES.items(chain.state) == []
    assert balance(chain, HELD_PAY) == 0


def test_an_unused_channel_costs_the_reserve_and_its_executor_has_nothing_of_it(chain):
    account = Account(chain)
    executor, before = account.executor, balance(chain, chain.user.address)
    earned, fund = find_node(chain, executor).earned, balance(chain, TRAINING_FUND)
    chain.send(chain.user, account.close())
    chain.run_until(lambda: account.record is None)
    reserve = compute_reserve(SHORT, DEPOSIT, PRICE)
    assert reserve == DEPOSIT // 20
    assert balance(chain, chain.user.address) == before - SHORT.transfer_fee + DEPOSIT - reserve
    assert find_node(chain, executor).earned == earned
    assert balance(chain, TRAINING_FUND) == fund + reserve


@pytest.mark.parametrize(("tokens", "missing"), [(499, 1), (500, 0), (501, 0)])
def test_the_reserve_covers_what_answers_lack(chain, tokens, missing):
    account = Account(chain)
    account.serve(1, tokens=tokens)
    executor, before = account.executor, balance(chain, chain.user.address)
    chain.send(executor, account.claim())
    account.run_to_draw()
    assert balance(chain, chain.user.address) == before + DEPOSIT - (tokens + missing) * PRICE


def test_the_reserve_of_a_small_deposit_is_the_deposit():
    assert compute_reserve(SHORT, 5 * PRICE, PRICE) == 5 * PRICE
    assert compute_reserve(SHORT, 33 * PRICE, PRICE) == SHORT.tasks.least_indices * SHORT.tasks.unused_tokens * PRICE


def test_the_later_state_counts_whoever_shows_it(chain):
    account = Account(chain)
    account.serve(5)
    chain.send(chain.user, account.close(account.signed(account.state(2))))
    chain.tick()
    assert (account.record.status, account.record.state.count) == (CLOSING, 2)
    chain.send(account.executor, account.claim())
    chain.tick()
    assert account.record.state.count == 5
    assert refuse(chain, account.executor, account.claim()) == "no-later-state"
    assert refuse(chain, chain.user, account.close()) == "no-later-state"
    account.run_to_draw()
    assert account.record.held == 5 * COST


def test_a_later_state_is_taken_up_to_the_last_height_of_the_window(chain):
    account = Account(chain)
    account.serve(3)
    chain.send(chain.user, account.close())
    chain.tick()
    while chain.height + 1 < account.record.deadline:
        chain.tick()
    chain.send(account.executor, account.claim())
    chain.tick()
    assert account.record.state.count == 3
    assert refuse(chain, account.executor, account.claim()) == "unknown-channel"


def test_an_expired_channel_closes_by_itself(chain):
    account = Account(chain, blocks=20)
    account.serve(2)
    chain.run_until(lambda: account.record.status == CLOSING)
    chain.send(account.executor, account.claim())
    account.run_to_draw()
    assert account.record.state.count == 2


def test_invalid_states(chain):
    account = Account(chain, deposit=10 * COST)
    account.serve(11)
    other = AccountKey.from_secret(b"o" * 32)
    executor = account.executor

    def claim(state, **signers):
        return refuse(chain, executor, account.claim(account.signed(state, **signers)))

    assert claim(account.state()) == "over-deposit"
    fine = account.state(10)
    assert claim(msgspec.structs.replace(fine, total=0)) == "over-deposit"
    assert claim(msgspec.structs.replace(fine, count=0)) == "over-count"
    assert claim(msgspec.structs.replace(fine, count=SHORT.channels.most_tasks + 1)) == "over-count"
    assert claim(fine, owner=other) == "bad-state"
    assert claim(fine, executor=other) == "bad-state"
    assert claim(msgspec.structs.replace(fine, channel=bytes(16))) == "unknown-channel"
    assert claim(msgspec.structs.replace(fine, executor=other.address)) == "wrong-executor"
    assert refuse(chain, chain.keys[0], account.claim(account.signed(fine))) == "not-yours"
    assert refuse(chain, executor, account.close(account.signed(fine))) in {"not-yours", "over-balance"}
    second = Account(chain)
    assert refuse(chain, chain.user, c.CloseChannel(second.id, account.signed(fine))) == "wrong-channel"
    chain.send(executor, account.claim(account.signed(msgspec.structs.replace(fine, count=SHORT.channels.most_tasks))))


def test_who_is_busy_is_followed_by_the_next_drawn_and_then_by_nobody(chain):
    account = Account(chain)
    first = account.executor
    drawn = find_node(chain, first).drawn
    chain.send(chain.keys[0], pass_on(account))
    chain.tick()
    second = account.executor
    assert second not in (first, chain.keys[0])
    assert find_node(chain, first).drawn == drawn + 1
    before = balance(chain, chain.user.address)
    chain.send(chain.keys[0], pass_on(account))
    chain.tick()
    assert account.record is None
    assert balance(chain, chain.user.address) == before + DEPOSIT


def test_a_late_executor_keeps_the_channel_when_it_shows_itself(chain):
    account = Account(chain)
    executor = account.executor
    chain.send(chain.keys[0], pass_on(account, m.LATE))
    chain.tick()
    assert account.record.is_doubted
    assert refuse(chain, chain.keys[0], pass_on(account, m.LATE)) == "already-doubted"
    node = find_node(chain, executor)
    chain.send(executor, m.DescribeNode(node.url, node.link, node.serves))
    chain.tick()
    assert not account.record.is_doubted
    assert account.executor == executor
    assert chain.node(0).marks == 1


def test_a_late_executor_that_is_away_loses_the_channel_and_the_reserve(chain):
    account = Account(chain)
    first = account.executor
    chain.send(chain.keys[0], pass_on(account, m.LATE))
    chain.run_until(lambda: account.executor != first, limit=12)
    assert attendance.is_away(chain.state, SHORT, first.address)
    # The next channels leave out who is away.
    assert all(Account(chain).executor != first for _ in range(3))


def test_invalid_passes(chain):
    account = Account(chain)
    relay, executor = chain.keys[0], account.executor
    assert refuse(chain, executor, pass_on(account)) == "unknown-channel"
    assert refuse(chain, relay, pass_on(account, signer=relay)) == "bad-skip"
    assert refuse(chain, relay, pass_on(account, m.LATE, signer=executor)) == "bad-skip"
    assert refuse(chain, relay, pass_on(account, height=account.record.drawn_at - 1)) == "bad-skip"
    assert refuse(chain, relay, pass_on(account, height=chain.height + 2)) == "bad-skip"
    while chain.height < account.record.seated_at + SHORT.channels.pass_blocks - 1:
        chain.tick()
    in_time = pass_on(account)
    chain.tick()
    assert refuse(chain, relay, in_time) == "too-late"


def test_withheld_leaves_are_guilt_and_return_the_whole_channel(chain):
    # Four nodes may be drawn, so of five channels two have one executor.
    channels = [Account(chain) for _ in range(5)]
    account, other = next(
        (one, two) for one, two in combinations(channels, 2) if one.record.executor == two.record.executor
    )
    for spare in channels:
        if spare not in (account, other):
            chain.send(chain.user, spare.close())
            chain.run_until(lambda spare=spare: spare.record is None)
    account.serve(6)
    executor, before = account.executor, balance(chain, chain.user.address)
    chain.send(executor, account.claim())
    chain.run_until(lambda: account.record is None)
    assert find_node(chain, executor).guilty == 0
    # What it has not claimed in another channel it loses as well; the fund keeps what six answers lack.
    assert other.record is None
    lacking = compute_reserve(SHORT, DEPOSIT, PRICE) - 6 * COST
    assert balance(chain, chain.user.address) == before + 2 * DEPOSIT - lacking
    assert (balance(chain, HELD_PAY), balance(chain, SESSION_ESCROW)) == (0, 0)


def test_leaves_open_in_their_order_and_in_parts(chain):
    account = Account(chain)
    account.serve(12)
    executor = account.executor
    chain.send(executor, account.claim())
    account.run_to_draw()
    drawn = account.drawn()
    assert len(drawn) > 2
    for leaf in drawn:
        assert account.record.status == OPENING
        chain.send(executor, c.OpenLeaves(account.id, (account.opened(leaf),)))
        chain.tick()
    assert account.record.status == CHECKING
    assert account.record.held == (12 - len(drawn)) * COST


def test_invalid_leaves(chain):
    account = Account(chain)
    account.serve(12)
    executor = account.executor
    assert refuse(chain, executor, c.OpenLeaves(account.id, (account.opened(account.leaves[0], 12),))) == (
        "nothing-to-open"
    )
    chain.send(executor, account.claim())
    account.run_to_draw()
    first, second, *_ = (account.opened(leaf) for leaf in account.drawn())

    def send(*opened, key=executor):
        return refuse(chain, key, c.OpenLeaves(account.id, opened))

    assert send(first, key=chain.keys[0]) == "nothing-to-open"
    assert send(second) == "wrong-leaf"
    assert send(first, first) == "wrong-leaf"
    undrawn = [leaf for leaf in account.leaves if leaf not in account.drawn()]
    assert send(account.opened(undrawn[0])) == "wrong-leaf"
    forged = msgspec.structs.replace(first.leaf, payload_hash=bytes(32))
    assert send(msgspec.structs.replace(first, leaf=forged)) == "bad-path"
    assert send(msgspec.structs.replace(first, path=second.path)) == "bad-path"
    dear = msgspec.structs.replace(first.leaf, prompt_tokens=9)
    assert send(msgspec.structs.replace(first, leaf=dear)) == "wrong-cost"
    chain.send(executor, account.open_all())
    chain.tick()
    assert send(first) == "nothing-to-open"


def prove(account, side, key, first, second):
    return c.ProveChannel(side, first, account.sign(key, first), second, account.sign(key, second))


def test_an_owner_that_signs_two_states_forfeits_its_rest(chain):
    account = Account(chain)
    account.serve(4)
    first, second = account.state(), account.state(total=5 * COST)
    accuser, executor = chain.keys[1], account.executor
    chain.send(chain.user, m.Transfer(accuser.address, 10**9))
    chain.tick()
    message = prove(account, c.OWNER, chain.user, first, second)
    chain.send(accuser, message)
    chain.tick()
    assert refuse(chain, accuser, prove(account, c.OWNER, chain.user, first, second)) == "already-proven"
    chain.send(executor, account.claim())
    before, owned = balance(chain, accuser.address), balance(chain, chain.user.address)
    chain.run_until(lambda: account.record.status != CLOSING)
    assert account.record.held == 4 * COST
    assert balance(chain, chain.user.address) == owned
    assert balance(chain, accuser.address) == before + SHORT.race.bounty


def test_an_executor_that_signs_two_states_forfeits_the_channel(chain):
    account = Account(chain)
    account.serve(4)
    executor, before = account.executor, balance(chain, chain.user.address)
    proof = prove(account, c.EXECUTOR, executor, account.state(), account.state(root=bytes(32)))
    chain.send(chain.user, proof)
    chain.tick()
    assert account.record is None
    assert balance(chain, chain.user.address) == before + DEPOSIT - SHORT.transfer_fee


def test_invalid_proofs(chain):
    account = Account(chain)
    account.serve(4)
    executor, state = account.executor, account.state()

    def send(side, key, first, second):
        return refuse(chain, chain.user, prove(account, side, key, first, second))

    assert send(c.OWNER, chain.user, state, state) == "no-contradiction"
    assert send(c.OWNER, chain.user, state, account.state(3)) == "no-contradiction"
    assert send(c.OWNER, executor, state, account.state(total=1)) == "bad-state"
    assert send(c.EXECUTOR, chain.user, state, account.state(total=1)) == "bad-state"
    former = account.state(executor=chain.keys[0].address)
    assert send(c.OWNER, chain.user, state, former) == "wrong-executor"
    assert send(c.OWNER, chain.user, former, state) == "wrong-executor"
    assert send(c.EXECUTOR, executor, state, former) == "wrong-executor"
    strange = account.state(channel=bytes(16))
    assert send(c.OWNER, chain.user, strange, account.state(channel=bytes(16), total=1)) == "unknown-channel"
    assert CHANNELS.get(chain.state, account.id).status == OPEN


def test_an_executor_with_a_channel_stays_until_it_is_over_and_blocks_hurry_while_something_is_due(chain):
    account = Account(chain)
    account.serve(4)
    executor = account.executor
    assert executor.address in registration._find_named(chain.state)
    chain.send(executor, account.claim())
    chain.tick()
    assert WATCHED.get(chain.state, account.id) is not None
    assert chain.application.is_waiting()
    account.run_to_draw()
    chain.send(executor, account.open_all())
    run_checks(chain, account)
    assert account.record.status == SETTLED
    assert WATCHED.get(chain.state, account.id) is None
    assert executor.address in registration._find_named(chain.state)
