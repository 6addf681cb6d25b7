"""The seeded sampler: given logits, seed and position, exactly one token is right.

Order of operators, fixed: logits in fp32 -> divide by temperature -> keep the nucleus (top-p) -> add Gumbel noise -> argmax,
ties to the lower id; temperature 0 is the argmax of the logits alone (top-p cannot change it). It knows one position at a
time and nothing of models, texts or peers. Invariant: noise depends on (seed, position, token id) only, through integers up
to the last two logarithms, so no order of drawing matters and any machine rebuilds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.protocol.transcripts import SamplerSpec

# Two checkers of one nucleus disagree near its border; this much probability on either side is nobody's fault.
NUCLEUS_SLACK_PPM = 20_000
_NUCLEUS_GUESS = 256
_MANTISSA_BITS = 53
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One position replayed. Units: nats for `margin`; `expected_mismatch` is a probability.

    `margin`: how far the best token beat the chosen one, in logits at temperature 1; infinite outside the nucleus.
    `expected_mismatch`: chance that a token drawn without the seed would differ from the right one.
    """

    margin: float
    expected_mismatch: float


def compute_noise(seed: bytes, position: int, vocab_size: int) -> torch.Tensor:
    """Gumbel noise of every token at one output position (0 is the first token of the answer). Shapes: (vocab_size,) fp32.

    Source: finaliser of SplitMix64 over a counter; the 53 highest bits become a number strictly inside (0, 1).
    """
    key = np.uint64(int.from_bytes(hash_parts("gumbel", seed, position.to_bytes(8, "little"))[:8], "little"))
    bits = np.arange(1, vocab_size + 1, dtype=np.uint64)
    bits *= _GOLDEN
    bits += key
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits ^= bits >> np.uint64(shift)
        bits *= factor
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(64 - _MANTISSA_BITS)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-_MANTISSA_BITS
    # The largest value rounds up to 1.0, whose noise would be infinite.
    np.minimum(uniform, 1.0 - 2.0**-_MANTISSA_BITS, out=uniform)
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    return torch.from_numpy(uniform.astype(np.float32))


def choose_token(logits: torch.Tensor, spec: SamplerSpec, seed: bytes, position: int) -> int:
    """The one right token. Shapes: logits (vocab_size,) fp32."""
    if spec.temperature_ppm == 0:
        return _get_lowest_argmax(logits)
    tempered = logits / (spec.temperature_ppm / PPM)
    scores = tempered + compute_noise(seed, position, len(logits))
    if spec.top_p_ppm < PPM:
        scores = scores.masked_fill(~_compute_nucleus(tempered.softmax(-1), spec.top_p_ppm), -torch.inf)
    return _get_lowest_argmax(scores)


def compute_logprob_micronats(logits: torch.Tensor, token_id: int) -> int:
    """Logprob of a token under the plain model, rounded to an integer that is at most zero."""
    nats = float(logits[token_id] - logits.logsumexp(-1))
    return min(0, round(nats * PPM))


def replay_token(logits: torch.Tensor, spec: SamplerSpec, seed: bytes, position: int, token_id: int) -> Replay:
    """Score a claimed token by one's own logits.

    Competitors come from a nucleus that is a little too small and the claimed token may lie in one a little too large.
    """
    if spec.temperature_ppm == 0:
        plain = logits.softmax(-1)
        return Replay(
            margin=float(logits.max() - logits[token_id]), expected_mismatch=1.0 - float(plain.square().sum())
        )
    temperature = spec.temperature_ppm / PPM
    tempered = logits / temperature
    scores = tempered + compute_noise(seed, position, len(logits))
    weights = tempered.softmax(-1)
    if spec.top_p_ppm < PPM:
        if not _compute_nucleus(weights, spec.top_p_ppm + NUCLEUS_SLACK_PPM)[token_id]:
            return Replay(margin=float("inf"), expected_mismatch=1.0)
        weights = weights * _compute_nucleus(weights, max(1, spec.top_p_ppm - NUCLEUS_SLACK_PPM))
        scores = scores.where((weights > 0) | (torch.arange(len(scores)) == token_id), -torch.inf)
        weights = weights / weights.sum()
    margin = float(scores.max() - scores[token_id]) * temperature
    return Replay(margin=margin, expected_mismatch=max(0.0, 1.0 - float(weights.square().sum())))


def _compute_nucleus(weights: torch.Tensor, top_p_ppm: int) -> torch.Tensor:
    """Mask of the fewest likeliest tokens that reach `top_p`; tokens exactly as likely as the last of them stay too."""
    if top_p_ppm >= PPM:
        return torch.ones_like(weights, dtype=torch.bool)
    top_p, count = top_p_ppm / PPM, min(_NUCLEUS_GUESS, len(weights))
    while True:
        likeliest = weights.topk(count).values
        reached = likeliest.cumsum(-1) >= top_p
        if bool(reached.any()):
            return weights >= likeliest[int(reached.int().argmax())]
        if count == len(weights):
            return torch.ones_like(weights, dtype=torch.bool)
        count = min(16 * count, len(weights))


def _get_lowest_argmax(scores: torch.Tensor) -> int:
    # Which of several equal maxima torch's argmax returns is not promised.
    return int((scores == scores.max()).nonzero()[0, 0])
