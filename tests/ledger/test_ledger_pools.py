"""The pools on the ledger: founders' days, trades with the liquidity pool, the test asset, coins that count as earned."""

from __future__ import annotations

import random

import msgspec
import pytest
from chain_harness import FUNDS, PARAMS, Chain
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_chain import BENEFICIARY, COIN, DOLLAR, RICH, Desk, PoolChain, change_pools

from paceline.base.errors import InvalidTransaction
from paceline.economy.denominations import MAX_DOLLARS
from paceline.economy.liquidity import FIRST_PRICE, TRANCHE, Pool
from paceline.economy.supply import FOUNDERS, LIQUIDITY_POOL
from paceline.economy.vesting import compute_vested
from paceline.ledger import accounts, asset, clock, earnings, founders, liquidity, pools, quotes, top_hosts
from paceline.ledger.accounts import (
    ACCOUNTS,
    FOUNDERS_POOL,
    LIQUIDITY,
    RESERVE,
    TOP_HOSTS_POOL,
    Account,
    get_account,
    move_coins,
)
from paceline.ledger.invariants import find_violations
from paceline.ledger.state import State
from paceline.protocol import messages as m
from paceline.protocol.assets import DIGITS, QUOTED, TBTC, TETH, TUSD
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import Genesis, GenesisAccount, GenesisAsset, GenesisDollars, GenesisQuote
from paceline.protocol.pools import BuyCoins, RedeemCoins, TransferAsset
from paceline.store.state import MemoryStateStore

DAYS = change_pools(
    msgspec.structs.replace(PARAMS, blocks_per_day=3), founders_cliff_days=2, founders_days=7, top_host_weight=0
)
FEE = PARAMS.transfer_fee
PRICE = FIRST_PRICE
TABLES = (b"accounts/", b"asset/", b"liquidity/", b"earnings/", b"quotes/")


@pytest.fixture(scope="module")
def chain():
    found = PoolChain()
    found.block()
    return found


@pytest.fixture
def desk(chain):
    return Desk(chain)


def read_tables(state):
    return [pair for table in TABLES for pair in state.iterate(table)]


# The founders.


def test_the_founders_share_comes_free_day_by_day_after_the_cliff_to_the_unit():
    chain = PoolChain(params=DAYS)
    total = FOUNDERS - FUNDS
    for height in range(1, 9 * 3 + 1):
        chain.block()
        day = height // 3
        due = 0 if day < 2 else total * min(day, 7) // 7
        assert get_account(chain.state, BENEFICIARY.address).balance == due
        assert get_account(chain.state, FOUNDERS_POOL).balance == total - due
    assert due == total


def test_without_a_beneficiary_the_founders_share_stays_locked():
    chain = PoolChain(params=DAYS, beneficiary=None)
    for _ in range(30):
        chain.block()
    assert get_account(chain.state, FOUNDERS_POOL).balance == FOUNDERS - FUNDS


def test_longer_terms_take_nothing_back():
    chain = PoolChain(params=DAYS)
    for _ in range(12):
        chain.block()
    state = State(chain.application._store, height=15)
    founders.end_block(state, change_pools(DAYS, founders_days=1_000))
    assert founders.SHARE.get(state).paid == founders.SHARE.get(chain.state).paid > 0
    assert state.changes == {}


@given(st.integers(0, 10**18), st.integers(0, 2_000), st.integers(0, 2_000), st.integers(1, 2_000))
def test_vesting_never_falls_never_exceeds_and_ends_whole(total, passed, cliff, periods):
    free = compute_vested(total, passed, cliff, periods)
    assert 0 <= free <= compute_vested(total, passed + 1, cliff, periods) <= total
    assert compute_vested(total, max(cliff, periods), cliff, periods) == total
    assert passed >= cliff or free == 0


