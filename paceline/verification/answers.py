"""Verdicts on answers: evidence of `inference.check` in, `Verdict` out.

Rejected is what no honest engine does: a transcript or states that contradict themselves, logprobs or tokens beyond limits
that grow with the information they carry, states three times as far off as the farthest honest ones. What is merely rare
stays undecided and adds to the suspicion of the node that answered. It refuses to know how tokens are replayed and what a
rejection costs. Invariant: one token never decides anything, unless the transcript contradicts itself, and evidence that is
small in information accepts nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt

from paceline.base.integers import PPM
from paceline.inference.check import MARGIN_CAP_MICRONATS, AnswerEvidence, Lie
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED, Verdict
from paceline.verification.calibration import (
    BILLION,
    HonestScores,
    compute_states_chance,
    compute_tokens_chance,
    find_highest_states,
    score_states,
)
from paceline.verification.suspicion import compute_log_e_micro

# ln 3: other makes of devices may be this much noisier than any that was measured.
FAR_MICRONATS = 1_098_612
LEAST_TRACED = 4
"""States of fewer tokens reject nobody."""
UNUSUAL_PPB = 4_000_000
"""Chance below which an answer is not accepted."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Limits for one model in one arithmetic, written by bench/calibrate_answers.py.

    Units: a limit in micronats is rate * information + swing * sqrt(information), with information in units of one;
    `least` is the information below which a verdict stays open, in millionths.
    """

    deviation_rate_ppm: int
    deviation_swing_ppm: int
    deviation_least_micro: int
    margin_rate_ppm: int
    margin_swing_ppm: int
    margin_least_micro: int

    def widen(self, times: int) -> Calibration:
        """Limits beyond which machines reject that are so many times as noisy as any that was measured."""
        return replace(
            self,
            deviation_rate_ppm=times * self.deviation_rate_ppm,
            deviation_swing_ppm=times * self.deviation_swing_ppm,
            margin_rate_ppm=times * self.margin_rate_ppm,
            margin_swing_ppm=times * self.margin_swing_ppm,
        )


CALIBRATION = Calibration(
    deviation_rate_ppm=147_618,
    deviation_swing_ppm=383_258,
    deviation_least_micro=8_982_076,
    margin_rate_ppm=4_663,
    margin_swing_ppm=138_581,
    margin_least_micro=5_379_822,
)
"""Limits of SmolLM2 135M.

Honest answers (1,084 tokens a class; one and two threads, AVX-512 and AVX2) stray by 0.050 to 0.059 per unit of information,
the worst by 0.095; the 4-bit model by 0.75 to 0.82. The limit forgives 2.5 times the noisiest class at four sigmas; at
the least information for a verdict, the 4-bit model lies four more sigmas beyond it.
Source: bench/calibrate_answers.py with ten prompts.
"""
GEMMA = Calibration(
    deviation_rate_ppm=110_682,
    deviation_swing_ppm=407_411,
    deviation_least_micro=11_607_062,
    margin_rate_ppm=6_698,
    margin_swing_ppm=155_352,
    margin_least_micro=5_426_257,
)
"""Limits of Gemma 3 270M, from a smaller sample: five prompts of 24 tokens at three temperatures and the same classes of machines.

