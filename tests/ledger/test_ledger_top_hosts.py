"""The top hosts' reward on the ledger: who is eligible by verified weight, who waits, who loses a place, what is paid."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_chain import change_pools

from paceline.economy.supply import TOP_HOSTS
from paceline.economy.top_hosts import DAYS
from paceline.ledger import nodes, top_hosts
from paceline.ledger.accounts import TOP_HOSTS_POOL, get_account
from paceline.ledger.invariants import find_violations
from paceline.ledger.top_hosts import PLACES, SEATS, Seat

DAY, EPOCH = 100, 400
SHORT = msgspec.structs.replace(PARAMS, blocks_per_day=DAY, epoch_blocks=EPOCH)
RULES = change_pools(SHORT, top_host_weight=1_000, top_host_seats=2, top_host_grace_days=2)
INSTALMENT = -(-TOP_HOSTS // 2 // DAYS)


@pytest.fixture(scope="module")
def chain():
    """A Race has set weights, all of them far below the threshold."""
    found = Chain(params=RULES)
    found.run_race([100] * 5)
    return found


class Days:
    """A working state on which days pass; `weights` by index of the node, 0 for all others."""

    def __init__(self, chain, params=RULES):
        self.chain, self.params = chain, params
        self.state = chain.state
        self.day = 10

    def weigh(self, weights):
        for index, key in enumerate(self.chain.keys):
            nodes.update_node(self.state, key.address, weight=weights.get(index, 0))

    def go_to(self, height):
        self.state.height = height
        top_hosts.end_block(self.state, self.params)

    def pass_day(self, weights):
        """Instalments that each node was paid for one more day."""
        before = self.paid()
        self.weigh(weights)
        self.day += 1
        self.go_to(self.day * DAY)
        assert top_hosts.find_violations(self.state, self.params) == []
        return {i: (now - before[i]) // INSTALMENT for i, now in self.paid().items() if now > before[i]}

    def paid(self):
        return {i: get_account(self.state, key.address).balance for i, key in enumerate(self.chain.keys)}

    def since(self, index, number=0):
        place = PLACES.get(self.state, self.chain.keys[index].address + bytes([number]))
        return place and place.since


@pytest.fixture
def days(chain):
    return Days(chain)


def test_real_weights_are_paid_at_day_edges_and_seats_are_kept():
    chain = Chain(params=change_pools(RULES, top_host_weight=90, top_host_seats=3))
    chain.run_race([100, 100, 80, 100, 100])
    assert chain.height < DAY
    chain.run_until(lambda: chain.height == 2 * DAY)
    each = -(-TOP_HOSTS // 3 // DAYS)
    paid = [get_account(chain.state, key.address) for key in chain.keys]
    assert sorted(account.balance for account in paid) == [0, 0, 2 * each, 2 * each, 2 * each]
    assert paid[2].balance == 0 and all(account.redeemable == account.balance for account in paid)
    assert get_account(chain.state, TOP_HOSTS_POOL).balance == TOP_HOSTS - 6 * each


def test_weights_of_genesis_are_not_eligible():
    chain = Chain(params=change_pools(RULES, top_host_weight=1))
    while chain.height < DAY:
        chain.block()
    assert chain.node(0).weight == 1_000
    assert get_account(chain.state, TOP_HOSTS_POOL).balance == TOP_HOSTS


def test_without_a_weight_the_reward_is_locked(chain):
    days = Days(chain, change_pools(RULES, top_host_weight=0))
    days.weigh({0: 10**6})
    days.go_to(12 * DAY)
    assert days.state.get(b"top-hosts/seats/") is None and PLACES.items(days.state) == []


def test_the_heaviest_of_one_day_get_the_seats_then_who_waits_longest(days):
    assert days.pass_day({0: 1_000, 1: 1_500, 2: 1_200}) == {1: 1, 2: 1}
    assert days.pass_day({0: 1_000, 1: 1_500, 2: 1_200, 3: 9_000}) == {1: 1, 2: 1}
    # A seat falls free: the one that waits since yesterday comes before the heavier one of today.
    for _ in range(3):
        days.pass_day({0: 1_000, 2: 1_200, 3: 9_000})
    assert days.pass_day({0: 1_000, 2: 1_200, 3: 9_000}) == {0: 1, 2: 1}


def test_days_below_are_not_paid_and_more_than_the_grace_lose_the_seat(days):
    full = {0: 1_000, 1: 1_000, 2: 1_000}
    first = days.pass_day(full)
    holder = next(iter(first))
    rest = {index: 999 if index == holder else 1_000 for index in range(3)}
    (other,) = (index for index in first if index != holder)
    (waiting,) = (index for index in range(3) if index not in first)
    assert days.pass_day(rest) == {other: 1} == days.pass_day(rest)
    assert days.pass_day(full) == first, "back within the grace, with its place in the line"
    assert days.pass_day(rest) == {other: 1} == days.pass_day(rest)
    assert days.pass_day(rest) == {other: 1, waiting: 1}
    since = days.since(waiting)
    assert days.since(holder) is None
    assert days.pass_day(full) == {other: 1, waiting: 1}
    assert days.since(holder) > since, "it stands at the end of the line"


def test_weight_that_is_there_at_the_day_edge_only_does_not_do(days):
    assert days.pass_day({0: 1_000, 1: 1_000}) == {0: 1, 1: 1}
    days.weigh({1: 1_000})
    days.params = msgspec.structs.replace(RULES, epoch_blocks=(12 * DAY - 1))
    days.go_to(12 * DAY - 1)
    assert days.pass_day({0: 1_000, 1: 1_000}) == {1: 1}
    assert days.pass_day({0: 1_000, 1: 1_000}) == {0: 1, 1: 1}


def test_who_leaves_passes_the_seat_on_the_same_day(days):
    assert days.pass_day({0: 1_000}) == {0: 1}
    second = min((1, 2), key=lambda index: days.chain.keys[index].address)
    assert days.pass_day({0: 1_000, 1: 1_000, 2: 1_000}) == {0: 1, second: 1}
    nodes.update_node(days.state, days.chain.keys[0].address, leaves=5)
    assert days.pass_day({0: 1_000, 1: 1_000, 2: 1_000}) == {1: 1, 2: 1}
    assert days.since(0) is None


def test_who_is_removed_passes_the_seat_on(days):
    address = days.chain.keys[0].address
    assert days.pass_day({0: 1_000}) == {0: 1}
    record = nodes.NODES.get(days.state, address)
    nodes.NODES.delete(days.state, address)
    days.day += 1
    days.go_to(days.day * DAY)
    assert SEATS.get(days.state)[0] == Seat(paid=INSTALMENT)
    nodes.NODES.put(days.state, address, record)
    assert days.pass_day({0: 1_000, 1: 1_000}) == {0: 1, 1: 1}
    assert days.since(0) == days.since(1) == days.day * DAY


def test_twice_the_weight_holds_two_seats_and_never_more_than_there_are(days):
    assert days.pass_day({0: 2_999}) == {0: 2}
    assert days.since(0) == days.since(0, 1) == days.day * DAY
    assert days.pass_day({0: 10**9}) == {0: 2}
    assert len(PLACES.items(days.state)) == 2
    assert days.pass_day({0: 1_999, 1: 1_000}) == {0: 1}
    assert days.pass_day({0: 1_999, 1: 1_000}) == {0: 1}
    assert days.pass_day({0: 1_999, 1: 1_000}) == {0: 1, 1: 1}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 4), st.integers(0, 4_000), max_size=5), max_size=12))
def test_no_day_pays_more_than_the_seats_and_everything_adds_up(chain, many):
    days = Days(chain)
    for weights in many:
        paid = days.pass_day(weights)
        assert sum(paid.values()) <= 2
        assert all(count <= weights.get(index, 0) // 1_000 for index, count in paid.items())
        assert [v for v in find_violations(days.state, RULES) if "voting" not in v] == []
        assert len(PLACES.items(days.state)) <= 2 * 5
