"""How surely each attack is caught, from samples of what the tests of answers see.

Honest answers of one set calibrate; those of the other set and every attack are then judged by the shipped code. Power is
stated with exact intervals, for single answers and for nodes that cheat now and then. It runs no model.
Invariant: no text that calibrates is also judged.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.base.hashing import hash_parts
from paceline.inference.check import MARGIN_CAP_MICRONATS, AnswerEvidence, Lie
from paceline.lab.samples import HONEST, SAMPLING, Sample
from paceline.verification.answers import compute_limits, get_limits
from paceline.verification.calibration import (
    LEAST_ANSWERS,
    LENGTHS,
    HonestScores,
    PairTails,
    Tail,
    build_tail,
    compute_rank,
    compute_states_chance,
    compute_tokens_chance,
    get_states_tails,
    get_tokens_tails,
    score_states,
    score_tokens,
)
from paceline.verification.suspicion import SUSPECT_MICRONATS, compute_log_e_micro

KINDS = 3
# Half of it for each test.
ALPHA = 1e-3
MOST_AUDITS = 5_000


@dataclass(frozen=True, kw_only=True)
class Power:
    """Share of answers of so many tokens that one test or both call unlike honest ones, with its 95 % interval."""

    attack: str
    tokens: int
    answers: int
    caught: int
    by_states: int
    by_tokens: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Audits until a node that cheats in a share of its answers is suspect; `never` of so many runs did not get there."""

    attack: str
    share: float
    runs: int
    median: float
    quantile_95: float
    never: int


def build_honest_scores(samples: Sequence[Sample], model_id: str, engine: str) -> HonestScores:
    """The calibration of all honest engines together; lengths of which there are too few answers are left out."""

    def build(kind: int, score: Callable[[AnswerEvidence], int]) -> tuple[Tail, ...]:
        tails = (
            build_tail(length, [score(evidence) for evidence in cut_all(samples, HONEST, length, kind)])
            for length in LENGTHS
        )
        return tuple(tail for tail in tails if tail.tokens == 1 or tail.answers >= LEAST_ANSWERS)

    pair = PairTails(
        executor="cpu",
        checker="cpu",
        states=tuple(build(kind, score_states) for kind in range(KINDS)),
        tokens=build(0, score_tokens),
    )
    return HonestScores(model_id=model_id, engine=engine, pairs=(pair,))


def measure_power(samples: Sequence[Sample], scores: HonestScores, attack: str, tokens: int) -> Power:
    """How many answers of an attack, cut to so many tokens, are among the rarest of honest ones in a test or both."""
    cuts = _add_coins(attack, cut_all(samples, [attack], tokens, None))
    found = [
        (has_rare_states(evidence, scores, coin), has_rare_tokens(evidence, scores, coin)) for evidence, coin in cuts
    ]
    caught = sum(any(both) for both in found)
    low, high = compute_interval(caught, len(found))
    return Power(
        attack=attack,
        tokens=tokens,
        answers=len(found),
        caught=caught,
        by_states=sum(by_states for by_states, _ in found),
        by_tokens=sum(by_tokens for _, by_tokens in found),
        low=low,
        high=high,
    )


def has_rare_states(evidence: AnswerEvidence, scores: HonestScores, coin: bytes) -> bool:
    """True where states lie as far off as those of one honest answer in two thousand."""
    return is_rare(get_states_tails(scores, evidence), score_states(evidence), coin)


def has_rare_tokens(evidence: AnswerEvidence, scores: HonestScores, coin: bytes) -> bool:
    """True where tokens lie as far off as those of one honest answer in two thousand, or are rejected.

    Long answers are: limits there lie closer than any rank. Without limits for the model nothing is.
    """
    if is_rare(get_tokens_tails(scores, evidence), score_tokens(evidence), coin):
        return True
    limits = get_limits(scores.model_id, scores.engine)
    apart = evidence.margin_micronats + evidence.support_micronats
    return limits is not None and apart > compute_limits(evidence, limits).margin


def is_rare(tails: Sequence[Tail], score: int, coin: bytes) -> bool:
    """True where the conformal chance of a score is at most half of the stated rate, against every pair."""
    ranks = [(compute_rank(tail, score, coin), tail.answers) for tail in tails]
    return bool(ranks) and all(rank is not None and rank <= ALPHA / 2 * (count + 1) for rank, count in ranks)


def simulate_patience(
    samples: Sequence[Sample], scores: HonestScores, attack: str, *, share: float, longest: int, runs: int
) -> Patience:
    """Nodes that answer with 1 to `longest` tokens, a share of it by the attack, until suspect or out of audits."""
    chance = random.Random(f"patience {attack} {share}")
    honest = collect_logs(samples, scores, HONEST, longest)
    cheated = collect_logs(samples, scores, [attack], longest)
    needed = [_count_audits(chance, honest, cheated, share) for _ in range(runs)]
    return Patience(
        attack=attack,
        share=share,
        runs=runs,
        median=statistics.median(needed),
        quantile_95=statistics.quantiles(needed, n=20)[-1],
        never=sum(count > MOST_AUDITS for count in needed),
    )


