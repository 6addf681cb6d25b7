"""Attacks on the quotes of the liquidity pool: trading on a known change, moving a quote, crossing from one asset to another.

Power: whoever trades with any mix of assets at one price of the coin gains nothing, valued at the last, this or the coming quote; at the quote in force alone,
a fall to half that votes show doubles what an attacker's ether buys. Less than half of the weight moves no quote; half of it that
holds a false one for a whole epoch more does, up to the bounds. What nobody voted yet is not known: the markets outside may be ahead.
"""

from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest
from chain_harness import PARAMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_chain import COIN, QUOTES, Desk, PoolChain

from paceline.economy.liquidity import FIRST_PRICE, TRANCHE
from paceline.economy.quotes import MOST_QUOTE
from paceline.ledger import bridge, liquidity, quotes
from paceline.ledger.invariants import find_violations
from paceline.protocol.assets import DIGITS, QUOTED, TETH, TUSD
from paceline.protocol.messages import Transfer
from paceline.protocol.params import BridgeParams
from paceline.protocol.pools import BuyCoins, RedeemCoins, VoteQuote

PRICE = FIRST_PRICE
ANY = 10**18
ETHER = QUOTES[TETH]
EARNED = 500 * COIN
SHORT = msgspec.structs.replace(PARAMS, epoch_blocks=120, blocks_per_day=1_200)
WEIGHTS = [40, 30, 20, 10, 10]


@pytest.fixture(scope="module")
def chain():
    found = PoolChain(params=SHORT, weights=WEIGHTS)
    found.block()
    return found


@pytest.fixture
def desk(chain):
    """A pool with dollars and ether; the attacker is a host with earned coins."""
    return make_desk(chain)


def make_desk(chain):
    found = Desk(chain)
    found.earn(chain.keys[4], EARNED)
    assert found.do(chain.user, BuyCoins(1_000 * COIN, ANY)) == "ok"
    assert found.do(chain.user, BuyCoins(1_000 * COIN, ANY, TETH)) == "ok"
    return found


def vote(desk, indices, quote, asset=TETH):
    for index in indices:
        assert desk.do(desk.chain.keys[index], VoteQuote(asset, quote)) in {"ok", "already-voted"}


def compute_worth(desk, key, values):
    """Micro-dollars, exactly: all assets at these values a whole one, coins at the price of the first tranche; fees given back."""
    held = sum(Fraction(desk.units(key, asset) * values[asset], 10**digits) for asset, digits in DIGITS.items())
    return held + Fraction(desk.coins(key) * PRICE, COIN)


def take_quote_in_force(monkeypatch):
    monkeypatch.setattr(quotes, "compute_worst", lambda found: (found[0], found[0]))


def cross(desk):
    """Buy with ether, redeem as many earned coins for dollars; codes."""
    thief, coins = desk.chain.keys[4], 100 * COIN
    return desk.do(thief, BuyCoins(coins, ANY, TETH)), desk.do(thief, RedeemCoins(coins, 0))


