"""Ranks among honest scores, the chances they stand for, and what they add to a node's suspicion."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise

import pytest

from paceline.inference.check import AnswerEvidence, Lie
from paceline.models.catalogue import ENGINE, load_catalogue
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED
from paceline.verification.answers import CALIBRATION, FAR_MICRONATS, LEAST_TRACED, judge_answer
from paceline.verification.calibration import (
    BILLION,
    LEAST_ANSWERS,
    HonestScores,
    PairTails,
    build_tail,
    compute_chance,
    compute_rank,
    compute_states_chance,
    compute_upper_limit,
    get_honest_scores,
)
from paceline.verification.suspicion import (
    BETS,
    LEVEL,
    STAKE,
    SUSPECT_MICRONATS,
    compute_e_value,
    compute_log_e_micro,
    is_suspect,
)

COIN = bytes(32)
TAIL = build_tail(8, list(range(1, 10_001)))
PLAIN = AnswerEvidence(
    tokens=40,
    deviation_micronats=0,
    spread_micro=20_000_000,
    mismatches=0,
    margin_micronats=0,
    support_micronats=0,
    expected_mismatch_micro=20_000_000,
    lies=Lie.NONE,
)


def make_scores(*highest):
    tails = [build_tail(1, [number * top // 4_000 for number in range(1, 4_001)]) for top in highest]
    pairs = tuple(
        PairTails(executor=f"e{number}", checker="c", states=((tail,),) * 3, tokens=(tail,))
        for number, tail in enumerate(tails)
    )
    return HonestScores(model_id="m", engine="e", pairs=pairs)


def make_evidence(mean, tokens=40):
    return dataclasses.replace(PLAIN, tokens=tokens, traced=tokens, distance_micronats=mean * tokens)


def test_a_rank_counts_the_scores_that_are_as_high():
    assert compute_rank(TAIL, 10_001, COIN) == 1
    assert compute_rank(TAIL, 9_998, b"\x00" * 32) in {3, 4}
    assert compute_rank(TAIL, 5_000, COIN) is None
    # Between two kept scores the rarer one is never claimed.
    assert compute_rank(TAIL, 9_900, COIN) >= 101


def test_ties_are_broken_by_the_coin():
    tail = build_tail(1, [0] * 1_000 + [5] * 9)
    ranks = {compute_rank(tail, 5, bytes([number]) * 32) for number in range(200)}
    assert ranks == set(range(1, 11))


def test_ranks_of_honest_scores_are_uniform():
    chance = random.Random(3)
    rare = 0
    for _ in range(400):
        scores = [chance.randrange(10**9) for _ in range(300)]
        rank = compute_rank(build_tail(1, scores), chance.randrange(10**9), COIN)
        rare += rank is not None and rank <= 6
    # 6 of 301: eight are expected of 400, more than 20 come about once in ten thousand.
    assert rare <= 20


@pytest.mark.parametrize("rank", [1, 2, 5, 20, 100, 1_000])
def test_an_upper_limit_holds_with_95_percent(rank):
    limit = compute_upper_limit(rank)
    fewer = math.fsum(math.exp(n * math.log(limit) - limit - math.lgamma(n + 1)) for n in range(rank))
    assert 0.048 < fewer < 0.052


def test_a_chance_is_never_below_what_the_number_of_answers_can_tell():
    assert compute_chance(TAIL, 10**9, COIN) == math.ceil(compute_upper_limit(1) / 10_000 * BILLION)
    assert compute_chance(TAIL, 0, COIN) == BILLION


def test_the_noisiest_pair_decides():
    narrow, both = make_scores(1_000_000), make_scores(1_000_000, 2_000_000)
    evidence = make_evidence(1_500_000)
    assert compute_states_chance(narrow, evidence, COIN) < 2_000_000
    assert compute_states_chance(both, evidence, COIN) == BILLION


def test_invalid_states_far_beyond_honest_ones_are_rejected_rare_ones_are_not():
    scores, limit = make_scores(1_000_000), 1_000_000 + FAR_MICRONATS
    outcomes = {
        500_000: ACCEPTED,
        1_000_001: UNDECIDED,
        limit: UNDECIDED,
        limit + 1: REJECTED,
    }
    for mean, outcome in outcomes.items():
        assert judge_answer(make_evidence(mean), CALIBRATION, scores).outcome == outcome
    few = make_evidence(limit + 1, tokens=LEAST_TRACED - 1)
    assert judge_answer(few, CALIBRATION, scores).outcome == UNDECIDED


def test_an_answer_without_states_is_judged_by_its_tokens():
    verdict = judge_answer(PLAIN, CALIBRATION, make_scores(1_000_000))
    assert verdict.outcome == ACCEPTED
    assert verdict.evidence[12] == BILLION


def test_an_answer_without_tokens_adds_nothing():
    empty = dataclasses.replace(PLAIN, tokens=0, spread_micro=0, expected_mismatch_micro=0)
    assert judge_answer(empty, CALIBRATION, make_scores(1_000_000)).evidence[-1] == 0


@pytest.mark.parametrize("model_id", sorted(load_catalogue()))
def test_the_shipped_calibrations_cover_every_kind(model_id):
    scores = get_honest_scores(model_id, ENGINE)
    assert scores is not None
    for pair in scores.pairs:
        assert len(pair.states) == 3
        for tails in (*pair.states, pair.tokens):
            assert tails[0].tokens == 1
            assert all(tail.answers >= LEAST_ANSWERS for tail in tails)
            assert all(list(tail.scores) == sorted(tail.scores, reverse=True) for tail in tails)


def test_invalid_model_has_no_calibration():
    assert get_honest_scores("no-such-model", ENGINE) is None


def test_bets_are_fair():
    assert math.isclose(sum(share for _, share in BETS), 1.0)
    # The mean over uniform chances, level by level.
    levels = [level for level, _ in BETS]
    edges = [0.0, *levels, 1.0]
    mean = sum((high - low) * compute_e_value(round(high * BILLION)) for low, high in pairwise(edges))
    assert mean <= 1.0 + 1e-9


def test_one_answer_loses_little_and_never_convicts():
    assert compute_log_e_micro(BILLION, BILLION) == math.floor(1e6 * math.log1p(-STAKE))
    assert 0 < compute_log_e_micro(1, 1) < SUSPECT_MICRONATS
    assert not is_suspect(SUSPECT_MICRONATS - 1)
    assert is_suspect(SUSPECT_MICRONATS)
    assert math.isclose(math.exp(-SUSPECT_MICRONATS / 1e6), LEVEL, rel_tol=1e-6)
