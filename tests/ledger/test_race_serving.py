"""What serving during a Race costs, over the real search and the real ledger.

The bound: a node that gives the share s of a Race's time to requests finds at most the share s fewer hits, and loses at
most s/2 of its share of the hits from its share of the weight. Nothing is credited for serving, so nothing can be farmed.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import pytest
from chain_harness import Chain

from paceline.ledger import clock, race
from paceline.race.claim import SlicedSearch
from paceline.race.plan import PRESETS, RaceChallenge

CHALLENGE = RaceChallenge(PRESETS["micro"], b"s" * 32)
TICKS = 160
"""Length of the Race below; a batch of the search takes one."""
OTHERS = [1_000] * 4


def search(served):
    """Hits of a search that stands still for the first `served` ticks of every ten."""
    clock_ticks = [0]

    def pause():
        while clock_ticks[0] % 10 < served:
            clock_ticks[0] += 1

    def stop():
        over = clock_ticks[0] >= TICKS
        clock_ticks[0] += 1
        return over

    return list(SlicedSearch(CHALLENGE, b"k" * 32).run_slice(stop, lambda: None if not served else pause()))


@lru_cache
def play_two_races(*hits):
    """Everybody finds 1,000 hits in the first Race, and `hits` in the next."""
    chain = Chain()
    chain.run_race([1_000] * 5)
    chain.run_until(lambda: clock.compute_epoch(chain.params, chain.height) == 1, limit=chain.params.epoch_blocks)
    chain.run_race(list(hits))
    return chain


@pytest.mark.parametrize("served", [3, 6])
def test_a_search_that_makes_room_loses_at_most_the_share_of_time_that_it_gave(served):
    quiet, busy = search(0), search(served)
    assert busy == quiet[: len(busy)]
    lost = 1 - Fraction(len(busy), len(quiet))
    # Hits come by chance: four standard deviations of the smaller count on top of the share.
    assert lost <= Fraction(served, 10) + Fraction(4) / Fraction(len(busy)) ** Fraction(1, 2)
    assert lost > Fraction(served, 20)


@pytest.mark.parametrize(("percent", "hits", "weight"), [(0, 1_000, 1_000), (30, 700, 820), (100, 1, 400)])
def test_a_node_that_served_keeps_at_least_one_minus_half_of_the_share_it_gave(percent, hits, weight):
    chain = play_two_races(hits, *OTHERS)
    weights = [chain.node(index).weight for index in range(5)]
    assert weights[0] == weight
    kept = Fraction(weights[0], sum(weights)) / Fraction(1, 5)
    assert kept >= 1 - Fraction(percent, 200)
    assert race.get_race(chain.state).accepted_hits == 4_000 + hits


def test_voting_power_follows_the_carried_weight():
    chain = play_two_races(700, *OTHERS)
    power = chain.node(0).voting_power
    assert chain.params.power_total * 17 // 100 <= power < chain.params.power_total // 5


def test_founders_weights_are_never_carried_past_the_first_race():
    chain = Chain(weights=[100_000, 1, 1, 1, 1])
    chain.run_race([100, 200, 300, 200, 200])
    assert [chain.node(index).weight for index in range(5)] == [100, 200, 300, 200, 200]


def test_invalid_weight_of_a_node_that_did_not_race_is_not_carried():
    chain = play_two_races(None, *OTHERS)
    assert [chain.node(index).weight for index in range(5)] == [0, 1_000, 1_000, 1_000, 1_000]


def test_defence_off_without_carrying_the_whole_share_is_lost():
    """What the bound would be if weight followed one Race only."""
    chain = play_two_races(700, *OTHERS)
    alone = Fraction(700, 4_700) / Fraction(1, 5)
    kept = Fraction(chain.node(0).weight, sum(chain.node(index).weight for index in range(5))) / Fraction(1, 5)
    assert alone < 1 - Fraction(30, 200) <= kept
