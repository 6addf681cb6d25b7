"""What people are shown of the economy: every coin by place, prices with votes, rewards explained with their own numbers."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import MODEL, PARAMS, Chain

from paceline.base.errors import ConfigError
from paceline.base.integers import PPM
from paceline.cli import economy as command
from paceline.economy.supply import CORE_RESERVE, TOTAL_SUPPLY
from paceline.ledger import nodes
from paceline.ledger.model_registry import add_entry
from paceline.ledger.settlement import get_settlement, settle_epoch
from paceline.ledger.tasks import OPEN_TASKS
from paceline.node.chains.economy import RewardLine, build_economy_status, build_price_status, build_reward
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import Memory, ModelEntry

UNIT = PARAMS.unit_price


@pytest.fixture(scope="module")
def chain():
    """Five nodes after a Race with some paid answers; two of them have voted on the price."""
    found = Chain()
    found.run_race([100] * 5)
    session_id = found.open_session()
    for index in range(8):
        found.answer(session_id, index)
    for index, price in enumerate((3 * UNIT, 5 * UNIT)):
        found.send(found.keys[index], VotePrice(price))
    found.run_until(lambda: not OPEN_TASKS.items(found.state))
    return found


@pytest.fixture
def settled(chain):
    """A state of its own after the settlement of the first epoch."""
    state = chain.state
    settle_epoch(state, chain.params, 0)
    return state


def test_every_coin_is_in_one_place(chain, settled):
    for state in (chain.state, settled):
        found = build_economy_status(state, chain.params)
        assert sum(place.nicoin for place in found.places) == found.supply == TOTAL_SUPPLY
    places = {place.name: place for place in build_economy_status(settled, chain.params).places}
    assert places["vesting pay"].nicoin == sum(node.vesting for _, node in nodes.NODES.items(settled)) > 0
    assert places["top hosts"].share_ppm == 120_000
    assert places["other accounts"].nicoin > 0


def test_issuance_says_what_is_issued_and_left(chain, settled):
    found = build_economy_status(settled, chain.params).issuance
    assert (found.batch, found.batches, found.subsidy_ppm) == (1, 12, 900_000)
    assert found.issued == found.floor > 0
    assert found.issued + found.left_in_batch == CORE_RESERVE // 12


def test_prices_show_votes_silence_and_what_comes_next(chain):
    found = build_price_status(chain.state, chain.params)
    assert (found.unit_price, found.next_price) == (UNIT, UNIT)
    assert sorted(vote.price for vote in found.votes) == [0, 0, 0, 3 * UNIT, 5 * UNIT]
    assert sum(vote.weight_ppm for vote in found.votes) == PPM
    [model] = found.models
    assert (model.model, model.token_price, model.listed, model.hosts) == (MODEL, UNIT, False, 5)


def test_a_listed_model_is_shown_with_its_units(chain):
    state = chain.state
    memory = (Memory("bf16", 300),)
    for name, units in ((MODEL, 500_000), ("unserved", 7 * PPM)):
        entry = ModelEntry(
            name=name, licence="mit", context_tokens=1, million_params=1, memory=memory, micro_units=units
        )
        add_entry(state, entry)
    models = build_price_status(state, chain.params).models
    assert [(m.model, m.token_price, m.listed, m.hosts) for m in models] == [
        (MODEL, UNIT // 2, True, 5),
        ("unserved", 7 * UNIT, True, 0),
    ]


def test_a_reward_is_explained_by_the_numbers_of_its_settlement(chain, settled):
    lines = {line.name: line for line in get_settlement(settled, 0)}
    for name, line in lines.items():
        found = build_reward(settled, name, None)
        assert (found.epoch, found.still_vesting) == (0, line.vesting)
        assert found.released + found.issued + found.besides == line.earned
        told = "\n".join(command._describe_reward(found))
        criteria, reward = line.reward.criteria, line.reward
        assert f"{criteria.share_ppm / 10_000:5.1f} %" in told
        assert f"judged {reward.conduct.fulfilled} of {reward.conduct.duties} drawn checks" in told
        assert f"answered {max(0, reward.conduct.answered)} of {reward.conduct.drawn} drawn tasks" in told


@pytest.mark.parametrize(("fact", "told"), [({"guilty": 0}, "found a result false"), ({"fooled": 1}, "forced errors")])
def test_a_forfeit_is_explained(chain, fact, told):
    state = chain.state
    address = max(nodes.NODES.items(state), key=lambda item: item[1].tasks)[0]
    nodes.update_node(state, address, **fact)
    settle_epoch(state, chain.params, 0)
    found = build_reward(state, nodes.NODES.get(state, address).name, 0)
    text = "\n".join(command._describe_reward(found))
    assert told in text and "  lost " in text and "together     0.0 %" in text


def test_invalid_questions_name_what_there_is(chain, settled):
    with pytest.raises(ConfigError, match=r"node-9: no node of this name; the network has node-1"):
        build_reward(settled, "node-9", None)
    with pytest.raises(ConfigError, match=r"epoch 7 is not kept: the ledger keeps 8, now \[0\]"):
        build_reward(settled, "node-1", 7)
    with pytest.raises(ConfigError, match="no epoch is settled yet"):
        build_reward(chain.state, "node-1", None)
    state = settled
    address = nodes.find_address(state, "node-1")
    node = nodes.NODES.get(state, address)
    nodes.NODES.put(state, b"n" * 20, msgspec.structs.replace(node, name="newcomer"))
    nodes.NAMES.put(state, b"newcomer", b"n" * 20)
    with pytest.raises(ConfigError, match="newcomer was no node when epoch 0"):
        build_reward(state, "newcomer", None)


def test_lines_for_people_hold_the_numbers(chain, settled):
    text = "\n".join(command._describe_prices(build_price_status(chain.state, chain.params)))
    assert "price   1 micoin a unit of compute" in text
    assert "node-1 (20.00 % of weight): 3 micoin" in text
    assert "never voted" in text and f"model   {MODEL}: 1 micoin a token" in text
    text = "\n".join(command._describe_economy(build_economy_status(settled, chain.params)))
    assert "batch 1 of 12, subsidy 90.00 %" in text
    assert "1000000000 icon" in text
    assert isinstance(build_reward(settled, "node-2", 0), RewardLine)
