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
KEPT_SCORES = 100
"""Scores beyond the highest so many are too usual to look at."""
LENGTHS = (1, 2, 4, 8, 16, 32, 64)
# Half a unit of information: a token that was nearly certain must not divide by nothing.
INFORMATION_FLOOR = 500_000


class Tail(Record, frozen=True):
    """The highest scores of so many honest answers, lowest of them first."""

    answers: int
    highest: tuple[int, ...]


class PairTails(Record, frozen=True, kw_only=True):
    """One kind of executor against one kind of checker: a tail for each of `LENGTHS`, for states by kind of state."""

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
    tails = [pair.states[evidence.layer] for pair in scores.pairs]
    return _compute_worst(tails, evidence.traced, score_states(evidence), derive_seed(coin, "ties-states"))


def compute_tokens_chance(scores: HonestScores, evidence: AnswerEvidence, coin: bytes) -> int:
    """At most how often an honest answer's tokens lie so far off. Units: parts per billion."""
    tails = [pair.tokens for pair in scores.pairs]
    return _compute_worst(tails, evidence.tokens, score_tokens(evidence), derive_seed(coin, "ties-tokens"))


def find_highest_states(scores: HonestScores, evidence: AnswerEvidence) -> int:
    """The highest honest score of this length and kind of state. Units: micronats."""
    return max(pair.states[evidence.layer][_get_class(evidence.traced)].highest[-1] for pair in scores.pairs)


def compute_chance(tail: Tail, score: int, coin: bytes) -> int:
    """Conformal rank of a score, ties broken by the coin, as an upper limit of its chance. Units: parts per billion."""
    above = len(tail.highest) - bisect_right(tail.highest, score)
    equal = len(tail.highest) - bisect_left(tail.highest, score) - above
    rank = 1 + above + draw_below(coin, equal + 1)
    if rank > len(tail.highest):
        return BILLION
    return min(BILLION, math.ceil(compute_upper_limit(rank) / tail.answers * BILLION))


@cache
def compute_upper_limit(rank: int) -> float:
    """Most exceedances to be expected where fewer than `rank` were seen (95 % confidence, by the Poisson distribution)."""
    low, high = 0.0, 10.0 * rank + 10.0
    for _ in range(60):
        middle = (low + high) / 2
        logs = (count * math.log(middle) - middle - math.lgamma(count + 1) for count in range(rank))
        low, high = (middle, high) if math.fsum(map(math.exp, logs)) > CONFIDENCE_MISS else (low, middle)
    return high


def build_tail(scores: list[int]) -> Tail:
    """A tail of honest scores."""
    return Tail(len(scores), tuple(sorted(scores)[-KEPT_SCORES:]))


def _compute_worst(tails: list[tuple[Tail, ...]], tokens: int, score: int, coin: bytes) -> int:
    if not tokens:
        return BILLION
    return max(compute_chance(by_length[_get_class(tokens)], score, coin) for by_length in tails)


def _get_class(tokens: int) -> int:
    """The longest measured length that the answer has: means over more tokens stray less, never more."""
    return bisect_right(LENGTHS, tokens) - 1


@cache
def _decode(data: bytes) -> HonestScores:
    try:
        return msgspec.json.decode(data, type=HonestScores)
    except msgspec.DecodeError as problem:
        raise ConfigError(f"a calibration is damaged: {problem}") from None
