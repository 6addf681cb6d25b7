"""Rates of test assets: bounds of quotes, and every rounding against who trades, at any quote."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import Invalid
from paceline.economy.liquidity import (
    FIRST_PRICE,
    TRANCHE,
    Pool,
    buy,
    compute_coverage_ppm,
    compute_last_price,
    compute_total_worth,
    get_balance,
    redeem,
)
from paceline.economy.quotes import (
    DOLLAR,
    LEAST_QUOTE,
    MOST_QUOTE,
    Rate,
    compute_payment,
    compute_payout,
    compute_worst,
    compute_worth,
    require_quote,
)
from paceline.protocol.assets import DIGITS, QUOTED, TBTC, TETH, TUSD
from paceline.protocol.params import NICOIN_PER_COIN

COIN = NICOIN_PER_COIN
ETHER = Rate(asset=TETH, quote=2_500 * 10**6)
BITCOIN = Rate(asset=TBTC, quote=100_000 * 10**6)
RATES = st.one_of(
    st.just(DOLLAR),
    st.builds(Rate, asset=st.sampled_from(QUOTED), quote=st.integers(LEAST_QUOTE, MOST_QUOTE)),
)


@pytest.mark.parametrize("quote", [0, -1, LEAST_QUOTE - 1, MOST_QUOTE + 1, 10**18])
def test_invalid_quotes(quote):
    with pytest.raises(Invalid, match="bad-quote"):
        require_quote(quote)


@pytest.mark.parametrize("quote", [ETHER.quote, BITCOIN.quote])
def test_a_quote_that_is_a_billion_times_wrong_is_none(quote):
    assert require_quote(quote) == quote
    for absurd in (quote * 10**9, quote // 10**9):
        with pytest.raises(Invalid, match="bad-quote"):
            require_quote(absurd)
    assert require_quote(LEAST_QUOTE) and require_quote(MOST_QUOTE)


def test_of_several_quotes_each_side_gets_the_worst():
    assert compute_worst((5, 7, 6)) == (5, 7)
    assert compute_worst((5, 5, 0)) == (5, 5)


def test_coins_are_paid_in_the_smallest_units_of_each_asset():
    for rate, amount in ((DOLLAR, 5_000_000), (ETHER, 2_000_000), (BITCOIN, 5_000)):
        trade = buy(Pool(), 1_000 * COIN, rate)
        assert (trade.asset, trade.dollars, trade.amount) == (rate.asset, 5_000_000, amount)
        assert get_balance(trade.pool, rate.asset) == amount
    # Five micro-dollars are less than a satoshi: one is paid.
    assert buy(Pool(), COIN // 1_000, BITCOIN).amount == 1
    assert redeem(Pool(sold=COIN, bitcoin=10), COIN // 1_000, BITCOIN).amount == 0


def test_dollars_go_out_before_any_other_asset():
    pool = buy(buy(Pool(), 10 * COIN).pool, 90 * COIN, ETHER).pool
    with pytest.raises(Invalid, match="dollars-first"):
        redeem(pool, 10 * COIN, ETHER)
    assert redeem(pool, 11 * COIN, ETHER).amount == 11 * FIRST_PRICE * 10**9 // ETHER.quote
    empty = redeem(pool, 10 * COIN).pool
    assert empty.balance == 0
    assert redeem(empty, COIN, ETHER).dollars == FIRST_PRICE
    with pytest.raises(Invalid, match="uncovered: the balance of tUSD pays for 0 nicoin"):
        redeem(empty, COIN)
    with pytest.raises(Invalid, match="uncovered: the balance of tBTC pays for 0 nicoin"):
        redeem(empty, COIN, BITCOIN)
    with pytest.raises(Invalid, match=f"uncovered: the balance of tETH pays for {90 * COIN} nicoin"):
        redeem(empty, 91 * COIN, ETHER)


def test_coverage_is_the_sum_at_the_rates():
    pool = buy(buy(Pool(), 100 * COIN).pool, 300 * COIN, ETHER).pool
    assert compute_total_worth(pool, (DOLLAR, ETHER, BITCOIN)) == 400 * FIRST_PRICE
    assert compute_coverage_ppm(pool, 800 * COIN, (DOLLAR, ETHER)) == 500_000
    assert compute_coverage_ppm(pool, 800 * COIN) == 125_000, "an asset without a rate counts nothing"
    halved = Rate(asset=TETH, quote=ETHER.quote // 2)
    assert compute_coverage_ppm(pool, 800 * COIN, (DOLLAR, halved)) == 312_500


@given(st.integers(1, 10**15), RATES)
def test_what_is_paid_is_worth_it_and_what_comes_out_is_not_more(dollars, rate):
    payment, payout = compute_payment(dollars, rate), compute_payout(dollars, rate)
    assert payment * rate.quote >= dollars * rate.whole > (payment - 1) * rate.quote
    assert payout * rate.quote <= dollars * rate.whole
    assert payout <= payment and compute_worth(payout, rate) <= dollars <= compute_worth(payment, rate)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2 * TRANCHE), RATES), max_size=30))
def test_every_asset_is_conserved_and_the_price_never_falls(trades):
    pool, held, coins = Pool(), dict.fromkeys(DIGITS, 0), 0
    for is_buy, amount, rate in trades:
        before, rest = compute_last_price(pool), {name: units for name, units in held.items() if name != rate.asset}
        try:
            trade = buy(pool, amount, rate) if is_buy else redeem(pool, min(amount, max(1, coins)), rate)
        except Invalid:
            continue
        pool = trade.pool
        held[rate.asset] += trade.amount if is_buy else -trade.amount
        coins += trade.coins if is_buy else -trade.coins
        assert trade.amount >= 0 and trade.asset == rate.asset
        assert compute_last_price(pool) >= before
        assert {name: get_balance(pool, name) for name in DIGITS} == held
        assert min(held.values()) >= 0 and all(held[name] == units for name, units in rest.items())
        assert pool.sold - pool.returned == coins


@given(st.integers(1, TRANCHE), RATES, RATES)
def test_a_round_trip_at_one_price_gains_nothing_whatever_the_assets(amount, bought, redeemed):
    pool = Pool(sold=TRANCHE // 2, balance=0, ether=10**18, bitcoin=10**18)
    paid = buy(pool, amount, bought) if amount <= TRANCHE // 2 else buy(pool, 1, bought)
    rich = Pool(sold=paid.pool.sold, balance=paid.pool.balance, ether=10**18, bitcoin=10**18)
    with contextlib.suppress(Invalid):
        # Refused where the dollars do, or no balance does, pay for it.
        back = redeem(rich, paid.coins, redeemed)
        assert back.amount * redeemed.quote * bought.whole <= paid.amount * bought.quote * redeemed.whole


def test_names_and_digits_are_those_of_the_assets():
    assert {TUSD: 6, TETH: 9, TBTC: 8} == DIGITS and QUOTED == (TETH, TBTC)
