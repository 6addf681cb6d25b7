"""Embeddings: the mean of a prompt's final states as a vector of unit length; made, claimed and checked.

A vector is one prefill, so checking costs what making costs. It refuses to know who asked and what a distance costs.
Invariant: evidence is integers, and a vector of another size, length or of no numbers is told apart without the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.base.errors import Invalid, InvalidClaim, WorkError
from paceline.base.integers import PPM
from paceline.inference.plan import encode_prompt
from paceline.models.language import LanguageModel
from paceline.protocol.answers import TextPrompt, TokenPrompt
from paceline.protocol.transcripts import TRANSCRIPT_VERSION, VectorClaim, encode_vector_claim

# Rounding to fp32 moves the length of a vector of some thousand values by less than this.
LENGTH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class VectorPlan:
    """The prompt of an embedding, in the model's tokens."""

    prompt_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class VectorEvidence:
    """How far a claimed vector lies from one's own. Units: millionths of the unit length, at most 2,000,000."""

    tokens: int
    distance_micro: int


def plan_vector(model: LanguageModel, prompt: TextPrompt | TokenPrompt) -> VectorPlan:
    """The prompt of an embedding.

    Errors: Invalid with code prompt when it is empty, beyond the context or names a token that the model does not have.
    """
    tokens = encode_prompt(model, prompt)
    if len(tokens) > model.context_tokens:
        raise Invalid("prompt", f"{len(tokens)} tokens, the context holds {model.context_tokens}")
    return VectorPlan(tokens)


def compute_vector(model: LanguageModel, token_ids: Sequence[int]) -> bytes:
    """The embedding: final states, mean over all tokens in fp32, divided by its length. Little-endian fp32."""
    mean = model.compute_final_states(token_ids).float().mean(0).numpy().astype(np.float64)
    return bytes((mean / np.linalg.norm(mean)).astype("<f4").tobytes())


def claim_vector(model: LanguageModel, token_ids: Sequence[int], values: bytes) -> bytes:
    """Canonical bytes of what the executor's receipt commits to."""
    return encode_vector_claim(
        VectorClaim(
            version=TRANSCRIPT_VERSION,
            model_id=model.model_id,
            model_hash=model.content_hash,
            engine=model.engine,
            prompt_tokens=tuple(token_ids),
            values=values,
        )
    )


def check_vector(model: LanguageModel, claim: VectorClaim) -> VectorEvidence:
    """Make the vector again and compare.

    Errors: WorkError when this node has another model; InvalidClaim with code wrong-size, not-a-number or not-unit-length.
    """
    wanted = (claim.model_id, claim.model_hash, claim.engine)
    if wanted != (model.model_id, model.content_hash, model.engine):
        raise WorkError(f"the vector is from {claim.model_id} on {claim.engine}, this node has another model or engine")
    claimed = _read(claim.values)
    own = _read(compute_vector(model, claim.prompt_tokens))
    if claimed.shape != own.shape:
        raise InvalidClaim("wrong-size", f"{len(claimed)} values, the model's vectors have {len(own)}")
    distance = round(float(np.linalg.norm(claimed - own)) * PPM)
    return VectorEvidence(tokens=len(claim.prompt_tokens), distance_micro=distance)


def _read(values: bytes) -> npt.NDArray[np.float64]:
    vector = np.frombuffer(values, "<f4").astype(np.float64)
    if not np.isfinite(vector).all():
        raise InvalidClaim("not-a-number", "a value is no number")
    length = float(np.linalg.norm(vector))
    if abs(length - 1.0) > LENGTH_TOLERANCE:
        raise InvalidClaim("not-unit-length", f"the vector has length {length:.6f}")
    return vector