def start(genesis):
    state = State(MemoryStateStore(), height=1)
    accounts.apply_genesis(state, genesis)
    pools.apply_genesis(state, genesis)
    return state


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"accounts": (GenesisAccount(b"a" * 20, FOUNDERS), GenesisAccount(b"b" * 20, 1))}, "bad-genesis"),
        ({"accounts": (GenesisAccount(TOP_HOSTS_POOL, 1),)}, "bad-genesis"),
        ({"beneficiary": TOP_HOSTS_POOL}, "bad-genesis"),
        ({"test_dollars": (GenesisDollars(LIQUIDITY, 1),)}, "bad-genesis"),
        ({"test_dollars": (GenesisDollars(b"a" * 20, MAX_DOLLARS), GenesisDollars(b"b" * 20, 1))}, "too-many-dollars"),
        ({"test_assets": (GenesisAsset(LIQUIDITY, 1, TETH),)}, "bad-genesis"),
        (
            {"test_assets": (GenesisAsset(b"a" * 20, MAX_DOLLARS, TBTC), GenesisAsset(b"b" * 20, 1, TBTC))},
            "too-many-assets",
        ),
        ({"quotes": (GenesisQuote(TETH, 10**9), GenesisQuote(TETH, 10**9))}, "bad-genesis"),
        ({"quotes": (GenesisQuote(TETH, 10**18),)}, "bad-quote"),
    ],
)
def test_invalid_genesis(chain, changes, code):
    with pytest.raises(InvalidTransaction) as caught:
        start(msgspec.structs.replace(chain.genesis, **changes))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes", [{"founders_days": 0}, {"founders_cliff_days": -1}, {"top_host_seats": 0}, {"least_coins": 0}]
)
def test_parameters_outside_their_bounds_do_not_decode(chain, changes):
    params = change_pools(**changes)
    data = encode(msgspec.structs.replace(chain.genesis, params=params))
    with pytest.raises(InvalidTransaction, match="malformed"):
        decode(Genesis, data, limit_bytes=1 << 24)


def test_genesis_may_leave_out_the_asset_and_the_beneficiary():
    state = start(Chain().genesis)
    for name in DIGITS:
        assert asset.BALANCES[name].items(state) == [] and asset.compute_outstanding(state, name) == 0
    assert founders.SHARE.get(state) is None


# The test asset.


def test_dollars_move_and_nothing_else_makes_them(desk, chain):
    other = b"o" * 20
    assert desk.do(chain.user, TransferAsset(other, 5 * DOLLAR)) == "ok"
    assert asset.get_dollars(desk.state, other) == 5 * DOLLAR
    assert desk.dollars(chain.user) == RICH - 5 * DOLLAR
    assert desk.do(chain.user, TransferAsset(chain.user.address, RICH - 5 * DOLLAR)) == "ok"
    assert desk.dollars(chain.user) == RICH - 5 * DOLLAR
    assert desk.do(chain.user, TransferAsset(other, RICH - 5 * DOLLAR)) == "ok"
    assert desk.dollars(chain.user) == 0
    assert asset.compute_outstanding(desk.state) == 6 * RICH


def test_invalid_transfers_of_the_asset(desk, chain):
    for message, code in (
        (TransferAsset(b"o" * 20, 0), "zero-amount"),
        (TransferAsset(LIQUIDITY, 1), "pool-address"),
        (TransferAsset(b"o" * 20, RICH + 1), "over-dollars"),
    ):
        before = read_tables(desk.state)[1:]
        assert desk.do(chain.user, message) == code
        assert desk.dollars(chain.user) == RICH and len(read_tables(desk.state)) == len(before) + 1


@pytest.mark.parametrize("kind", [TransferAsset, BuyCoins, RedeemCoins])
@pytest.mark.parametrize("amount", [-1, 10**18 + 1, 2**64 - 1])
def test_amounts_outside_their_bounds_do_not_decode(desk, chain, kind, amount):
    message = kind(b"o" * 20, amount) if kind is TransferAsset else kind(amount, 1)
    assert desk.do(chain.user, message) == "malformed"


def test_dollars_that_are_burnt_are_gone(desk, chain):
    asset.burn_dollars(desk.state, chain.user.address, RICH)
    assert desk.dollars(chain.user) == 0 and asset.compute_outstanding(desk.state) == 5 * RICH
    assert find_violations(desk.state, chain.params) == []
    with pytest.raises(InvalidTransaction, match="over-dollars"):
        asset.burn_dollars(desk.state, chain.user.address, 1)


