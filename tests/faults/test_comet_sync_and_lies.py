"""A wiped node takes its state over; a lying Application and a double signer gain nothing and lose what they should."""

from __future__ import annotations

import base64
import time

import pytest
from comet_network import START_SECONDS, CometNetwork

from paceline.ledger import nodes
from paceline.ledger.application import Application
from paceline.store.state import SqliteStateStore

EVERYBODY = range(4)
HONEST = [0, 1, 2]
pytestmark = pytest.mark.long


@pytest.fixture
def network(tmp_path):
    with CometNetwork(tmp_path / "home", 4) as running:
        yield running


@pytest.mark.timeout(300)
def test_a_wiped_node_syncs_its_state_back(network):
    network.wait_heights(EVERYBODY, 32)
    network.kill(3)
    network.wipe(3)
    trusted = network.let_sync(3, of=0)
    network.transfer(1, 7)
    network.start(3)
    network.wait_progress(EVERYBODY, timeout_seconds=120)
    network.require_agreement(EVERYBODY)
    # It did not replay: the blocks before the snapshot are not there.
    assert network.ask(3, "block", height="2") is None
    assert network.ask(0, "block", height="2") is not None
    assert trusted > 10
    network.require_money(3)


@pytest.mark.timeout(300)
def test_a_lying_application_below_a_third_changes_nothing(network):
    network.kill(3)
    network.start(3, module="byzantine")
    network.transfer(0, 9)
    # Eight blocks hold at least one proposal of each validator.
    network.wait_progress(HONEST, blocks=8, timeout_seconds=150)
    network.require_agreement(HONEST)
    network.kill(3)
    network.require_money(0)


@pytest.mark.timeout(300)
def test_a_double_signer_loses_its_power_on_the_ledger(network, tmp_path):
    network.wait_heights(EVERYBODY, 3)
    # The twin votes against every block for which the original votes.
    network.start(3, module="byzantine", folder=network.copy_home(3, tmp_path / "twin"), slot=4)
    victim = network.home.load_consensus_key(network.names[3]).public_key
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and _has_power(network, victim):
        time.sleep(0.5)
    assert not _has_power(network, victim), "evidence of the double signature never reached the ledger"
    network.wait_progress(HONEST)
    network.require_agreement(HONEST)
    offences, powers = _find_power_changes(network, victim)
    taken = [height for height, power in powers if power == 0]
    assert taken and set(taken) <= set(offences), "a block that brings evidence takes the power, and no other does"
    network.kill(0)
    store = SqliteStateStore(network.home.node_path(network.names[0]) / "chain.sqlite", durable=False)
    try:
        state = Application(network.home.load_genesis(), store).read()
        node = nodes.NODES.get(state, network.home.load_key(network.names[3]).address)
        assert node is not None and (node.guilty, node.reputation) == (0, 0)
        # The loss lasts until the next Race, which may have ended meanwhile.
        _, powers = _find_power_changes(network, victim, at=1)
        assert node.voting_power == [power for height, power in powers if height <= state.height][-1]
    finally:
        store.close()


def _find_power_changes(network, consensus_key, at=0):
    """Heights of the double-sign events, and (height, power) of every change of a validator's power, in order."""
    offences, powers = [], []
    for height in range(1, network.height(at) + 1):
        found = network.ask(at, "block_results", height=str(height))
        if found is None:
            # The newest block, whose results are on their way.
            break
        kinds = [event["type"] for event in found["finalize_block_events"] or ()]
        if "double-sign" in kinds:
            offences.append(height)
        powers += [
            (height, int(update.get("power", 0)))
            for update in found["validator_updates"] or ()
            if base64.b64decode(update["pub_key"]["Sum"]["value"]["ed25519"]) == consensus_key
        ]
    return offences, powers


def _has_power(network, consensus_key):
    found = network.ask(0, "validators", per_page="100")
    keys = [base64.b64decode(entry["pub_key"]["value"]) for entry in (found or {"validators": []})["validators"]]
    return found is None or consensus_key in keys
