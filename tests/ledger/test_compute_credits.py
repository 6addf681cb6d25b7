"""Compute credits: paid ahead at one price, burnt by what they open, returned when nobody used them; every coin behind them counted."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import FUNDS, MODEL, PARAMS
from channel_setup import Account
from pool_chain import PoolChain

from paceline.economy.liquidity import FIRST_PRICE
from paceline.ledger import clock, compute_credits, prices
from paceline.ledger.accounts import CREDIT_ESCROW, get_account
from paceline.ledger.asset import get_dollars
from paceline.ledger.channel_records import CHANNELS, compute_channel_id
from paceline.ledger.compute_credits import CREDITS, Credit
from paceline.ledger.invariants import find_violations
from paceline.ledger.sessions import SESSIONS, compute_session_id
from paceline.ledger.tasks import TASKS
from paceline.ledger.training import RUNS, compute_run_id
from paceline.protocol import messages as m
from paceline.protocol.channels import OpenChannel
from paceline.protocol.credits import COINS, DOLLARS, BuyCredits, ReturnCredits, UseCredits
from paceline.protocol.openings import OpenRun, OpenSession

UNIT, MILLION = PARAMS.unit_price, 10**6
UNITS = 5_000 * MILLION
PAID = 5_000 * UNIT
ANY = 10**18
SHORT = msgspec.structs.replace(PARAMS, epoch_blocks=60, credit_epochs=2)


@pytest.fixture
def chain():
    found = PoolChain(params=SHORT)
    found.tick()
    return found


def buy(chain, units=UNITS, pays=COINS, most=ANY):
    chain.send(chain.user, BuyCredits(units, pays, most))
    chain.block()
    return CREDITS.get(chain.state, chain.user.address)


def dearer(chain, times=4):
    """The price of a unit, some epochs later."""
    state = chain.state
    prices.PRICE.put(state, b"", times * UNIT)
    return state


def balance(chain, address):
    return get_account(chain.state, address).balance


def test_credits_cost_the_epoch_s_price_and_their_coins_wait_in_a_pool(chain):
    before = balance(chain, chain.user.address)
    assert buy(chain) == Credit(micro_units=UNITS, nicoin=PAID, epoch=0)
    assert balance(chain, chain.user.address) == before - PAID - SHORT.transfer_fee
    assert balance(chain, CREDIT_ESCROW) == PAID
    # A part of a unit costs its part, rounded up.
    assert buy(chain, units=1).nicoin == PAID + 1


def test_they_are_bought_with_the_test_asset_through_the_pool(chain):
    dollars = get_dollars(chain.state, chain.user.address)
    found = buy(chain, pays=DOLLARS)
    assert (found.nicoin, balance(chain, CREDIT_ESCROW)) == (PAID, PAID)
    assert dollars - get_dollars(chain.state, chain.user.address) == PAID * FIRST_PRICE // 10**9
    assert balance(chain, chain.user.address) == FUNDS - SHORT.transfer_fee


def test_two_purchases_have_their_mean_price(chain):
    buy(chain)
    state = dearer(chain, times=3)
    compute_credits.apply_buy(state, SHORT, chain.user.address, BuyCredits(UNITS, COINS, ANY), 1)
    found = CREDITS.get(state, chain.user.address)
    assert (found.unit_price, found.epoch) == (2 * UNIT, 0)
    assert find_violations(state, SHORT) == []


def test_a_little_more_does_not_make_old_credits_young(chain):
    buy(chain)
    state = chain.state
    for epoch in range(1, 9):
        compute_credits.apply_buy(state, SHORT, chain.user.address, BuyCredits(1, COINS, ANY), epoch)
    assert CREDITS.get(state, chain.user.address).epoch == 0
    # As much again counts half.
    compute_credits.apply_buy(state, SHORT, chain.user.address, BuyCredits(UNITS, COINS, ANY), 9)
    assert CREDITS.get(state, chain.user.address).epoch == 4


def use(chain, opening):
    digest = chain.send(chain.user, UseCredits(opening))
    chain.tick()
    return digest


def test_a_session_opened_with_credits_keeps_their_price(chain):
    buy(chain)
    state = chain.state
    digest = use(chain, OpenSession(chain.keys[0].address, MODEL, PAID // 5))
    session_id = compute_session_id(chain.user.address, digest)
    left = CREDITS.get(chain.state, chain.user.address)
    assert (left.micro_units, left.nicoin) == (UNITS * 4 // 5, PAID * 4 // 5)
    chain.run_until(lambda: SESSIONS.get(chain.state, session_id).seed)
    task_id, _ = chain.answer(session_id, 0)
    assert TASKS.get(chain.state, task_id).cost == 30 * UNIT
    # What was bought at one price opens at that price when a unit costs four times as much.
    state = dearer(chain)
    data = chain.sign(chain.user, UseCredits(OpenSession(chain.keys[0].address, MODEL, PAID // 5)))
    assert chain.application.deliver(state, data).code == "ok"
    assert sorted(session.token_price for _, session in SESSIONS.items(state)) == [UNIT, UNIT]
    assert find_violations(state, SHORT) == []


def test_channels_and_runs_are_opened_with_credits(chain):
    buy(chain)
    channel = compute_channel_id(
        chain.user.address, use(chain, OpenChannel(chain.keys[0].address, MODEL, PAID // 5, 50))
    )
    assert CHANNELS.get(chain.state, channel).token_price == UNIT
    run = OpenRun(b"plan", bytes(32), bytes(32), 1, 1, 1, PAID // 5)
    run_id = compute_run_id(chain.user.address, use(chain, run))
    assert RUNS.get(chain.state, run_id).budget == PAID // 5
    assert CREDITS.get(chain.state, chain.user.address).nicoin == PAID * 3 // 5
    assert Account(chain).record.token_price == UNIT


def test_unused_credits_return_as_the_coins_that_were_paid(chain):
    buy(chain)
    before = balance(chain, chain.user.address)
    chain.send(chain.user, ReturnCredits())
    chain.block()
    assert balance(chain, chain.user.address) == before + PAID - SHORT.transfer_fee
    assert CREDITS.get(chain.state, chain.user.address) is None
    assert chain.refuse(chain.user, ReturnCredits()) == "no-credits"


def test_an_old_price_is_not_held_for_ever(chain):
    buy(chain)
    before = balance(chain, chain.user.address)
    last = clock.compute_last_height(SHORT, SHORT.credit_epochs)
    chain.run_until(lambda: chain.height >= last - 1, limit=400)
    assert CREDITS.get(chain.state, chain.user.address) is not None
    chain.tick()
    assert CREDITS.get(chain.state, chain.user.address) is None
    assert balance(chain, chain.user.address) == before + PAID


def test_the_last_use_leaves_nothing_behind(chain):
    """Units without a coin behind them end; coins without units go back."""
    state = chain.state
    owner = chain.user.address
    for credit, needed, back in (
        (Credit(micro_units=3, nicoin=10, epoch=0), 8, 2),
        (Credit(micro_units=7, nicoin=2, epoch=0), 2, 0),
    ):
        CREDITS.put(state, owner, credit)
        compute_credits.move_coins(state, owner, CREDIT_ESCROW, credit.nicoin)
        had = get_account(state, owner).balance
        compute_credits.take_for(state, owner, UseCredits(OpenSession(b"r" * 20, MODEL, needed)))
        assert CREDITS.get(state, owner) is None
        assert get_account(state, owner).balance == had + needed + back
        assert find_violations(state, SHORT) == []


def test_invalid_credits(chain):
    assert chain.refuse(chain.user, BuyCredits(0, COINS, ANY)) == "zero-amount"
    assert chain.refuse(chain.user, BuyCredits(UNITS, COINS, PAID - 1)) == "price-moved"
    assert chain.refuse(chain.user, BuyCredits(UNITS, DOLLARS, 1)) == "price-moved"
    assert chain.refuse(chain.user, BuyCredits(10**18, COINS, ANY)) == "over-balance"
    opening = OpenSession(chain.keys[0].address, MODEL, PAID + 1)
    assert chain.refuse(chain.user, UseCredits(opening)) == "over-credits"
    buy(chain)
    assert chain.refuse(chain.user, UseCredits(opening)) == "over-credits"
    # A refused opening burns nothing.
    unknown = OpenSession(b"x" * 20, MODEL, PAID)
    assert chain.refuse(chain.user, UseCredits(unknown)) == "unknown-relay"
    assert CREDITS.get(chain.state, chain.user.address).nicoin == PAID
    # Nobody spends another's.
    assert chain.refuse(chain.keys[1], UseCredits(OpenSession(chain.keys[0].address, MODEL, 1))) == "over-balance"
    chain.send(chain.user, m.Transfer(chain.keys[1].address, 10**9))
    chain.block()
    assert chain.refuse(chain.keys[1], UseCredits(OpenSession(chain.keys[0].address, MODEL, 1))) == "over-credits"