# Buying and redeeming.


def test_coins_go_out_for_dollars_and_earned_ones_come_back(desk, chain):
    host = chain.keys[0]
    assert desk.do(chain.user, BuyCoins(100 * COIN, 100 * PRICE)) == "ok"
    assert desk.coins(chain.user) == FUNDS + 100 * COIN - FEE
    assert desk.dollars(chain.user) == RICH - 100 * PRICE
    desk.earn(host, 50 * COIN)
    assert desk.do(host, RedeemCoins(40 * COIN, 40 * PRICE)) == "ok"
    assert desk.coins(host) == 10 * COIN - FEE and desk.redeemable(host) == 10 * COIN - FEE
    assert desk.dollars(host) == RICH + 40 * PRICE
    assert liquidity.get_pool(desk.state) == Pool(sold=100 * COIN, returned=40 * COIN, balance=60 * PRICE)
    # What came back is sold again first, at the last price.
    assert desk.do(chain.user, BuyCoins(40 * COIN, 40 * PRICE)) == "ok"
    assert liquidity.get_pool(desk.state).returned == 0


def test_a_trade_goes_through_at_its_limit_and_not_beyond(desk, chain):
    host = chain.keys[0]
    desk.earn(host, 10 * COIN)
    cost = TRANCHE // COIN * PRICE + 2 * PRICE
    assert desk.do(chain.user, BuyCoins(TRANCHE + COIN, cost - 1)) == "price-moved"
    assert desk.do(chain.user, BuyCoins(TRANCHE + COIN, cost)) == "ok"
    assert desk.do(host, RedeemCoins(COIN, 2 * PRICE + 1)) == "price-moved"
    assert desk.do(host, RedeemCoins(COIN, 2 * PRICE)) == "ok"


def test_invalid_trades(desk, chain):
    host, least = chain.keys[0], PARAMS.pools.least_coins
    desk.earn(host, 60 * COIN)
    refusals = [
        (chain.user, BuyCoins(0, RICH), "dust"),
        (chain.user, BuyCoins(least - 1, RICH), "dust"),
        (chain.user, BuyCoins(LIQUIDITY_POOL + 1, RICH), "sold-out"),
        (host, RedeemCoins(COIN, 0), "never-sold"),
        (host, RedeemCoins(0, 0), "dust"),
        (host, RedeemCoins(60 * COIN + 1, 0), "not-earned"),
    ]
    for key, message, code in refusals:
        before = read_tables(desk.state)
        assert desk.do(key, message) == code
        changed = [pair for pair in read_tables(desk.state) if pair not in before]
        assert all(key.startswith(b"accounts/") for key, _ in changed), "only the fee moved"
    assert desk.do(chain.user, BuyCoins(10 * COIN, RICH)) == "ok"
    assert desk.do(host, RedeemCoins(11 * COIN, 0)) == "uncovered"
    assert desk.do(chain.user, TransferAsset(b"o" * 20, desk.dollars(chain.user))) == "ok"
    assert desk.do(chain.user, BuyCoins(COIN, RICH)) == "over-dollars"


def test_coins_worth_less_than_a_micro_dollar_are_dust():
    chain = PoolChain(params=change_pools(least_coins=1))
    chain.block()
    desk = Desk(chain)
    desk.earn(chain.keys[0], COIN)
    assert desk.do(chain.user, BuyCoins(10 * COIN, RICH)) == "ok"
    assert desk.do(chain.keys[0], RedeemCoins(199_999, 0)) == "dust"
    assert desk.do(chain.keys[0], RedeemCoins(200_000, 1)) == "ok"


# What counts as earned.


