"""Gumbel noise from a counter hash: any token's noise alone, and the winner of a position without the noise of all.

It knows (seed, position, token id) and nothing of samplers, texts or peers. Invariant: noise goes through integers up to the
last two logarithms, so no order of drawing matters and any machine rebuilds it; the winner equals that of the plain sum.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from paceline.base.hashing import hash_parts

_MANTISSA_BITS = 53
_STEP = 2.0**-_MANTISSA_BITS
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
# Below this many tokens looking for those that cannot win costs more than their noise.
_FEW = 2_048
# Rounding in fp32 moves a score by less than this share and this much; it only keeps more tokens than needed.
_ROUNDING = 1e-6
_SLACK_NATS = 0.01

Words = npt.NDArray[np.uint64]


def compute_noise(seed: bytes, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    """Noise of tokens at one output position (0 is the first token of the answer). Shapes: (n,) -> (n,) fp32.

    Source: finaliser of SplitMix64 over a counter; the 53 highest bits become a number strictly inside (0, 1).
    """
    counters = (token_ids.numpy().astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return _to_noise(_hash_counters(seed, position, counters))


def find_winner(scores: torch.Tensor, token_ids: torch.Tensor | None, seed: bytes, position: int) -> tuple[int, float]:
    """Token with the highest sum of score and noise, the lower id of equals, and that sum.

    Shapes: scores (n,) fp32, finite somewhere; token_ids (n,) ascending, None for 0..n-1.
    """
    if len(scores) <= _FEW:
        token_ids = torch.arange(len(scores)) if token_ids is None else token_ids
        sums = scores + compute_noise(seed, position, token_ids)
    else:
        kept, noise = _keep_possible(scores, token_ids, seed, position)
        token_ids = kept if token_ids is None else token_ids[kept]
        sums = scores[kept] + noise
    # numpy promises the first of several equal maxima, torch promises none.
    best = int(sums.numpy().argmax())
    return int(token_ids[best]), float(sums[best])


def _keep_possible(
    scores: torch.Tensor, token_ids: torch.Tensor | None, seed: bytes, position: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and noise of the tokens that can still win against the likeliest one.

    Winning needs noise above `floor - score`, and noise = -ln(-ln u) is that high only where 1 - u < exp(score - floor).
    """
    likeliest = np.array([scores.numpy().argmax()])
    counters = _count(len(scores)) if token_ids is None else (token_ids.numpy().astype(np.uint64) + 1) * _GOLDEN
    bits = _hash_counters(seed, position, counters)
    floor = scores[likeliest] + _to_noise(bits[likeliest])
    floor -= _SLACK_NATS + _ROUNDING * scores[likeliest].abs()
    room = (scores - floor).exp_().numpy() * np.float32(2.0**_MANTISSA_BITS)
    distance = (np.uint64(1 << _MANTISSA_BITS) - bits).astype(np.float32)
    kept = np.flatnonzero(distance <= room)
    return torch.from_numpy(kept), _to_noise(bits[kept])


@lru_cache(maxsize=4)
def _count(vocab_size: int) -> Words:
    counters = np.arange(1, vocab_size + 1, dtype=np.uint64) * _GOLDEN
    counters.flags.writeable = False
    return counters


def _hash_counters(seed: bytes, position: int, counters: Words) -> Words:
    key = int.from_bytes(hash_parts("gumbel", seed, position.to_bytes(8, "little"))[:8], "little")
    bits: Words = counters + np.uint64(key)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits ^= bits >> np.uint64(shift)
        bits *= factor
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(64 - _MANTISSA_BITS)
    return bits


def _to_noise(bits: Words) -> torch.Tensor:
    uniform = (bits.astype(np.float64) + 0.5) * _STEP
    # The largest value rounds up to 1.0, whose noise would be infinite.
    np.minimum(uniform, 1.0 - _STEP, out=uniform)
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))
