"""Verdicts on embeddings: how far a claimed vector may lie from the one that a checker made.

It refuses to know how vectors are made. Invariant: a rejection names both the distance and the limit.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.inference.embed import VectorEvidence
from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict

TOLERANCE_MICRO = 60_000
"""Distance between SmolLM2's vectors of unit length, in millionths.

Honest runs in other arithmetic (fp32 and bf16, fused and eager attention) lie at most 0.033 away over twelve prompts of 1 to
160 tokens; the 4-bit model at least 0.20, another prompt in front at least 0.08. Weights of 8 bits stay below the limit:
this test does not see them. Source: bench/calibrate_vectors.py.
"""

GEMMA_MICRO = 90_000
"""The same for Gemma 3 270M: honest runs (fp32, eager attention) at most 0.039 away, the 4-bit model at least 0.54, another prompt in
front at least 0.16. Source: bench/calibrate_vectors.py --model gemma-3-270m.
"""
TOLERANCES: Mapping[tuple[str, str], int] = {
    ("smollm2-135m-instruct", "torch-cpu-bf16-1"): TOLERANCE_MICRO,
    ("gemma-3-270m", "torch-cpu-bf16-1"): GEMMA_MICRO,
}
"""By model id and arithmetic."""


def get_tolerance_micro(model_id: str, engine: str) -> int | None:
    """The tolerance that ships for a model and its arithmetic, None when there is none."""
    return TOLERANCES.get((model_id, engine))


def judge_vector(evidence: VectorEvidence, tolerance_micro: int = TOLERANCE_MICRO) -> Verdict:
    """Judge one embedding. The verdict's evidence holds: tokens, distance, its limit, and no log e-value: zero."""
    numbers = (evidence.tokens, evidence.distance_micro, tolerance_micro, 0)
    if evidence.distance_micro > tolerance_micro:
        return Verdict(REJECTED, "the vector is not the model's: another model or prompt made it", numbers)
    return Verdict(ACCEPTED, "the vector matches the model", numbers)
