"""Four real validators: crashes, pauses, partitions, a restart of all. Safe always, live while over two thirds can talk."""

from __future__ import annotations

import time

import psutil
import pytest
from comet_network import CometNetwork

EVERYBODY = range(4)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with CometNetwork(tmp_path_factory.mktemp("comet") / "home", 4) as running:
        yield running


@pytest.mark.timeout(240)
def test_kill_9_of_one_stops_nobody_and_it_catches_up(network):
    network.kill(3)
    network.transfer(0, 5)
    network.wait_progress([0, 1, 2])
    network.start(3)
    network.wait_heights([3], network.height(0))
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(240)
def test_an_engine_ends_with_its_node_and_both_come_back(network):
    engines = network.kill_node_only(2)
    assert engines, "the engine is a child of the node"
    _, alive = psutil.wait_procs(engines, timeout=20)
    assert not alive, "an engine outlived its application"
    network.start(2)
    network.wait_progress(EVERYBODY)
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(240)
def test_a_pause_of_30_seconds_is_slept_through(network):
    network.pause(1)
    resumes_at = time.monotonic() + 30
    network.wait_progress([0, 2, 3], blocks=8)
    time.sleep(max(0.0, resumes_at - time.monotonic()))
    network.resume(1)
    network.wait_heights([1], network.height(0))
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(240)
def test_a_cut_two_against_two_stops_the_chain_and_healing_starts_it(network):
    network.links.cut(lambda a, b: (a < 2) != (b < 2))
    # A block that both halves had already voted for may still be committed.
    time.sleep(3)
    assert network.stands_still(EVERYBODY, 6)
    network.links.heal()
    network.wait_progress(EVERYBODY)
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(240)
def test_a_cut_three_against_one_stops_only_the_one(network):
    network.links.cut(lambda _a, b: b == 3)
    time.sleep(2)
    left_at = network.height(3)
    network.transfer(1, 6)
    network.wait_progress([0, 1, 2], blocks=6)
    assert network.height(3) <= left_at + 1
    network.links.heal()
    network.wait_heights([3], network.height(0))
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(240)
def test_a_restart_of_all_goes_on_where_it_was(network):
    before = network.height(0)
    for index in EVERYBODY:
        network.kill(index)
    for index in EVERYBODY:
        network.start(index)
    network.wait_heights(EVERYBODY, before + 3)
    network.require_agreement(EVERYBODY)
    for index in EVERYBODY:
        network.require_money(index)
