"""How honest engines score in the two tests of answers, and how unusual a score is among them.

A file for each model and arithmetic holds the highest scores of honest answers, by answer length, for each pair of devices that
was measured. It refuses to know how scores come about and what follows from an unusual one. Invariant: the chance stated
for a score is an upper limit (95 % confidence each) over every measured pair, so a device as noisy as any of them is not
taken for a cheat.
Source: decision 024; bench/inference_detection.py writes the files.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from functools import cache
from importlib import resources

import msgspec

from paceline.base.draws import derive_seed, draw_below
from paceline.base.errors import ConfigError
from paceline.inference.check import AnswerEvidence
from paceline.protocol.codec import Record

BILLION = 10**9
CONFIDENCE_MISS = 0.05
_NORMAL_95 = 1.6449
LEAST_ANSWERS = 1_999
"""Fewer honest answers cannot place a score among the rarest two of a thousand, both tests together."""
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
FIRST_RANKS = 10
RANK_STEP_PERCENT = 15
"""Beyond the first ranks every so many percent is kept: a calibration shall fit into a release."""
USUAL_SHARE = 20
"""Scores outside the highest twentieth are usual, whatever they are."""
# Half a unit of information: a token that was nearly certain must not divide by nothing.
INFORMATION_FLOOR = 500_000


class Tail(Record, frozen=True):
    """The highest scores of so many honest answers of one length: `scores[i]` is the `ranks[i]`-th highest."""

    tokens: int
    answers: int
    ranks: tuple[int, ...]
    scores: tuple[int, ...]


class PairTails(Record, frozen=True, kw_only=True):
    """One kind of executor against one kind of checker: tails by length, shortest first, for states by kind of state."""

    executor: str
    checker: str
    states: tuple[tuple[Tail, ...], ...]
    tokens: tuple[Tail, ...]


class HonestScores(Record, frozen=True, kw_only=True):
    """What honest answers of one model in one arithmetic look like."""

    model_id: str
    engine: str
    pairs: tuple[PairTails, ...]


def get_honest_scores(model_id: str, engine: str) -> HonestScores | None:
    """The calibration that ships for a model and its arithmetic, None when there is none.

    Errors: ConfigError when the file is damaged.
    """
    file = resources.files("paceline.verification") / "calibrations" / f"{model_id}.{engine}.json"
    return _decode(file.read_bytes()) if file.is_file() else None


def score_states(evidence: AnswerEvidence) -> int:
    """Mean distance of the sketches. Units: micronats."""
    return evidence.distance_micronats // max(1, evidence.traced)


def score_tokens(evidence: AnswerEvidence) -> int:
    """Margins and support gaps for the information that the tokens carry. Units: millionths of a nat per unit of it."""
    apart = evidence.margin_micronats + evidence.support_micronats
    return apart * 1_000_000 // (evidence.expected_mismatch_micro + INFORMATION_FLOOR)


def compute_states_chance(scores: HonestScores, evidence: AnswerEvidence, coin: bytes) -> int:
    """At most how often an honest answer's states lie so far off. Units: parts per billion."""
    tails = get_states_tails(scores, evidence)
    coin = derive_seed(coin, "ties-states")
    return max((compute_chance(tail, score_states(evidence), coin) for tail in tails), default=BILLION)


def compute_tokens_chance(scores: HonestScores, evidence: AnswerEvidence, coin: bytes) -> int:
    """At most how often an honest answer's tokens lie so far off. Units: parts per billion."""
    tails = get_tokens_tails(scores, evidence)
    coin = derive_seed(coin, "ties-tokens")
    return max((compute_chance(tail, score_tokens(evidence), coin) for tail in tails), default=BILLION)


def get_states_tails(scores: HonestScores, evidence: AnswerEvidence) -> list[Tail]:
    """What the states of an answer are compared with, for each measured pair; nothing without states."""
    if not evidence.traced:
        return []
    return [_pick(pair.states[evidence.layer], evidence.traced) for pair in scores.pairs]


def get_tokens_tails(scores: HonestScores, evidence: AnswerEvidence) -> list[Tail]:
    """What the tokens of an answer are compared with, for each measured pair; nothing without tokens."""
    return [_pick(pair.tokens, evidence.tokens) for pair in scores.pairs] if evidence.tokens else []


def find_highest_states(scores: HonestScores, evidence: AnswerEvidence) -> int:
    """The highest honest score of this length and kind of state. Units: micronats."""
    return max((tail.scores[0] for tail in get_states_tails(scores, evidence)), default=0)


def compute_chance(tail: Tail, score: int, coin: bytes) -> int:
    """Conformal rank of a score, ties broken by the coin, as an upper limit of its chance. Units: parts per billion."""
    rank = compute_rank(tail, score, coin)
    return BILLION if rank is None else min(BILLION, math.ceil(compute_upper_limit(rank) / tail.answers * BILLION))


def compute_rank(tail: Tail, score: int, coin: bytes) -> int | None:
    """At most how many honest answers, this one among them, score as high; None for a usual score."""
    negated = [-value for value in tail.scores]
    first_not_above, first_below = bisect_left(negated, -score), bisect_right(negated, -score)
    if first_below == len(tail.ranks):
        return None
    least, most = tail.ranks[first_not_above], tail.ranks[first_below]
    return least + draw_below(coin, most - least + 1)


@cache
def compute_upper_limit(rank: int) -> float:
    """Most exceedances to be expected where fewer than `rank` were seen (95 % confidence, by the Poisson distribution).

    Source: exact for one; beyond it the cube-root approximation of Wilson and Hilferty to the gamma quantile.
    """
    if rank == 1:
        return -math.log(CONFIDENCE_MISS)
    return float(rank * (1.0 - 1.0 / (9.0 * rank) + _NORMAL_95 / (3.0 * math.sqrt(rank))) ** 3)


def build_tail(tokens: int, scores: list[int]) -> Tail:
    """A tail of the scores of honest answers of one length."""
    ordered = sorted(scores, reverse=True)
    ranks = list(range(1, FIRST_RANKS + 1))
    while ranks[-1] * USUAL_SHARE < len(ordered):
        ranks.append(ranks[-1] * (100 + RANK_STEP_PERCENT) // 100)
    ranks = [rank for rank in ranks if rank <= len(ordered)]
    return Tail(tokens, len(ordered), tuple(ranks), tuple(ordered[rank - 1] for rank in ranks))


def _pick(tails: tuple[Tail, ...], tokens: int) -> Tail:
    """That of the longest measured length which the answer has: means over more tokens stray less, never more."""
    return next(tail for tail in reversed(tails) if tail.tokens <= tokens)


@cache
def _decode(data: bytes) -> HonestScores:
    try:
        return msgspec.json.decode(data, type=HonestScores)
    except msgspec.DecodeError as problem:
        raise ConfigError(f"a calibration is damaged: {problem}") from None