The worst honest answer strays by 0.064 per unit of information. Source: bench/calibrate_answers.py --model gemma-3-270m.
"""
NO_LIMITS = Calibration(
    deviation_rate_ppm=0,
    deviation_swing_ppm=0,
    deviation_least_micro=0,
    margin_rate_ppm=0,
    margin_swing_ppm=0,
    margin_least_micro=0,
)
"""For contradictions, which are some under any limits."""
LIMITS: Mapping[tuple[str, str], Calibration] = {
    ("smollm2-135m-instruct", "torch-cpu-bf16-1"): CALIBRATION,
    ("gemma-3-270m", "torch-cpu-bf16-1"): GEMMA,
}
"""By model id and arithmetic. Limits of one model say nothing about another: who has none here is not judged."""


def get_limits(model_id: str, engine: str) -> Calibration | None:
    """The limits that ship for a model and its arithmetic, None when there are none."""
    return LIMITS.get((model_id, engine))


def judge_answer(
    evidence: AnswerEvidence,
    calibration: Calibration = CALIBRATION,
    scores: HonestScores | None = None,
    coin: bytes = bytes(32),
) -> Verdict:
    """Judge one answer, or several of one executor whose evidence was added up; `coin` breaks ties between equal scores.

    The verdict's evidence holds: tokens, deviation, its limit, spread, margin with support gap, their limit, expected
    mismatches, mismatches, lies, traced tokens, mean distance of states, its limit, chances of states and of tokens (parts per
    billion), log e-value.
    """
    spread, expected = evidence.spread_micro, evidence.expected_mismatch_micro
    limits = compute_limits(evidence, calibration)
    chances = compute_chances(evidence, scores, coin)
    numbers = (
        evidence.tokens,
        evidence.deviation_micronats,
        limits.deviation,
        spread,
        evidence.margin_micronats + evidence.support_micronats,
        limits.margin,
        expected,
        evidence.mismatches,
        int(evidence.lies),
        *(evidence.traced, score_states(evidence), chances.far_states),
        *(chances.states_ppb, chances.tokens_ppb, chances.log_e_micro),
    )
    if evidence.lies:
        return Verdict(REJECTED, f"contradicts itself: {_name_lies(evidence.lies)}"[:160], numbers)
    if evidence.deviation_micronats > limits.deviation and spread >= calibration.deviation_least_micro:
        return Verdict(REJECTED, "the logprobs are not those of the model: another model or prompt answered", numbers)
    if evidence.margin_micronats + evidence.support_micronats > limits.margin:
        return Verdict(REJECTED, "the tokens are not those of the sampler: another seed, sampler or text", numbers)
    if evidence.traced >= LEAST_TRACED and score_states(evidence) > chances.far_states:
        return Verdict(REJECTED, "the states are not those of the model: another model or prompt answered", numbers)
    return _judge_statistics(evidence, calibration, chances, numbers)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that an honest answer of this information shows. Units: micronats."""

    deviation: int
    margin: int


@dataclass(frozen=True, kw_only=True)
class Chances:
    """How unusual an answer is among honest ones; certain (nothing unusual) where nothing was measured."""

    states_ppb: int = BILLION
    tokens_ppb: int = BILLION
    far_states: int = 0
    log_e_micro: int = 0


def compute_limits(evidence: AnswerEvidence, calibration: Calibration) -> Limits:
    """Limits for evidence of this size."""
    return Limits(
        deviation=compute_limit(calibration.deviation_rate_ppm, calibration.deviation_swing_ppm, evidence.spread_micro),
        # One token may stray as far as it likes: the edge of the nucleus alone can put an honest token anywhere.
        margin=MARGIN_CAP_MICRONATS
        + compute_limit(calibration.margin_rate_ppm, calibration.margin_swing_ppm, evidence.expected_mismatch_micro),
    )


def compute_chances(evidence: AnswerEvidence, scores: HonestScores | None, coin: bytes) -> Chances:
    """The e-value of an answer and what it rests on; none without a calibration or without tokens."""
    if scores is None or not evidence.tokens:
        return Chances()
    states = compute_states_chance(scores, evidence, coin)
    tokens = compute_tokens_chance(scores, evidence, coin)
    far = find_highest_states(scores, evidence) + FAR_MICRONATS if evidence.traced else 0
    return Chances(
        states_ppb=states, tokens_ppb=tokens, far_states=far, log_e_micro=compute_log_e_micro(states, tokens)
    )


def compute_limit(rate_ppm: int, swing_ppm: int, information_micro: int) -> int:
    """The most that an honest answer of this information shows. Units: micronats, rounded down."""
    return rate_ppm * information_micro // PPM + swing_ppm * isqrt(information_micro * PPM) // PPM


def _judge_statistics(
    evidence: AnswerEvidence, calibration: Calibration, chances: Chances, numbers: tuple[int, ...]
) -> Verdict:
    """What is left when nothing condemns: accepted, unless it is rare or says too little."""
    spread, expected = evidence.spread_micro, evidence.expected_mismatch_micro
    if min(chances.states_ppb, chances.tokens_ppb) <= UNUSUAL_PPB:
        return Verdict(UNDECIDED, "rare among honest answers: counts towards the node's suspicion", numbers)
    if spread < calibration.deviation_least_micro or expected < calibration.margin_least_micro:
        return Verdict(UNDECIDED, "the answer carries too little information to judge it alone", numbers)
    return Verdict(ACCEPTED, "states, logprobs and sampling match the model", numbers)


def _name_lies(lies: Lie) -> str:
    return ", ".join(str(lie.name).lower().replace("_", " ") for lie in lies)
