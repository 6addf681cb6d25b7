"""Quotes and trades in quoted assets: the median of an epoch's end, silence, the first quote, and what each refusal leaves as it was."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS
from pool_chain import COIN, DOLLAR, QUOTES, RICH, Desk, PoolChain, change_pools

from paceline.base.keys import AccountKey
from paceline.economy.liquidity import FIRST_PRICE, TRANCHE, Pool
from paceline.economy.quotes import MOST_QUOTE
from paceline.ledger import asset, clock, grants, liquidity, nodes, quotes
from paceline.ledger.accounts import LIQUIDITY
from paceline.node.chains.pools import build_pool_status, build_quote
from paceline.node.chains.quotes import build_quotes
from paceline.protocol import messages as m
from paceline.protocol.assets import TBTC, TETH, TUSD
from paceline.protocol.pools import BuyCoins, RedeemCoins, TransferAsset, VoteQuote
from paceline.protocol.transactions import decode_transaction

SHORT = msgspec.structs.replace(PARAMS, epoch_blocks=120, blocks_per_day=1_200)
WEIGHTS = [40, 30, 20, 10, 0]
ETHER = QUOTES[TETH]
PRICE = FIRST_PRICE
GWEI = 10**9


@pytest.fixture
def chain():
    found = PoolChain(params=SHORT, weights=WEIGHTS)
    found.block()
    return found


@pytest.fixture
def silent():
    """No quote at genesis."""
    found = PoolChain(params=SHORT, weights=WEIGHTS, quotes={})
    found.block()
    return found


@pytest.fixture
def desk(chain):
    return Desk(chain)


def vote(desk, index, quote, name=TETH):
    return desk.do(desk.chain.keys[index], VoteQuote(name, quote))


def now(desk, name=TETH):
    quote = quotes.get_quote(desk.state, name)
    return quote and quote.now


# Quotes.


def test_the_weighted_median_of_an_epochs_end_is_recorded_for_the_next(chain):
    for index, quote in enumerate((5 * ETHER, 3 * ETHER, 2 * ETHER, 9 * ETHER)):
        chain.send(chain.keys[index], VoteQuote(TETH, quote))
    while not clock.is_last(SHORT, chain.height + 1):
        chain.tick()
        assert quotes.get_quote(chain.state, TETH) == quotes.Quote(now=ETHER, former=ETHER, epoch=0, height=0)
    chain.tick()
    recorded = quotes.Quote(now=3 * ETHER, former=ETHER, epoch=1, height=SHORT.epoch_blocks)
    assert quotes.get_quote(chain.state, TETH) == recorded
    assert quotes.get_quote(chain.state, TBTC).now == QUOTES[TBTC], "nobody voted on the other"
    [shown, _] = build_quotes(chain.state)
    assert (shown.quote, shown.former, shown.coming, shown.epoch) == (3 * ETHER, ETHER, 3 * ETHER, 1)
    assert [(line.weight_ppm, line.quote) for line in shown.votes if line.node == "node-1"] == [(400_000, 5 * ETHER)]


def test_silence_keeps_the_last_quote_and_counts_with_it(desk):
    assert vote(desk, 1, 9 * ETHER) == vote(desk, 2, 9 * ETHER) == "ok"
    quotes.end_epoch(desk.state, 0)
    assert now(desk) == ETHER
    quotes.end_epoch(desk.state, 1)
    assert quotes.get_quote(desk.state, TETH).epoch == 2
    assert vote(desk, 3, 9 * ETHER) == "ok"
    quotes.end_epoch(desk.state, 2)
    assert now(desk) == 9 * ETHER


def test_a_vote_goes_with_its_node(desk):
    assert vote(desk, 0, 2 * ETHER) == "ok"
    nodes.NODES.delete(desk.state, desk.chain.keys[0].address)
    quotes.end_epoch(desk.state, 0)
    assert quotes.BALLOTS[TETH].list_votes(desk.state) == {} and now(desk) == ETHER


def test_the_first_quote_needs_more_than_half_of_all_weight(silent):
    desk = Desk(silent)
    assert vote(desk, 0, ETHER) == vote(desk, 3, 3 * ETHER) == "ok"
    quotes.end_epoch(desk.state, 0)
    assert now(desk) is None, "half is not more than half"
    assert [line.quote for line in build_quotes(desk.state)] == [0, 0]
    assert vote(desk, 2, 2 * ETHER) == "ok"
    quotes.end_epoch(desk.state, 1)
    assert quotes.get_quote(desk.state, TETH) == quotes.Quote(
        now=ETHER, former=ETHER, epoch=2, height=desk.state.height
    )
    assert now(desk, TBTC) is None


@pytest.mark.parametrize("quote", [0, 10**6 - 1, MOST_QUOTE + 1, ETHER * 10**9 % 10**18 + 10**17, ETHER // 10**9])
def test_invalid_quote_of_nothing_or_a_billion_times_too_much(desk, quote):
    assert vote(desk, 0, quote) == "bad-quote"
    assert quotes.BALLOTS[TETH].list_votes(desk.state) == {}


def test_invalid_votes_without_weight_twice_or_by_no_node(desk):
    assert vote(desk, 4, ETHER) == "no-vote"
    assert vote(desk, 0, 2 * ETHER) == "ok" and vote(desk, 0, 2 * ETHER) == "already-voted"
    assert vote(desk, 0, 2 * ETHER, TBTC) == "ok", "each asset has votes of its own"
    assert desk.do(AccountKey.from_secret(b"n" * 32), VoteQuote(TETH, ETHER)) == "not-a-node"
    assert grants.SCOPES["vote-quote"] is VoteQuote


@pytest.mark.parametrize(
    "message",
    [
        VoteQuote(TUSD, ETHER),
        VoteQuote("tDOGE", ETHER),
        BuyCoins(COIN, RICH, "tDOGE"),
        RedeemCoins(COIN, 0, ""),
        TransferAsset(b"o" * 20, 1, "tETH\n"),
    ],
)
def test_invalid_asset_does_not_decode(desk, message):
    assert desk.do(desk.chain.keys[0], message) == "malformed"


@pytest.mark.parametrize("kind", [BuyCoins, RedeemCoins])
def test_messages_that_name_no_asset_mean_dollars(chain, kind):
    _, body = decode_transaction(chain.sign(chain.user, kind(COIN, 5)))
    assert body.message == kind(COIN, 5, TUSD)


# Trades.


def test_ether_buys_at_the_quote_and_is_paid_out_after_the_dollars(desk, chain):
    host = chain.keys[0]
    desk.earn(host, 500 * COIN)
    assert desk.do(chain.user, BuyCoins(1_000 * COIN, 2_000_000, TETH)) == "ok"
    assert desk.units(chain.user, TETH) == RICH - 2_000_000 and desk.dollars(chain.user) == RICH
    assert desk.do(chain.user, BuyCoins(100 * COIN, RICH)) == "ok"
    assert liquidity.get_pool(desk.state) == Pool(sold=1_100 * COIN, balance=100 * PRICE, ether=2_000_000)
    assert desk.do(host, RedeemCoins(100 * COIN, 0, TETH)) == "dollars-first"
    assert desk.do(host, RedeemCoins(100 * COIN, 100 * PRICE)) == "ok"
    assert desk.do(host, RedeemCoins(100 * COIN, 100 * PRICE)) == "uncovered"
    assert desk.do(host, RedeemCoins(100 * COIN, 200_001, TETH)) == "price-moved"
    assert desk.do(host, RedeemCoins(100 * COIN, 200_000, TETH)) == "ok"
    assert desk.units(host, TETH) == RICH + 200_000
    pool = liquidity.get_pool(desk.state)
    assert pool == Pool(sold=1_100 * COIN, returned=200 * COIN, ether=1_800_000)
    shown = build_pool_status(desk.state, host.address)
    assert (shown.worth, shown.balance, shown.coverage_ppm) == (900 * PRICE, 0, 1_000_000)
    line = next(line for line in shown.assets if line.asset == TETH)
    assert (line.pool, line.quote, line.buy_quote, line.redeem_quote, line.worth) == (
        1_800_000,
        ETHER,
        ETHER,
        ETHER,
        900 * PRICE,
    )
    assert line.accounts + line.pool == asset.compute_outstanding(desk.state, TETH) == 6 * RICH


def test_who_trades_gets_the_worst_of_the_last_this_and_the_coming_quote(desk, chain):
    host = chain.keys[0]
    desk.earn(host, 900 * COIN)

    def cost():
        return build_quote(desk.state, SHORT, "buy", chain.user.address, 1_000 * COIN, TETH).amount

    def gets():
        return build_quote(desk.state, SHORT, "redeem", host.address, 100 * COIN, TETH).amount

    assert desk.do(chain.user, BuyCoins(1_000 * COIN, RICH, TETH)) == "ok"
    assert (cost(), gets()) == (2_000_000, 200_000)
    # A fall that votes show: buyers pay by it at once, redeemers get it only two epochs later.
    assert vote(desk, 0, ETHER // 2) == vote(desk, 1, ETHER // 2) == "ok"
    assert (cost(), gets()) == (4_000_000, 200_000)
    quotes.end_epoch(desk.state, 0)
    assert (now(desk), cost(), gets()) == (ETHER // 2, 4_000_000, 200_000)
    quotes.end_epoch(desk.state, 1)
    assert (cost(), gets()) == (4_000_000, 400_000)
    # And a rise the other way round.
    assert vote(desk, 0, 2 * ETHER) == vote(desk, 1, 2 * ETHER) == "ok"
    assert (cost(), gets()) == (4_000_000, 100_000)
    quotes.end_epoch(desk.state, 2)
    assert (now(desk), cost(), gets()) == (2 * ETHER, 4_000_000, 100_000)
    quotes.end_epoch(desk.state, 3)
    assert (cost(), gets()) == (1_000_000, 100_000)


def test_refusals_leave_everything_but_the_fee_as_it_was(silent):
    desk, host = Desk(silent), silent.keys[0]
    desk.earn(host, 60 * COIN)
    assert desk.do(silent.user, BuyCoins(10 * COIN, RICH)) == "ok"
    for key, message, code in (
        (silent.user, BuyCoins(COIN, RICH, TBTC), "no-quote"),
        (host, RedeemCoins(COIN, 0, TBTC), "no-quote"),
        (host, RedeemCoins(61 * COIN, 0, TBTC), "not-earned"),
        (silent.user, TransferAsset(b"o" * 20, RICH + 1, TBTC), "over-assets"),
        (silent.user, TransferAsset(b"o" * 20, 0, TBTC), "zero-amount"),
        (silent.user, TransferAsset(LIQUIDITY, 1, TBTC), "pool-address"),
    ):
        before = dict(desk.state.iterate(b""))
        assert desk.do(key, message) == code
        after = dict(desk.state.iterate(b""))
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert changed and all(name.startswith((b"accounts/", b"admission/")) for name in changed)
    line = next(line for line in build_pool_status(desk.state, host.address).assets if line.asset == TBTC)
    assert (line.quote, line.buy_quote, line.redeem_quote, line.worth) == (0, 0, 0, 0)


def test_limits_balances_and_dust_in_a_quoted_asset(desk, chain):
    poor, host = AccountKey.from_secret(b"p" * 32), chain.keys[0]
    assert desk.do(chain.user, m.Transfer(poor.address, COIN)) == "ok"
    assert desk.do(poor, BuyCoins(COIN, RICH, TBTC)) == "over-assets"
    assert desk.do(chain.user, BuyCoins(1_000 * COIN, 4_999, TBTC)) == "price-moved"
    assert desk.do(chain.user, BuyCoins(1_000 * COIN, 5_000, TBTC)) == "ok"
    assert desk.do(chain.user, TransferAsset(poor.address, 7, TBTC)) == "ok"
    assert (desk.units(poor, TBTC), desk.units(poor, TETH), desk.dollars(poor)) == (7, 0, 0)
    desk.earn(host, 10 * COIN)
    # Five micro-dollars buy a satoshi's worth at least, and bring none.
    assert desk.do(poor, BuyCoins(COIN // 1_000, 1, TBTC)) == "ok" and desk.units(poor, TBTC) == 6
    assert desk.do(host, RedeemCoins(COIN // 1_000, 0, TBTC)) == "dust"
    assert desk.do(host, RedeemCoins(COIN, 5, TBTC)) == "ok"


def test_the_whole_pool_is_paid_in_bitcoin_without_a_wrap(chain):
    desk = Desk(chain)
    left = liquidity.LIQUIDITY_POOL
    assert desk.do(chain.user, BuyCoins(left, 10**18, TBTC)) == "ok"
    paid = RICH - desk.units(chain.user, TBTC)
    assert paid == 60_000 * (2**10 - 1) * DOLLAR * 10**8 // QUOTES[TBTC]
    assert desk.do(chain.user, BuyCoins(TRANCHE, 10**18, TETH)) == "sold-out"


def test_an_asset_counts_for_coverage_at_the_quote_in_force():
    chain = PoolChain(params=change_pools(SHORT), weights=WEIGHTS)
    chain.block()
    desk = Desk(chain)
    desk.earn(chain.keys[0], 2_000 * COIN)
    assert desk.do(chain.user, BuyCoins(1_000 * COIN, RICH, TETH)) == "ok"
    assert build_pool_status(desk.state, b"u" * 20).coverage_ppm == 500_000
    assert vote(desk, 0, ETHER // 2) == vote(desk, 1, ETHER // 2) == "ok"
    assert build_pool_status(desk.state, b"u" * 20).coverage_ppm == 500_000
    quotes.end_epoch(desk.state, 0)
    assert build_pool_status(desk.state, b"u" * 20).coverage_ppm == 250_000