def test_coins_that_leave_an_account_count_as_earned_nowhere(desk, chain):
    host, friend = chain.keys[:2]
    desk.earn(host, 100 * COIN)
    # Others go first.
    assert desk.do(chain.user, m.Transfer(host.address, 30 * COIN)) == "ok"
    assert desk.do(host, m.Transfer(friend.address, 30 * COIN - FEE)) == "ok"
    assert desk.redeemable(host) == 100 * COIN
    assert desk.do(host, m.Transfer(friend.address, 40 * COIN - FEE)) == "ok"
    assert desk.redeemable(host) == 60 * COIN and desk.redeemable(friend) == 0
    assert desk.do(friend, m.Transfer(host.address, 20 * COIN)) == "ok"
    assert desk.redeemable(host) == 60 * COIN and desk.coins(host) == 80 * COIN
    assert desk.do(host, m.Transfer(host.address, 80 * COIN - FEE)) == "ok"
    assert desk.redeemable(host) == 60 * COIN


def test_new_coins_count_when_they_arrive_and_forfeited_ones_never(desk, chain):
    address, state = chain.keys[0].address, desk.state
    earnings.note_issued(state, address, 0)
    assert earnings.ISSUED.get(state, address) is None
    earnings.note_issued(state, address, 30)
    earnings.note_issued(state, address, 10)
    move_coins(state, RESERVE, address, 100)
    earnings.note_paid(state, address, 25)
    assert desk.redeemable(chain.keys[0]) == 25
    assert earnings.compute_redeemable(state) == 25
    earnings.note_paid(state, address, 75)
    assert desk.redeemable(chain.keys[0]) == 40 and earnings.ISSUED.get(state, address) is None
    earnings.note_issued(state, address, 50)
    earnings.forget_issued(state, address)
    earnings.note_paid(state, address, 50)
    assert desk.redeemable(chain.keys[0]) == 40


@pytest.mark.timeout(300)
def test_a_settlement_makes_issued_coins_redeemable_and_fees_not():
    chain = PoolChain(params=msgspec.structs.replace(PARAMS, vesting_epochs=0))
    session = chain.open_session()
    executor = chain.first_executor(session, 0)
    chain.send(executor, m.SubmitReceipts((chain.receipt(session, 0, executor),)))
    end = clock.compute_last_height(chain.params, 0)
    chain.run_until(lambda: chain.height >= end, limit=500)
    account = get_account(chain.state, executor.address)
    node = next(chain.node(index) for index, key in enumerate(chain.keys) if key is executor)
    fee = 30 * chain.params.unit_price * 4 // 5
    assert 0 < account.redeemable == account.balance - fee and node.earned == account.balance
    chain.send(chain.user, BuyCoins(account.redeemable, RICH))
    chain.tick()
    # Its own fee for the transaction comes out of what is no issue first.
    chain.send(executor, RedeemCoins(account.redeemable, 1))
    chain.tick()
    assert get_account(chain.state, executor.address) == Account(fee - FEE, 0, 0)


def test_what_went_out_makes_room_for_what_comes_in(desk, chain):
    state, address = desk.state.branch(), chain.user.address
    room = MAX_DOLLARS - asset.compute_outstanding(state)
    for _ in range(3):
        asset.mint_dollars(state, address, room)
        with pytest.raises(InvalidTransaction, match="would be here"):
            asset.mint_dollars(state, address, 1)
        asset.burn_dollars(state, address, room)
    assert asset.compute_outstanding(state) == MAX_DOLLARS - room


# What must add up.


def test_whatever_does_not_add_up_is_said(desk, chain):
    def damaged(change):
        branch = desk.state.branch()
        change(branch)
        return find_violations(branch, chain.params)

    address = chain.user.address
    assert damaged(lambda state: asset.BALANCES[TUSD].put(state, address, 1))
    assert damaged(lambda state: asset.BALANCES[TUSD].put(state, b"z" * 20, -1))
    assert damaged(lambda state: asset.OUTSTANDING[TUSD].put(state, b"", 1))
    assert damaged(lambda state: liquidity.POOL.put(state, b"", Pool(sold=1)))
    assert damaged(lambda state: asset.BALANCES[TETH].put(state, address, 1))
    assert damaged(lambda state: asset.BALANCES[TBTC].put(state, b"z" * 20, -1))
    assert damaged(lambda state: asset.OUTSTANDING[TBTC].put(state, b"", 1))
    for damage in (Pool(balance=1), Pool(ether=1), Pool(bitcoin=1)):
        assert damaged(lambda state, damage=damage: liquidity.POOL.put(state, b"", damage))
    wrong = quotes.Quote(now=10**18, former=10**9, epoch=0, height=0)
    assert damaged(lambda state: quotes.QUOTES.put(state, b"tETH", wrong))
    assert damaged(lambda state: founders.SHARE.put(state, b"", founders.Share(address, FOUNDERS, 1)))
    assert damaged(lambda state: top_hosts.SEATS.put(state, b"", (top_hosts.Seat(paid=1),)))
    assert damaged(lambda state: ACCOUNTS.put(state, b"z" * 20, Account(0, 0, 1)))
    assert damaged(lambda state: earnings.ISSUED.put(state, b"z" * 20, 10**18))


