"""Ways to more hits than the machine is worth: before the seed, near misses, another permutation, many identities, late.

Each gains nothing, because a hit is a function of (seed, key, race_nonce) and the window is the same for everybody. What
each would gain with the defence off: a seed known one Race ahead doubles the hits; a tolerance of 5 % of the radius's
cosine adds more than a tenth; a free choice of permutation finds nine hits per pass of the network where one in ten is
honest; a vote per key multiplies the votes by the keys; a claim window of 60 heights after a Race of 32 nearly triples it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from race_claims_setup import ALICE, CHALLENGE, MALLORY, search_all

from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.economy.voting import compute_voting_powers
from paceline.ledger import race_claims
from paceline.ledger.race_claims import RaceState
from paceline.models.counter_rng import build_streams
from paceline.protocol.params import TINY
from paceline.race.check import check_nonces, compute_outputs
from paceline.race.plan import RaceChallenge, derive_entry, derive_params, derive_target, draw_inputs, draw_permutations

RATE = 0.1
NONCES = 6_000
TOTAL = 1_000_000_000


@pytest.fixture(scope="module")
def answers():
    return search_all(CHALLENGE, ALICE, range(NONCES))


def deviations(count, tries, rate=RATE):
    """How many standard deviations a count of hits lies above what chance gives."""
    return (count - tries * rate) / (tries * rate * (1 - rate)) ** 0.5


def test_hits_computed_before_the_seed_are_worth_what_guessing_is_worth():
    guess = RaceChallenge(CHALLENGE.preset, hash_parts("a guess at the seed"))
    prepared = [number for number, hit in enumerate(search_all(guess, ALICE, range(NONCES))) if hit]
    assert len(prepared) > 400
    assert abs(deviations(sum(check_nonces(CHALLENGE, ALICE, prepared)), len(prepared))) < 4.5


def test_defence_off_a_seed_known_one_race_ahead_doubles_the_hits(answers):
    in_time = sum(answers[: NONCES // 2])
    assert 1.8 < sum(answers) / in_time < 2.2


def test_near_misses_lead_to_no_hits(answers):
    """Hill climbing: neighbours of nonces that nearly hit are hits as often as any other number."""
    preset = CHALLENGE.preset
    easier = RaceChallenge(replace(preset, threshold_ppm=preset.threshold_ppm * 7 // 10), CHALLENGE.race_seed)
    near = [n for n, close in enumerate(search_all(easier, ALICE, range(NONCES))) if close and not answers[n]]
    assert len(near) > 200
    around = sorted({number ^ 1 << bit for number in near for bit in (0, 1, 5, 20, 40)})
    assert abs(deviations(sum(search_all(CHALLENGE, ALICE, around)), len(around))) < 4.5


def test_defence_off_a_tolerance_lets_near_misses_count(answers):
    """5 % of the cosine forgiven, as a check of floats would have to: more than a tenth more hits, none of them found."""
    preset = CHALLENGE.preset
    tolerant = RaceChallenge(replace(preset, threshold_ppm=preset.threshold_ppm * 95**2 // 100**2), CHALLENGE.race_seed)
    forgiven = sum(search_all(tolerant, ALICE, range(NONCES)))
    assert forgiven / sum(answers) > 1.1


def test_a_better_permutation_is_no_hit_and_defence_off_it_pays_tenfold():
    """50 permutations for each output: with a free choice nearly every pass is a hit; as claimed numbers, one in ten."""
    entry, count, tries = derive_entry(CHALLENGE, ALICE), 200, 50
    inputs = draw_inputs(entry, build_streams(range(count))).numpy().astype(np.int64)
    outputs = compute_outputs(CHALLENGE.preset.get_shape(), derive_params(CHALLENGE), inputs)
    target = derive_target(CHALLENGE).numpy().astype(np.int64)
    others = draw_permutations(entry, build_streams(range(10_000, 10_000 + tries))).numpy()
    products = outputs[:, others] @ target
    lengths = (outputs * outputs).sum(axis=1)[:, None]
    hit = (products > 0) & (products * products * PPM > CHALLENGE.preset.threshold_ppm * lengths)
    found = hit.any(axis=1)
    assert found.mean() > 0.9
    claimed = [number for number in range(count) if found[number]]
    assert abs(deviations(sum(check_nonces(CHALLENGE, ALICE, claimed)), len(claimed))) < 4.5


def test_many_identities_share_one_machine_and_find_no_more():
    """The same 8,000 passes under one key and under eight: the same hits, up to counting noise."""
    one = sum(search_all(CHALLENGE, MALLORY, range(8_000)))
    keys = [hash_parts("identity", bytes([index])) for index in range(8)]
    many = sum(sum(search_all(CHALLENGE, key, range(1_000))) for key in keys)
    assert abs(one - many) < 4.5 * (2 * 8_000 * RATE * (1 - RATE)) ** 0.5


def test_defence_off_a_vote_per_key_pays_the_splitter():
    honest, hits = {bytes([index]): 1_000 for index in range(8)}, 1_000
    split = {bytes([100 + index]): hits // 8 for index in range(8)}
    together = {**honest, **split}
    by_weight = compute_voting_powers(together, {}, seats=100, power_total=TOTAL, cap_ppm=300_000, growth_ppm=250_000)
    by_key = compute_voting_powers(
        dict.fromkeys(together, 1), {}, seats=100, power_total=TOTAL, cap_ppm=300_000, growth_ppm=250_000
    )
    assert abs(sum(by_weight[key] for key in split) - TOTAL // 9) < 20
    assert sum(by_key[key] for key in split) == TOTAL // 2


def test_searching_until_the_last_claim_is_what_everybody_does(answers):
    """Late: no height takes claims after the search of the honest ended."""
    race = TINY.race
    racing = RaceState(0, race_claims.RACING, 100)
    claims = RaceState(0, race_claims.CLAIMS, 100 + race.claim_blocks)
    assert race_claims.compute_close(TINY, racing) == race_claims.compute_close(TINY, claims) == 100 + race.claim_blocks
    # The defence off: with as many heights for claims behind the Race as `tiny` waits for openings, the last claim holds more.
    window = race.race_blocks + race.claim_blocks
    honest = NONCES * window // (window + race.opening_blocks)
    assert sum(answers) / sum(answers[:honest]) > 2.5
