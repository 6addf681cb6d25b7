"""What the page on money reads of a chain: one height at a time, once a height, never more than its share of a node's time."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

# The network of nodes without processes is shared with the tests of the ledger.
sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from chain_harness import PARAMS, Chain

from paceline.economy.supply import TOTAL_SUPPLY
from paceline.ledger.settlement import get_settlement
from paceline.node import economy_views
from paceline.node.api.keys import KeyRing
from paceline.node.chains.economy import build_reward
from paceline.node.economy_views import EconomyReader, show_coins, show_dollars
from paceline.node.gateway import DoorKeys, NodeGateway

EPOCH = 120


@pytest.fixture
def chain() -> Chain:
    """Founders with weight, one block after genesis."""
    found = Chain(params=msgspec.structs.replace(PARAMS, epoch_blocks=EPOCH, duty_window_blocks=8))
    found.tick()
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands; a reading may be made to take some seconds."""
    found = SimpleNamespace(seconds=0.0, reading=0.0)
    build = economy_views.build_economy_status

    def build_slowly(*arguments):
        found.seconds += found.reading
        return build(*arguments)

    monkeypatch.setattr(economy_views.time, "monotonic", lambda: found.seconds)
    monkeypatch.setattr(economy_views, "build_economy_status", build_slowly)
    return found


def settle_first_epoch(chain: Chain) -> None:
    chain.run_race([100] * 5)
    session = chain.open_session()
    for index in range(4):
        chain.answer(session, index)
    chain.run_until(lambda: chain.height == EPOCH)


def test_the_gateway_of_a_node_shows_its_own_chain(chain, tmp_path):
    context = SimpleNamespace(chain=SimpleNamespace(application=chain.application))
    gateway = NodeGateway(context, SimpleNamespace(), {}, b"u" * 20, DoorKeys((), KeyRing(tmp_path)))
    view = gateway.economy()
    assert sum(place.nicoin for place in view.economy.places) == TOTAL_SUPPLY
    assert {view.economy.height, view.governance.height, view.pool.height} == {chain.height}
    assert view.nodes == tuple(f"node-{number}" for number in range(1, 6))
    assert (view.settled, gateway.reward("node-1")) == (None, None)
    chain.tick()
    assert gateway.economy().economy.height == view.economy.height + 1


def test_before_the_first_block_nothing_is_placed():
    view = EconomyReader(Chain().application).read()
    assert (view.economy.height, view.settled, view.nodes) == (0, None, ())


def test_the_last_settlement_explains_every_node(chain):
    reader = EconomyReader(chain.application)
    assert reader.read().settled is None
    settle_first_epoch(chain)
    assert reader.read().settled == 0
    lines = get_settlement(chain.state, 0)
    assert lines is not None and any(line.earned for line in lines)
    for line in lines:
        assert reader.explain(line.name) == build_reward(chain.state, line.name, None)
    assert reader.explain("nobody") is None
    chain.tick()
    assert reader.read().settled == 0
    assert reader.explain("node-1") is not None


def test_a_height_is_read_once(chain, clock):
    reader = EconomyReader(chain.application)
    first = reader.read()
    assert reader.read() is first
    chain.tick()
    assert reader.read() is not first


def test_a_slow_reading_is_followed_by_a_rest(chain, clock):
    clock.reading = 0.5
    reader = EconomyReader(chain.application)
    first = reader.read()
    chain.tick()
    clock.seconds = 9.9
    assert reader.read() is first
    clock.seconds = 10.1
    assert reader.read().economy.height == chain.height


@pytest.mark.parametrize(
    ("nicoin", "word", "text"),
    [
        (0, "", "0 icon"),
        (999, "", "999 nicoin"),
        (1_234_567_000_000_001, "", "1,234,567.000000001 icon"),
        (10**18, "icon", "1,000,000,000 icon"),
        (1_500, "icon", "0.0000015 icon"),
    ],
)
def test_amounts_are_exact_and_in_groups(nicoin, word, text):
    assert show_coins(nicoin, word) == text


def test_test_dollars_carry_their_name():
    assert show_dollars(1_234_500_000) == "1,234.5 tUSD"