def build_messages(keys):
    addresses = st.sampled_from([key.address for key in keys] + [LIQUIDITY, b"n" * 20])
    amounts = st.one_of(st.integers(0, 10**18), st.integers(0, 200 * COIN), st.sampled_from([0, 1, TRANCHE, 10**18]))
    return st.one_of(
        st.builds(BuyCoins, amounts, amounts),
        st.builds(BuyCoins, st.integers(1, 3 * TRANCHE), st.just(10**18)),
        st.builds(RedeemCoins, amounts, amounts),
        st.builds(RedeemCoins, st.integers(1_000_000, 30 * COIN), st.just(0)),
        st.builds(BuyCoins, st.integers(1, TRANCHE), st.just(10**18), st.sampled_from(QUOTED)),
        st.builds(RedeemCoins, st.integers(1_000_000, 30 * COIN), st.just(0), st.sampled_from(QUOTED)),
        st.builds(TransferAsset, addresses, amounts, st.sampled_from([*DIGITS])),
        st.builds(m.Transfer, addresses, amounts),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_messages_are_executed_or_refused_and_everything_adds_up(chain, data):
    keys = (chain.user, *chain.keys[:2])
    desk = Desk(chain)
    for key in keys[1:]:
        desk.earn(key, 70 * COIN)
    last = liquidity.get_pool(desk.state)
    for _ in range(data.draw(st.integers(1, 12))):
        key, message = data.draw(st.sampled_from(keys)), data.draw(build_messages(keys))
        before = read_tables(desk.state), desk.redeemable(key)
        code = desk.do(key, message)
        pool = liquidity.get_pool(desk.state)
        assert pool.sold >= last.sold, "the price never falls"
        if code == "ok" and isinstance(message, RedeemCoins):
            assert desk.redeemable(key) <= before[1] - message.coins
        elif code != "ok":
            moved = [pair for pair in read_tables(desk.state) if pair not in before[0]]
            assert len(moved) <= 2 and all(name.startswith(b"accounts/") for name, _ in moved)
        last = pool


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_days_and_trades_over_real_blocks_agree_on_the_replica(seed):
    """Every block is replayed by a replica, and everything adds up after it."""
    chance = random.Random(seed)
    params = change_pools(DAYS, top_host_weight=1)
    chain = PoolChain(params=params)
    people = (chain.user, *chain.keys)
    moved = {"ok": 0}
    for key in chain.keys:
        chain.send(chain.user, m.Transfer(key.address, 10 * COIN))
    for _ in range(60):
        for _ in range(chance.randrange(8)):
            coins, dollars = chance.choice((0, COIN, TRANCHE // 3, 10**18)), chance.choice((0, PRICE, 10**18))
            to = chance.choice(people).address
            message = chance.choice(
                (
                    BuyCoins(coins, dollars),
                    RedeemCoins(coins, dollars),
                    BuyCoins(coins, 10**18, chance.choice(QUOTED)),
                    TransferAsset(to, dollars, chance.choice([*DIGITS])),
                    m.Transfer(to, coins),
                )
            )
            try:
                chain.send(chance.choice(people), message)
                moved["ok"] += 1
            except InvalidTransaction as problem:
                moved[problem.code] = moved.get(problem.code, 0) + 1
        chain.block()
    assert moved["ok"] > 5 and len(moved) > 4
    assert get_account(chain.state, BENEFICIARY.address).balance == FOUNDERS - FUNDS
