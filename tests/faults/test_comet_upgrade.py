"""Four real validators agree on an upgrade: whoever lacks it ends before its height, whoever has it goes on alike."""

from __future__ import annotations

import pytest
from comet_network import CometNetwork

from paceline.ledger import upgrades
from paceline.ledger.application import Application
from paceline.node.exits import UPGRADE_CODE
from paceline.protocol import messages as m
from paceline.store.state import SqliteStateStore

EVERYBODY = range(4)
MARK = b"test/upgraded-at"
END_SECONDS = 120.0
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with CometNetwork(tmp_path_factory.mktemp("comet") / "home", 4) as running:
        yield running


def vote(network, name):
    """Everybody whose vote is needed, since Races move weights between them; returns the height that they agree on."""
    params = network.home.load_genesis().params
    height = upgrades.compute_earliest(params, network.height(0) + 20)
    for index in EVERYBODY:
        network.send(index, network.home.load_key(network.names[index]), m.PlanUpgrade(name, height))
        # Two blocks, so that a plan which stands already refuses nobody's vote.
        network.wait_progress(EVERYBODY, blocks=2)
        if f"upgrade-planned {{'name': '{name}'" in network.read_log(0):
            return height
    raise AssertionError(f"{name} was not planned")


def read(network, index):
    """Height, plan, done upgrades and the handler's mark in a stopped node's store."""
    store = SqliteStateStore(network.home.node_path(network.names[index]) / "chain.sqlite", durable=False)
    try:
        state = Application(network.home.load_genesis(), store).read()
        return store.height, upgrades.PLAN.get(state), upgrades.DONE.items(state), store.get(MARK)
    finally:
        store.close()


def last_line(network, index):
    return (network.home.node_path(network.names[index]) / "node.log").read_text().strip().splitlines()[-1]


def require_stop(network, index, name, height):
    assert network.wait_end(index, END_SECONDS) == UPGRADE_CODE
    assert last_line(network, index).startswith(f"paceline: upgrade {name} begins at height {height} ")


@pytest.mark.timeout(420)
def test_all_stop_before_the_height_and_go_on_with_the_handler(network, monkeypatch):
    height = vote(network, "v2")
    for index in EVERYBODY:
        require_stop(network, index, "v2", height)
        assert read(network, index) == (height - 1, upgrades.Plan("v2", height), [], None)
    network.start(0)
    require_stop(network, 0, "v2", height)
    assert read(network, 0)[0] == height - 1
    monkeypatch.setenv("UPGRADES", "v2")
    for index in EVERYBODY:
        network.start(index, module="upgraded")
    network.wait_heights(EVERYBODY, height + 3)
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(420)
def test_one_without_the_handler_stops_while_the_others_go_on(network, monkeypatch):
    height = vote(network, "v3")
    monkeypatch.setenv("UPGRADES", "v2,v3")
    for index in (0, 1, 2):
        network.kill(index)
        network.start(index, module="upgraded")
    require_stop(network, 3, "v3", height)
    assert read(network, 3)[0] == height - 1
    network.wait_heights([0, 1, 2], height + 3)
    network.start(3, module="upgraded")
    network.wait_heights([3], height + 3)
    network.require_agreement(EVERYBODY)
    found = []
    for index in EVERYBODY:
        network.kill(index)
        found.append(read(network, index)[1:])
    done = [(b"v2", found[0][1][0][1]), (b"v3", height)]
    assert found == [(None, done, height.to_bytes(8, "big"))] * 4
