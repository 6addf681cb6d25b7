"""Price votes on the ledger: the weighted median of an epoch's end, silence, leaving, and escrows that keep their price."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import MODEL, PARAMS, Chain
from channel_setup import Account

from paceline.base.keys import AccountKey
from paceline.economy.prices import MAX_PRICE
from paceline.ledger import clock, nodes, prices
from paceline.ledger.accounts import get_account
from paceline.ledger.model_registry import add_entry
from paceline.ledger.prices import get_token_price, get_unit_price, get_votes
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.tasks import TASKS
from paceline.protocol import messages as m
from paceline.protocol.channels import OpenChannel
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import Memory, ModelEntry

SHORT = msgspec.structs.replace(PARAMS, epoch_blocks=120)
UNIT = SHORT.unit_price


@pytest.fixture
def chain():
    return Chain(params=SHORT, weights=[40, 30, 20, 10, 0])


def vote(chain, index, price):
    chain.send(chain.keys[index], VotePrice(price))
    chain.block()


def end_epoch(chain, state=None):
    """The price that the votes of now make, on a state of its own."""
    state = state or chain.state
    prices.end_epoch(state, chain.params)
    return get_unit_price(state, chain.params)


def test_the_weighted_median_of_an_epochs_end_is_the_price_of_the_next(chain):
    for index, price in enumerate((5 * UNIT, 3 * UNIT, 2 * UNIT, 9 * UNIT)):
        vote(chain, index, price)
    while not clock.is_last(SHORT, chain.height + 1):
        chain.tick()
        assert get_unit_price(chain.state, SHORT) == UNIT
    chain.tick()
    # 20 vote for two, 30 for three: with them half of all weight is reached.
    assert get_unit_price(chain.state, SHORT) == 3 * UNIT


def test_who_never_voted_counts_with_the_last_price(chain):
    vote(chain, 1, 9 * UNIT)
    vote(chain, 2, 9 * UNIT)
    assert end_epoch(chain) == UNIT
    vote(chain, 3, 9 * UNIT)
    assert end_epoch(chain) == 9 * UNIT


def test_an_epoch_of_silence_keeps_the_price(chain):
    chain.tick()
    assert end_epoch(chain) == UNIT
    state = chain.state
    prices.PRICE.put(state, b"", 7 * UNIT)
    assert end_epoch(chain, state) == 7 * UNIT


def test_a_vote_stands_until_it_is_changed_and_goes_with_its_node(chain):
    for index in (0, 1):
        vote(chain, index, 4 * UNIT)
    state = chain.state
    assert [end_epoch(chain, state) for _ in range(3)] == [4 * UNIT] * 3
    vote(chain, 0, 2 * UNIT)
    assert get_votes(chain.state)[chain.keys[0].address] == 2 * UNIT
    state = chain.state
    nodes.NODES.delete(state, chain.keys[0].address)
    end_epoch(chain, state)
    assert list(get_votes(state)) == [chain.keys[1].address]


def test_weight_at_the_end_of_the_epoch_counts(chain):
    vote(chain, 0, 4 * UNIT)
    state = chain.state
    nodes.update_node(state, chain.keys[0].address, weight=100)
    assert end_epoch(chain, state) == 4 * UNIT
    nodes.update_node(state, chain.keys[0].address, weight=0)
    prices.PRICE.put(state, b"", UNIT)
    assert end_epoch(chain, state) == UNIT


@pytest.mark.parametrize("price", [0, MAX_PRICE + 1, UNIT * 10**9, 10**18])
def test_invalid_price_of_zero_or_a_billion_times_too_much(chain, price):
    chain.tick()
    before = get_votes(chain.state)
    assert chain.refuse(chain.keys[0], VotePrice(price)) == "bad-price"
    assert get_votes(chain.state) == before == {}


def test_invalid_vote_without_weight_twice_or_by_no_node(chain):
    chain.tick()
    assert chain.refuse(chain.keys[4], VotePrice(UNIT)) == "no-vote"
    vote(chain, 0, 2 * UNIT)
    assert chain.refuse(chain.keys[0], VotePrice(2 * UNIT)) == "already-voted"
    assert chain.refuse(AccountKey.from_secret(b"n" * 32), VotePrice(UNIT)) == "not-a-node"
    assert prices.PRICE.get(chain.state) is None
    with pytest.raises(prices.InvalidTransaction, match="only nodes with weight"):
        prices.apply_vote(chain.state, b"s" * 20, VotePrice(UNIT))


def test_a_session_and_a_channel_keep_the_price_of_their_opening(chain):
    session_id = chain.open_session()
    account = Account(chain)
    for index in (0, 1):
        vote(chain, index, 4 * UNIT)
    chain.run_until(lambda: get_unit_price(chain.state, SHORT) == 4 * UNIT)
    task_id, _ = chain.answer(session_id, 0)
    assert TASKS.get(chain.state, task_id).cost == 30 * UNIT
    assert account.record.token_price == UNIT
    assert SESSIONS.get(chain.state, chain.open_session()).token_price == 4 * UNIT
    assert Account(chain).record.token_price == 4 * UNIT
    small = m.OpenSession(chain.keys[0].address, MODEL, 4 * UNIT - 1)
    assert chain.refuse(chain.user, small) == "small-deposit"
    # Whoever saw the price before is not bound to the one after; nothing left its account.
    before = get_account(chain.state, chain.user.address)
    relay = chain.keys[0].address
    for opening in (
        m.OpenSession(relay, MODEL, 10**10, most_token_price=4 * UNIT - 1),
        OpenChannel(relay, MODEL, 10**10, 50, 4 * UNIT - 1),
    ):
        assert chain.refuse(chain.user, opening) == "price-moved"
    assert get_account(chain.state, chain.user.address) == before
    chain.send(chain.user, m.OpenSession(relay, MODEL, 10**10, most_token_price=4 * UNIT))


def test_a_token_costs_as_many_units_as_its_model_s_entry_says(chain):
    chain.tick()
    state = chain.state
    assert get_token_price(state, SHORT, MODEL) == UNIT
    entry = ModelEntry(
        name=MODEL,
        licence="apache-2.0",
        context_tokens=2_048,
        million_params=135,
        memory=(Memory("bf16", 300),),
        micro_units=2_500_000,
    )
    add_entry(state, entry)
    assert get_token_price(state, SHORT, MODEL) == UNIT * 5 // 2
    prices.PRICE.put(state, b"", 3)
    assert get_token_price(state, SHORT, MODEL) == 8


def test_a_third_of_the_weight_moves_no_price(chain):
    """The cartel of SPEC: whatever less than half of the weight votes, the price stays where the others are."""
    vote(chain, 0, MAX_PRICE)
    for index in (1, 2, 3):
        vote(chain, index, 2 * UNIT)
    assert end_epoch(chain) == 2 * UNIT
    # With more than half of it, nothing holds: the median is theirs.
    vote(chain, 2, MAX_PRICE)
    assert end_epoch(chain) == MAX_PRICE
