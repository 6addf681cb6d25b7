"""Seven real validators: two may fail, the third failure stops the chain, and nothing is lost when they come back."""

from __future__ import annotations

import pytest
from comet_network import CometNetwork

EVERYBODY = range(7)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with CometNetwork(tmp_path_factory.mktemp("comet-seven") / "home", 7) as running:
        yield running


@pytest.mark.timeout(280)
def test_two_dead_validators_stop_nobody_a_third_stops_all_and_they_recover(network):
    for index in (5, 6):
        network.kill(index)
    network.transfer(0, 3)
    network.wait_progress(range(5), blocks=4)
    network.kill(4)
    assert network.stands_still(range(4), 8)
    for index in (4, 5, 6):
        network.start(index)
    network.wait_progress(EVERYBODY, timeout_seconds=120)
    network.require_agreement(EVERYBODY)


@pytest.mark.timeout(280)
def test_a_cut_four_against_three_stops_the_chain_until_it_heals(network):
    network.links.cut(lambda a, b: (a < 4) != (b < 4))
    network.stands_still(EVERYBODY, 3)
    assert network.stands_still(EVERYBODY, 6)
    network.links.heal()
    network.wait_progress(EVERYBODY, timeout_seconds=120)
    network.require_agreement(EVERYBODY)
    network.require_money(0)
