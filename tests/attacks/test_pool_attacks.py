"""Attacks on the pools: bought coins made to look earned, tiny trades, trades in front of others, names split for seats.

Power: what was bought is never redeemable, whatever share of all work the buyer's own nodes get; with fees counted as earned, a buyer
with all the work turns four fifths of it into redeemable coins and gains as soon as the price has doubled. A trader's dollars
never grow by buying and redeeming in turns at one price. Two names get what one gets.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_chain import COIN, Desk, PoolChain, change_pools
from task_chain import FEES_ONLY, TaskChain

from paceline.economy.liquidity import FIRST_PRICE, TRANCHE
from paceline.economy.supply import LIQUIDITY_POOL, TOP_HOSTS
from paceline.economy.top_hosts import DAYS
from paceline.ledger import earnings, nodes, pools, sessions, settlement, top_hosts
from paceline.ledger.accounts import TOP_HOSTS_POOL, get_account
from paceline.ledger.asset import get_dollars
from paceline.protocol import messages as m
from paceline.protocol.params import TINY
from paceline.protocol.pools import BuyCoins, RedeemCoins

PRICE = FIRST_PRICE
ANY = 10**18
TASKS_ASKED, TASK_COIN = 24, 10 * COIN
SHORT = msgspec.structs.replace(FEES_ONLY, epoch_blocks=160, unit_price=TASK_COIN // 30, vesting_epochs=0)


class Laundry(PoolChain, TaskChain):
    """All nodes and the buyer are one attacker: it asks itself for work with coins of the first tranche."""


def launder():
    """Dollars that an attacker has after laundering, less those before; and coins that came back as pay."""
    chain = Laundry(params=SHORT)
    chain.tick()
    everyone = (chain.user, *chain.keys)
    before = sum(get_dollars(chain.state, key.address) for key in everyone)
    spent = TASKS_ASKED * TASK_COIN
    chain.send(chain.user, BuyCoins(spent, ANY))
    chain.tick()
    (session,) = chain.open_sessions((0,), deposit=spent + 5 * TASK_COIN)
    chain.serve(session, range(TASKS_ASKED), max_cost=TASK_COIN)
    chain.check_all()
    chain.settle()
    desk = Desk(chain)
    # Somebody else, whose dollars are not counted, buys the first tranche out and a third of the next: the price has doubled.
    others = chain.user
    paid = desk.dollars(others)
    assert desk.do(others, BuyCoins(TRANCHE - spent + TRANCHE // 3, ANY)) == "ok"
    paid -= desk.dollars(others)
    for key in chain.keys[1:]:
        earned = min(desk.coins(key) - 2 * SHORT.transfer_fee, desk.redeemable(key))
        code = desk.do(key, RedeemCoins(max(COIN, earned), 1))
        assert code == ("ok" if earned > 0 else "not-earned")
    after = sum(desk.dollars(key) for key in everyone) + paid
    return after - before, sum(desk.coins(key) for key in chain.keys[1:])


@pytest.mark.timeout(300)
def test_coins_that_were_bought_low_and_spent_on_own_nodes_are_not_redeemed_high(monkeypatch):
    spent = TASKS_ASKED * TASK_COIN
    gain, _ = launder()
    assert gain == -spent // COIN * PRICE, "what was paid for the coins, and nothing back"

    # The defence off: all pay counts as earned.
    def count_fees(state, address, amount):
        earnings.note_issued(state, address, amount)
        note_paid(state, address, amount)

    note_paid = earnings.note_paid
    monkeypatch.setattr(settlement.earnings, "note_paid", count_fees)
    monkeypatch.setattr(pools, "_find_unearned", lambda *_: [])
    gain, _ = launder()
    assert gain > 0


def test_received_coins_are_not_redeemable_however_they_arrive():
    chain = PoolChain()
    chain.block()
    desk, (host, friend) = Desk(chain), chain.keys[:2]
    desk.earn(host, 50 * COIN)
    assert desk.do(chain.user, BuyCoins(100 * COIN, ANY)) == "ok"
    assert desk.do(chain.user, RedeemCoins(COIN, 1)) == "not-earned"
    assert desk.do(host, m.Transfer(friend.address, 40 * COIN)) == "ok"
    assert desk.do(friend, RedeemCoins(COIN, 1)) == "not-earned"
    # Sold, and replaced by bought ones: what left is not redeemable any more.
    assert desk.do(host, BuyCoins(40 * COIN, ANY)) == "ok"
    assert desk.do(host, RedeemCoins(10 * COIN, 1)) == "not-earned"
    assert desk.do(host, RedeemCoins(9 * COIN, 1)) == "ok"


def test_an_escrow_that_comes_back_is_no_pay():
    chain = PoolChain()
    chain.tick()
    session = chain.open_session()
    chain.send(chain.user, m.CloseSession(session))
    for _ in range(sessions.GRACE_BLOCKS + 2):
        chain.tick()
    assert sessions.SESSIONS.get(chain.state, session) is None
    assert get_account(chain.state, chain.user.address).redeemable == 0


def make_fine_desk():
    chain = PoolChain(params=change_pools(least_coins=1))
    chain.block()
    desk = Desk(chain)
    host = chain.keys[0]
    desk.earn(host, 100 * COIN)
    assert desk.do(chain.user, BuyCoins(100 * COIN, ANY)) == "ok"
    return desk, host


@pytest.fixture(scope="module")
def fine():
    return make_fine_desk()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400_000)), min_size=1, max_size=20))
def test_many_tiny_trades_drain_nothing(fine, trades):
    """At one price: what a trader holds, coins at that price and dollars together, never grows by trading."""
    start, host = fine
    desk = Desk(start.chain, start.state.branch())

    def worth(fees):
        # In nicoin times micro-dollars, so that nothing is rounded.
        return desk.dollars(host) * COIN + (desk.coins(host) + fees * start.chain.params.transfer_fee) * PRICE

    before = worth(0)
    for count, (is_buy, coins) in enumerate(trades, start=1):
        desk.do(host, BuyCoins(coins, ANY) if is_buy else RedeemCoins(coins, 0))
        assert worth(count) <= before


def test_a_limit_keeps_a_buyer_from_paying_for_who_trades_in_front():
    chain = PoolChain()
    chain.block()
    victim, other = chain.keys[0], chain.user

    def play(most):
        desk = Desk(chain)
        assert desk.do(other, m.Transfer(victim.address, COIN)) == "ok"
        before = desk.dollars(victim)
        assert desk.do(other, BuyCoins(TRANCHE, ANY)) == "ok"
        return desk.do(victim, BuyCoins(100 * COIN, most)), before - desk.dollars(victim)

    assert play(100 * PRICE) == ("price-moved", 0)
    # The defence off: it pays twice the price.
    assert play(ANY) == ("ok", 200 * PRICE)


def test_the_largest_amounts_neither_wrap_nor_stick():
    chain = PoolChain()
    chain.block()
    desk = Desk(chain)
    for coins, most, code in ((ANY, ANY, "sold-out"), (LIQUIDITY_POOL, ANY, "ok"), (COIN, ANY, "sold-out")):
        assert desk.do(chain.user, BuyCoins(coins, most)) == code
    desk.earn(chain.keys[0], 100 * COIN)
    assert desk.do(chain.keys[0], RedeemCoins(ANY, ANY)) == "not-earned"
    assert desk.do(chain.keys[0], RedeemCoins(99 * COIN, ANY)) == "price-moved"
    assert desk.do(chain.keys[0], RedeemCoins(99 * COIN, 99 * (PRICE << 9))) == "ok"


# Top hosts.

DAY = 100
EACH = 1_000
SEATED = change_pools(
    msgspec.structs.replace(TINY, blocks_per_day=DAY), top_host_weight=EACH, top_host_seats=4, top_host_grace_days=3
)
INSTALMENT = -(-TOP_HOSTS // 4 // DAYS)


@pytest.fixture(scope="module")
def raced():
    chain = PoolChain(params=change_pools(top_host_weight=EACH))
    chain.run_race([100] * 5)
    return chain


def play_days(chain, days, params=SEATED):
    """Seats' worth that each node was paid, over days of weights by index."""
    state = chain.state
    for day, weights in enumerate(days, start=50):
        for index, key in enumerate(chain.keys):
            nodes.update_node(state, key.address, weight=weights.get(index, 0))
        state.height = day * DAY
        top_hosts.end_block(state, params)
    left = get_account(state, TOP_HOSTS_POOL).balance
    found = [get_account(state, key.address).balance // INSTALMENT for key in chain.keys]
    assert TOP_HOSTS - left == sum(found) * INSTALMENT
    return found


def test_splitting_a_name_gains_nothing(raced, monkeypatch):
    rivals = {3: EACH, 4: EACH}
    one, two = {0: 3 * EACH, **rivals}, {0: EACH, 1: EACH, 2: EACH, **rivals}
    whole, split = play_days(raced, [one] * 5), play_days(raced, [two] * 5)
    assert whole[0] >= sum(split[:3])
    # Below the weight of a seat each: nothing at all.
    assert play_days(raced, [{0: EACH - 1, 1: EACH - 1, 2: EACH - 1, **rivals}] * 5)[:3] == [0, 0, 0]

    # The defence off, one seat a name: three names get three times as much.
    def find_one_place(state, _):
        found = [(address, node.weight) for address, node in nodes.NODES.items(state) if node.weight >= EACH]
        return {address + bytes(1): weight for address, weight in found}

    monkeypatch.setattr(top_hosts, "_find_able", find_one_place)
    whole, split = play_days(raced, [one] * 5), play_days(raced, [two] * 5)
    assert whole[0] == 5 and sum(split[:3]) > 5


def test_who_drops_out_and_comes_back_stands_behind_who_stayed(raced):
    full = dict.fromkeys(range(5), EACH)
    waiting = play_days(raced, [full]).index(0)
    back = 0 if waiting else 1
    without = {index: EACH for index in range(5) if index != back}
    paid = play_days(raced, [full, *[without] * 4, *[full] * 5])
    assert paid[back] == 1 and paid[waiting] == 6, "the seat went on after three days of grace"