def test_a_fall_that_votes_show_is_no_chance_to_cross_from_ether_to_dollars(desk, monkeypatch):
    vote(desk, (0, 1), ETHER // 2)
    thief, start = desk.chain.keys[4], desk.state
    later = {TUSD: 10**6, **QUOTES, TETH: ETHER // 2}
    fees = Fraction(2 * SHORT.transfer_fee * PRICE, COIN)

    def gain():
        desk.state = start.branch()
        before = compute_worth(desk, thief, later)
        assert cross(desk) == ("ok", "ok")
        return compute_worth(desk, thief, later) + fees - before

    assert gain() <= 0
    # The defence off: half of what the coins cost.
    take_quote_in_force(monkeypatch)
    assert gain() == 50 * PRICE


def test_a_quote_that_half_of_the_weight_lifts_for_one_epoch_buys_nothing(desk, monkeypatch):
    vote(desk, (0, 1), MOST_QUOTE)
    quotes.end_epoch(desk.state, 0)
    thief, start = desk.chain.keys[4], desk.state

    def pay():
        desk.state = start.branch()
        before = desk.units(thief, TETH)
        assert desk.do(thief, BuyCoins(100 * COIN, ANY, TETH)) == "ok"
        return before - desk.units(thief, TETH)

    assert quotes.get_quote(start, TETH).now == MOST_QUOTE
    honest = 100 * PRICE * 10**9 // ETHER
    assert pay() == honest
    # They vote back before the epoch ends: no later epoch has the lift in force.
    lifted, desk.state = start, start.branch()
    vote(desk, (0, 1), ETHER)
    quotes.end_epoch(desk.state, 1)
    start = desk.state
    assert pay() == honest
    # The defence off: four thousand times less in the epoch of the lift.
    start = lifted
    take_quote_in_force(monkeypatch)
    assert pay() == 100 * PRICE * 10**9 // MOST_QUOTE


def test_half_of_the_weight_that_holds_a_false_quote_pays_less_up_to_the_bound(desk, monkeypatch):
    """What the worst of three does not stop, and where it ends: at the bound of quotes."""
    vote(desk, (0, 1), MOST_QUOTE)
    for epoch in range(2):
        quotes.end_epoch(desk.state, epoch)
    thief = desk.chain.keys[4]
    before = desk.units(thief, TETH)
    assert desk.do(thief, BuyCoins(100 * COIN, ANY, TETH)) == "ok"
    assert before - desk.units(thief, TETH) == 100 * PRICE * 10**9 // MOST_QUOTE == 50


def test_less_than_half_of_the_weight_moves_no_quote(desk):
    vote(desk, (0, 3), MOST_QUOTE)
    assert quotes.compute_coming(desk.state, TETH) == ETHER
    vote(desk, (4,), MOST_QUOTE)
    assert quotes.compute_coming(desk.state, TETH) == MOST_QUOTE, "sixty of a hundred and ten"


def test_coins_bought_with_ether_are_not_redeemed_at_a_higher_price(desk, monkeypatch):
    buyer = desk.chain.keys[3]
    assert desk.do(desk.chain.user, Transfer(buyer.address, COIN)) == "ok"
    start = desk.state

    def play(asset):
        desk.state = start.branch()
        before = compute_worth(desk, buyer, {TUSD: 10**6, **QUOTES})
        coins = 100 * COIN
        assert desk.do(desk.chain.user, BuyCoins(COIN, ANY)) == "ok"
        assert desk.do(buyer, BuyCoins(coins, ANY, TETH)) == "ok"
        assert desk.do(desk.chain.user, BuyCoins(TRANCHE, ANY)) == "ok"
        code = desk.do(buyer, RedeemCoins(coins - COIN, 0, asset))
        return code, compute_worth(desk, buyer, {TUSD: 10**6, **QUOTES}) - before

    for asset in DIGITS:
        assert play(asset)[0] == "not-earned"
    # The defence off: what was bought counts as earned, and the price has doubled.
    monkeypatch.setattr(liquidity, "use_redeemable", lambda *_: None)
    code, gain = play(TUSD)
    assert code == "ok" and gain > 90 * PRICE


def test_a_stale_quote_pays_no_ether_while_the_dollars_last(desk):
    """The markets outside know that ether is worth ten times its quote; no vote says so yet."""
    thief = desk.chain.keys[4]
    outside = {TUSD: 10**6, **QUOTES, TETH: 10 * ETHER}
    before = compute_worth(desk, thief, outside)
    assert desk.do(thief, RedeemCoins(100 * COIN, 0, TETH)) == "dollars-first"
    assert desk.do(thief, RedeemCoins(100 * COIN, 0)) == "ok"
    assert compute_worth(desk, thief, outside) <= before
    # The defence off, as where the dollars are gone: ten times what the coins are worth.
    spent = Desk(desk.chain)
    spent.earn(thief, EARNED)
    assert spent.do(spent.chain.user, BuyCoins(1_000 * COIN, ANY, TETH)) == "ok"
    before = compute_worth(spent, thief, outside)
    assert spent.do(thief, RedeemCoins(100 * COIN, 0, TETH)) == "ok"
    assert compute_worth(spent, thief, outside) - before > 890 * PRICE


TRADES = st.lists(
    st.tuples(st.booleans(), st.integers(COIN // 1_000, 60 * COIN), st.sampled_from([*DIGITS])), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trades=TRADES, history=st.lists(st.integers(10**6, MOST_QUOTE), max_size=3), asset=st.sampled_from(QUOTED))
def test_no_mix_of_assets_gains_at_any_of_the_three_quotes(chain, trades, history, asset):
    """The honest majority votes as it likes; the attacker trades after each of its words."""
    desk, thief = make_desk(chain), chain.keys[4]
    fees = Fraction(SHORT.transfer_fee * PRICE, COIN)
    for epoch, quote in enumerate([ETHER, *history]):
        vote(desk, (0, 1, 2), quote, asset)
        known = quotes.get_quote(desk.state, asset)
        values = [{TUSD: 10**6, **QUOTES, asset: number} for number in (known.former, known.now, quote)]
        for is_buy, coins, paid in trades:
            before = [compute_worth(desk, thief, value) for value in values]
            desk.do(thief, BuyCoins(coins, ANY, paid) if is_buy else RedeemCoins(coins, 0, paid))
            after = [compute_worth(desk, thief, value) + fees for value in values]
            assert all(now <= then for now, then in zip(after, before, strict=True))
        quotes.end_epoch(desk.state, epoch)
    assert find_violations(desk.state, SHORT) == []


def test_behind_a_bridge_no_asset_comes_out_of_nothing_to_buy_dollars(chain):
    params = msgspec.structs.replace(SHORT, bridge=BridgeParams(chain=1, contract=b"c" * 20))
    genesis = msgspec.structs.replace(chain.genesis, params=params, test_dollars=())
    with pytest.raises(bridge.InvalidTransaction, match="bad-genesis"):
        bridge.apply_genesis(genesis)
    bridge.apply_genesis(msgspec.structs.replace(genesis, test_assets=()))
