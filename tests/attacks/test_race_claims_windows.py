"""A whole Race on the ledger with real hits: a padder among honest checkers, a censored block, a race out of time.

The padder of 10 % is caught in every one of the Races below (stated: more than 99.9999 %), and keeps its weight when
checkers do not recompute. Censoring the last block of the window costs the hits found since the block before; with one
claim only, it costs everything. A claim one height early or late is refused.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from race_claims_setup import search_all

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import race, race_checks, race_claims
from paceline.protocol import messages as m
from paceline.race.claim import build_claim
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.verification.races import Duty, examine_duty, judge_hit

NONCES = 2_000
SMALL = msgspec.structs.replace(PARAMS, race=msgspec.structs.replace(PARAMS.race, preset="micro"))


class RealRace:
    """Nodes that search, check and judge with the real function."""

    def __init__(self, *, padder=None, fake_percent=10, lazy=False):
        self.chain = Chain(params=SMALL)
        self.lazy = lazy if isinstance(lazy, tuple) else (range(5) if lazy else ())
        chain = self.chain
        chain.run_until(lambda: chain.phase() == race.CLAIMS)
        self.challenge = RaceChallenge(PRESETS["micro"], race.get_race(chain.state).seed)
        self.hits = {index: self.search(index) for index in range(5)}
        if padder is not None:
            self.hits[padder] = self.pad(self.hits[padder], fake_percent)
        self.trees = {index: build_claim(hits) for index, hits in self.hits.items()}

    def search(self, index):
        answers = search_all(self.challenge, self.chain.keys[index].public_key, range(NONCES))
        return [number for number, hit in enumerate(answers) if hit]

    def pad(self, hits, percent):
        real = set(hits)
        invented = [number for number in range(NONCES) if number not in real]
        return sorted([*hits, *invented[:: len(invented) // (len(hits) * percent // (100 - percent) + 1)]])

    def play(self):
        chain = self.chain
        chain.claim_all(self.trees)
        chain.run_until(lambda: chain.phase() == race.OPENINGS)
        for index, tree in self.trees.items():
            chain.send(chain.keys[index], chain.open_race(index, tree))
        chain.run_until(lambda: chain.phase() == race.CHECKS)
        for prover, record in race_claims.get_open_claims(chain.state):
            for key in chain.keys:
                if key.address in record.checkers:
                    chain.send(key, self.check(prover, key))
        chain.run_until(lambda: chain.phase() == race.VERDICTS)
        found = race_checks.get_accusations(chain.state)
        assert all(self.judge(prover, position).outcome == m.REJECTED for prover, position, _ in found)
        chain.judge_accusations(m.REJECTED)
        chain.run_until(lambda: chain.phase() == race.DONE)
        return [chain.node(index).weight for index in range(5)]

    def check(self, prover, key):
        chain = self.chain
        current = race.get_race(chain.state)
        own = race_claims.get_own_positions(chain.state, chain.params, current, prover, key.address)
        opened = race_claims.get_opened(chain.state, chain.params, current, prover)
        duty = Duty(
            prover=prover,
            prover_key=self.get_public_key(prover),
            checker=key.address,
            opened={position: opened[position] for position in own},
        )
        if chain.keys.index(key) in self.lazy:
            # It has computed nothing, so a guess is all it can name.
            return m.ReportRace(0, prover, len(own), hash_parts("guess", prover, key.address))
        examined = examine_duty(self.challenge, duty)
        accused = [place for _, place, _ in race_checks.get_accusations(chain.state, prover)]
        if not examined.wrong:
            return m.ReportRace(0, prover, len(own), examined.digest)
        return m.AccuseRace(0, prover, next((place for place in examined.wrong if place in accused), examined.wrong[0]))

    def judge(self, prover, position):
        chain = self.chain
        opened = race_claims.get_opened(chain.state, chain.params, race.get_race(chain.state), prover)
        return judge_hit(self.challenge, self.get_public_key(prover), opened[position])

    def get_public_key(self, prover):
        return next(key.public_key for key in self.chain.keys if key.address == prover)


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
    played = RealRace(padder=4, lazy=True)
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
