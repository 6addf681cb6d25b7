"""Verdicts on answers: evidence of `inference.check` in, `Verdict` out.

Two limits, each growing with the information that the tokens carry: one on how far the claimed logprobs stray (another model,
another prompt), one on how far better tokens beat the claimed ones (another seed, temperature or text). It refuses to know
how tokens are replayed and what a rejection costs. Invariant: one token never decides anything, unless the transcript
contradicts itself, and evidence that is small in information accepts nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from paceline.base.integers import PPM
from paceline.inference.check import MARGIN_CAP_MICRONATS, AnswerEvidence, Lie
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED, Verdict


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


CALIBRATION = Calibration(
    deviation_rate_ppm=147_618,
    deviation_swing_ppm=383_258,
    deviation_least_micro=8_982_076,
    margin_rate_ppm=4_663,
    margin_swing_ppm=138_581,
    margin_least_micro=5_379_822,
)
"""Limits for the model and the arithmetic that `models.language` names.

Honest answers (1,084 tokens a class; one and two threads, AVX-512 and AVX2) stray by 0.050 to 0.059 per unit of information,
the worst by 0.095; the 4-bit model by 0.75 to 0.82. The limit forgives 2.5 times the noisiest class at four sigmas; at
the least information for a verdict, the 4-bit model lies four more sigmas beyond it.
Source: bench/calibrate_answers.py with ten prompts.
"""


def judge_answer(evidence: AnswerEvidence, calibration: Calibration = CALIBRATION) -> Verdict:
    """Judge one answer, or several of one executor whose evidence was added up.

    The verdict's evidence holds: tokens, deviation, its limit, spread, margin with support gap, their limit, expected mismatches, mismatches,
    lies.
    """
    spread, expected = evidence.spread_micro, evidence.expected_mismatch_micro
    deviation_limit = compute_limit(calibration.deviation_rate_ppm, calibration.deviation_swing_ppm, spread)
    # One token may stray as far as it likes: the edge of the nucleus alone can put an honest token anywhere.
    margin_limit = MARGIN_CAP_MICRONATS + compute_limit(
        calibration.margin_rate_ppm, calibration.margin_swing_ppm, expected
    )
    numbers = (
        evidence.tokens,
        evidence.deviation_micronats,
        deviation_limit,
        spread,
        evidence.margin_micronats + evidence.support_micronats,
        margin_limit,
        expected,
        evidence.mismatches,
        int(evidence.lies),
    )
    strays = evidence.deviation_micronats > deviation_limit and spread >= calibration.deviation_least_micro
    misses = evidence.margin_micronats + evidence.support_micronats > margin_limit
    if evidence.lies:
        return Verdict(REJECTED, f"contradicts itself: {_name_lies(evidence.lies)}"[:160], numbers)
    if strays:
        return Verdict(REJECTED, "the logprobs are not those of the model: another model or prompt answered", numbers)
    if misses:
        return Verdict(REJECTED, "the tokens are not those of the sampler: another seed, sampler or text", numbers)
    if spread < calibration.deviation_least_micro or expected < calibration.margin_least_micro:
        return Verdict(UNDECIDED, "the answer carries too little information to judge it alone", numbers)
    return Verdict(ACCEPTED, "logprobs and sampling match the model", numbers)


def compute_limit(rate_ppm: int, swing_ppm: int, information_micro: int) -> int:
    """The most that an honest answer of this information shows. Units: micronats, rounded down."""
    return rate_ppm * information_micro // PPM + swing_ppm * isqrt(information_micro * PPM) // PPM


def _name_lies(lies: Lie) -> str:
    return ", ".join(str(lie.name).lower().replace("_", " ") for lie in lies)
