"""The share of checking follows the ledger's rates: all at first, the floor in the end, more where nodes come and go."""

from __future__ import annotations

import msgspec
import pytest

from paceline.lab.checking import Scene, simulate_checking
from paceline.ledger.check_rates import compute_reputation_rate_ppm
from paceline.protocol.params import TINY

SCENE = Scene(nodes=3, tasks=40, epochs=32)


@pytest.fixture(scope="module")
def shares():
    return list(simulate_checking(SCENE, TINY))


def test_everything_is_checked_at_first(shares):
    assert [share.checked for share in shares[:4]] == [1.0] * 4
    assert 0.05 < shares[0].compute <= 0.1


def test_rates_fall_toward_the_floor_and_never_below_it(shares):
    found = [share.checked for share in shares]
    assert found == sorted(found, reverse=True)
    floor = compute_reputation_rate_ppm(10_000, TINY) / 1e6
    assert floor < found[-1] < 0.07
    # Early in an epoch a node has little to lose, so its first tasks are checked more.
    many = list(simulate_checking(Scene(nodes=1, tasks=400, epochs=32), TINY))
    assert floor < many[-1].checked < found[-1]


def test_a_higher_floor_binds():
    params = msgspec.structs.replace(TINY, check_floor_ppm=200_000)
    assert list(simulate_checking(SCENE, params))[-1].checked >= 0.2


def test_nodes_that_come_and_go_are_checked_more(shares):
    restless = list(simulate_checking(Scene(nodes=6, tasks=40, epochs=32, turnover=0.2), TINY))
    assert restless[-1].checked > 2 * shares[-1].checked
    assert min(restless[-1].by_age) < 31


def test_the_same_scene_gives_the_same_numbers(shares):
    assert list(simulate_checking(SCENE, TINY)) == shares