def count_crossings(logs: Sequence[int], *, runs: int, audits: int) -> int:
    """How many of so many nodes, each with answers drawn from these, were suspect at any time. Units: micronats."""
    chance = np.random.default_rng(1)
    values = np.array(logs, np.int64)
    return sum(bool((chance.choice(values, audits).cumsum() >= SUSPECT_MICRONATS).any()) for _ in range(runs))


def collect_logs(samples: Sequence[Sample], scores: HonestScores, names: Sequence[str], longest: int) -> list[int]:
    """Log e-values of answers of each length up to `longest`, equally many of each. Units: micronats."""
    by_length = [
        [
            compute_log_e(evidence, scores, coin)
            for evidence, coin in _add_coins(f"{names} {length}", cut_all(samples, names, length, None))
        ]
        for length in range(1, longest + 1)
    ]
    fewest = min(map(len, by_length))
    chance = random.Random("collect")
    return [value for values in by_length for value in chance.sample(values, fewest)]


def compute_log_e(evidence: AnswerEvidence, scores: HonestScores, coin: bytes) -> int:
    """What one answer adds to the suspicion of its node. Units: micronats."""
    states, tokens = compute_states_chance(scores, evidence, coin), compute_tokens_chance(scores, evidence, coin)
    return compute_log_e_micro(states, tokens)


def compute_interval(hits: int, count: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson)."""
    low = _bisect(lambda share: _compute_tail(count, hits, share) < 0.025) if hits else 0.0
    high = _bisect(lambda share: 1.0 - _compute_tail(count, hits + 1, share) > 0.025) if hits < count else 1.0
    return low, high


def cut_all(samples: Sequence[Sample], names: Sequence[str], tokens: int, kind: int | None) -> Iterator[AnswerEvidence]:
    """Evidence of every stretch of so many tokens; the kind of state is drawn when none is given.

    Of inserted text only the stretches that hold some.
    """
    for sample in samples:
        for name in names:
            if name not in sample.margins:
                continue
            for place in range(len(sample.expected) // tokens):
                part = slice(place * tokens, (place + 1) * tokens)
                if name == "inserted" and np.array_equal(sample.margins[name][part], sample.margins["decode"][part]):
                    continue
                drawn = hash_parts("lab-kind", str((sample.number, name, tokens, place)).encode())[0] % KINDS
                yield _cut(sample, name, part, drawn if kind is None else kind)


def _add_coins(purpose: str, items: Iterator[AnswerEvidence]) -> Iterator[tuple[AnswerEvidence, bytes]]:
    for number, evidence in enumerate(items):
        yield evidence, hash_parts("lab-coin", purpose.encode(), number.to_bytes(4, "big"))


def _cut(sample: Sample, name: str, part: slice, kind: int) -> AnswerEvidence:
    # Who cheats in sampling alone has honest states: those of a prefill after the fact.
    states = sample.distances["decode" if name in SAMPLING else name][part, kind]
    margins = (sample.margins[name][part] * 1e6).astype(np.int64)
    return AnswerEvidence(
        tokens=len(margins),
        deviation_micronats=0,
        spread_micro=0,
        mismatches=int((margins > 0).sum()),
        margin_micronats=int(margins.clip(0, MARGIN_CAP_MICRONATS).sum()),
        support_micronats=0,
        expected_mismatch_micro=int(sample.expected[part].sum() * 1e6),
        lies=Lie.NONE,
        traced=len(states),
        distance_micronats=int(states.sum() * 1e6),
        layer=kind,
    )


def join_samples(samples: Sequence[Sample], tokens: int) -> list[Sample]:
    """Answers of at least so many tokens, each of several samples in a row: a stand-in for long ones."""
    joined, waiting = [], list[Sample]()
    for sample in samples:
        waiting.append(sample)
        if sum(len(item.expected) for item in waiting) >= tokens:
            joined.append(_join(waiting))
            waiting = []
    return joined


def _join(samples: Sequence[Sample]) -> Sample:
    first = samples[0]
    return Sample(
        number=first.number,
        heat=first.heat,
        expected=np.concatenate([item.expected for item in samples]),
        distances={name: np.concatenate([item.distances[name] for item in samples]) for name in first.distances},
        margins={name: np.concatenate([item.margins[name] for item in samples]) for name in first.margins},
    )


def _count_audits(chance: random.Random, honest: list[int], cheated: list[int], share: float) -> int:
    total = 0
    for audits in range(1, MOST_AUDITS + 1):
        total += chance.choice(cheated if chance.random() < share else honest)
        if total >= SUSPECT_MICRONATS:
            return audits
    return MOST_AUDITS + 1


def _compute_tail(count: int, least: int, share: float) -> float:
    """Chance of at least so many hits."""
    if share <= 0.0:
        return float(least <= 0)
    logs = np.log(np.arange(1, count + 1)).cumsum()
    hits = np.arange(least, count + 1)
    total, failed = logs[-1], count - hits
    chosen = total - np.where(hits > 0, logs[hits - 1], 0.0) - np.where(failed > 0, logs[failed - 1], 0.0)
    return float(np.exp(chosen + hits * np.log(share) + failed * np.log1p(-min(share, 1 - 1e-12))).sum())


def _bisect(is_below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2
