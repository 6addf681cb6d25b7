"""The pool: tranches in order, a price that never falls, both sides conserved, no gain by trading in turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import Invalid
from paceline.economy.liquidity import (
    FIRST_PRICE,
    TRANCHE,
    TRANCHES,
    Pool,
    buy,
    compute_coverage_ppm,
    compute_last_price,
    get_price,
    redeem,
)
from paceline.economy.supply import LIQUIDITY_POOL
from paceline.protocol.params import NICOIN_PER_COIN

COIN = NICOIN_PER_COIN


def test_a_tranche_is_sold_out_before_the_next_opens():
    first = buy(Pool(), TRANCHE)
    assert first.dollars == 60_000 * 1_000_000
    assert compute_last_price(first.pool) == FIRST_PRICE and get_price(first.pool) == 2 * FIRST_PRICE
    assert compute_last_price(buy(first.pool, 1).pool) == 2 * FIRST_PRICE
    across = buy(Pool(sold=TRANCHE - COIN), 2 * COIN)
    assert across.dollars == FIRST_PRICE + 2 * FIRST_PRICE


def test_all_of_it_can_be_bought_and_no_more():
    trade = buy(Pool(), LIQUIDITY_POOL)
    assert trade.dollars == 60_000 * 1_000_000 * (2**TRANCHES - 1)
    assert get_price(trade.pool) == FIRST_PRICE << (TRANCHES - 1)
    with pytest.raises(Invalid, match="sold-out"):
        buy(trade.pool, 1)
    with pytest.raises(Invalid, match="sold-out"):
        buy(Pool(), LIQUIDITY_POOL + 1)


def test_redeemed_coins_are_sold_again_first_and_at_the_last_price():
    sold = buy(Pool(), 3 * COIN).pool
    back = redeem(sold, COIN)
    assert back.dollars == FIRST_PRICE and back.pool == Pool(sold=3 * COIN, returned=COIN, balance=2 * FIRST_PRICE)
    again = buy(back.pool, COIN)
    assert again.dollars == FIRST_PRICE and again.pool == sold


def test_invalid_redemptions():
    with pytest.raises(Invalid, match="never-sold"):
        redeem(Pool(), COIN)
    sold = buy(Pool(), TRANCHE + COIN).pool
    most = sold.balance * COIN // compute_last_price(sold)
    assert redeem(sold, most).pool.balance >= 0
    with pytest.raises(Invalid, match="uncovered"):
        redeem(sold, most + COIN)


@pytest.mark.parametrize("trade", [buy, redeem])
@pytest.mark.parametrize("amount", [0, -1])
def test_invalid_amounts(trade, amount):
    with pytest.raises(Invalid, match="bad-amount"):
        trade(Pool(sold=COIN, balance=10**9), amount)


def test_coverage_is_shown():
    sold = buy(Pool(), 4 * COIN).pool
    assert compute_coverage_ppm(sold, 4 * COIN) == 1_000_000
    assert compute_coverage_ppm(sold, 8 * COIN) == 500_000
    assert compute_coverage_ppm(Pool(), COIN) == 1_000_000


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2 * TRANCHE)), max_size=30))
def test_both_sides_are_conserved_and_the_price_never_falls(trades):
    pool, dollars, coins = Pool(), 0, 0
    for is_buy, amount in trades:
        before = get_price(pool), compute_last_price(pool)
        try:
            trade = buy(pool, amount) if is_buy else redeem(pool, min(amount, max(1, coins)))
        except Invalid:
            continue
        pool = trade.pool
        dollars += trade.dollars if is_buy else -trade.dollars
        coins += trade.coins if is_buy else -trade.coins
        assert (get_price(pool), compute_last_price(pool)) >= before
        assert pool.balance == dollars >= 0
        assert pool.sold - pool.returned == coins


@given(st.integers(1, TRANCHE), st.integers(0, LIQUIDITY_POOL - 2 * TRANCHE))
def test_buying_to_redeem_at_once_never_gains(amount, sold):
    bought = buy(Pool(sold=sold, balance=10**18), amount)
    last = compute_last_price(Pool(sold=sold)) or FIRST_PRICE
    if compute_last_price(bought.pool) == last:
        assert redeem(bought.pool, amount).dollars <= bought.dollars
