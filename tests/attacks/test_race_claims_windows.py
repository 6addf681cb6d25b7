"""A whole Race on the ledger with real hits: a padder among honest checkers, a censored block, a race out of time.

The padder of 10 % is caught in every one of the Races below (stated: more than 99.9999 %), and keeps its weight when
checkers do not recompute. Censoring the last block of the window costs the hits found since the block before; with one
claim only, it costs everything. A claim one height early or late is refused.
"""

from __future__ import annotations

import pytest
from chain_harness import Chain
from race_claims_chain import RealRace

from paceline.base.errors import InvalidTransaction
from paceline.ledger import race
from paceline.protocol import messages as m


def test_honest_racers_get_their_hits_as_weight():
    played = RealRace()
    assert played.play() == [len(played.hits[index]) for index in range(5)]


@pytest.mark.parametrize("padder", [0, 4])
def test_a_padder_of_ten_percent_is_caught_and_nobody_else(padder):
    played = RealRace(padder=padder)
    weights = played.play()
    assert weights == [0 if index == padder else len(played.hits[index]) for index in range(5)]
    assert [played.chain.node(index).guilty for index in range(5)] == [0 if i == padder else -1 for i in range(5)]


def test_defence_off_checkers_that_do_not_recompute_let_the_padder_win():
    """With nobody who reviews reports, either; `test_race_claims_lazy.py` shows the reviews."""
    played = RealRace(padder=4, lazy=range(5))
    honest = len(played.search(4))
    assert played.play()[4] > 1.09 * honest


def test_a_censored_block_costs_only_the_hits_since_the_block_before():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    close = race.get_race(chain.state).deadline
    found = 100
    while chain.height < close - 1:
        found += 10
        chain.send(chain.keys[0], m.CommitRace(0, bytes(32), found))
        chain.tick()
    # The last block leaves our claim of 10 more hits out.
    chain.tick()
    record = race.CLAIMS_TABLE.get(chain.state, chain.keys[0].address)
    assert record.count == found
    assert found / (found + 10) > 0.93


def test_defence_off_a_single_claim_in_the_censored_block_is_all_lost():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    close = race.get_race(chain.state).deadline
    chain.run_until(lambda: chain.height == close)
    assert race.CLAIMS_TABLE.get(chain.state, chain.keys[0].address) is None
    with pytest.raises(InvalidTransaction, match="wrong-phase"):
        chain.send(chain.keys[0], m.CommitRace(0, bytes(32), 200))


def test_invalid_claims_before_the_window_and_hits_before_the_seed():
    """Late start gains nothing either: there is no seed to search with before the window, and no claim before its part."""
    chain = Chain()
    while chain.phase() != race.RACING:
        assert race.get_race(chain.state) is None or race.get_race(chain.state).seed == b""
        chain.tick()
    while chain.phase() == race.RACING:
        with pytest.raises(InvalidTransaction, match="wrong-phase"):
            chain.send(chain.keys[0], m.CommitRace(0, bytes(32), 5))
        chain.tick()
    chain.send(chain.keys[0], m.CommitRace(0, bytes(32), 5))
