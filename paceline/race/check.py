"""Re-executes single nonces of a Race with the plain twin of the search: whole layers in NumPy's 64-bit integers.

Written from the definition and without the fast path's kernels, so that a fault there costs a racer hits instead of
splitting the checkers. It returns evidence and judges nobody.
Invariant: the same nonces give the same answers on every machine; no tolerance exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from paceline.base.integers import MAX_UINT64, PPM
from paceline.models.counter_rng import build_streams
from paceline.models.integer_transformer import (
    EXP_MASKED,
    INT8_LIMIT,
    NORM_RMS,
    NORM_SHIFT,
    PROBABILITY_SHIFT,
    RESIDUAL_LIMIT,
    LayerParams,
    TransformerShape,
    build_exp_table,
    build_wave_table,
)
from paceline.race.plan import (
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)

Integers = NDArray[np.int64]
BATCH = 64


def check_nonces(challenge: RaceChallenge, public_key: bytes, race_nonces: Sequence[int]) -> list[bool]:
    """For each nonce, in the given order, whether it is a hit of this node. A number beyond 64 bits is none."""
    twin = PlainTwin(challenge, public_key)
    usable = [number for number in race_nonces if 0 <= number <= MAX_UINT64]
    answers: dict[int, bool] = {}
    for start in range(0, len(usable), BATCH):
        batch = usable[start : start + BATCH]
        answers.update(zip(batch, twin.test_batch(batch), strict=True))
    return [answers.get(number, False) for number in race_nonces]


class PlainTwin:
    """The Race's function as it is defined, for one node and one Race."""

    def __init__(self, challenge: RaceChallenge, public_key: bytes) -> None:
        self._challenge = challenge
        self._entry = derive_entry(challenge, public_key)
        self._params = derive_params(challenge)
        self._target = [int(sign) for sign in derive_target(challenge)]

    def test_batch(self, race_nonces: Sequence[int]) -> list[bool]:
        """For each nonce, whether it is a hit."""
        streams = build_streams(race_nonces)
        inputs = draw_inputs(self._entry, streams).numpy().astype(np.int64)
        outputs = compute_outputs(self._challenge.preset.get_shape(), self._params, inputs)
        permuted = np.take_along_axis(outputs, draw_permutations(self._entry, streams).numpy(), axis=1)
        return [self._is_hit(vector) for vector in permuted.tolist()]

    def _is_hit(self, permuted: list[int]) -> bool:
        product = sum(sign * value for sign, value in zip(self._target, permuted, strict=True))
        length = sum(value * value for value in permuted)
        return product > 0 and product * product * PPM > self._challenge.preset.threshold_ppm * length


def compute_outputs(shape: TransformerShape, params: Sequence[LayerParams], inputs: Integers) -> Integers:
    """The plain twin of `IntegerTransformer.forward`. Shapes: (B, S, width) -> (B, width)."""
    residual = inputs
    for layer in params:
        residual = _join(residual, _attend(shape, layer, _norm(residual)))
        residual = _join(residual, _feed(shape, layer, _norm(residual)))
    return _norm(residual[:, -1])


def _attend(shape: TransformerShape, layer: LayerParams, normed: Integers) -> Integers:
    exp = np.array(build_exp_table(), dtype=np.int64)
    parts = _clamp(_halve(_multiply(normed, layer.attend_in.numpy()), shape.input_shift))
    query, key, value = parts.reshape(*parts.shape[:2], 3, shape.heads, shape.head_width).transpose(2, 0, 1, 3, 4)
    context = np.zeros_like(value)
    for place in range(shape.sequence):
        products = (key[:, : place + 1] * query[:, place : place + 1]).sum(axis=-1)
        scores = _halve(products, shape.score_shift)
        drop = np.minimum(scores.max(axis=1, keepdims=True) - scores, EXP_MASKED - 1)
        total = exp[drop].sum(axis=1, keepdims=True)
        shares = (exp[drop] * (2 << PROBABILITY_SHIFT) + total) // (2 * total)
        mixed = (shares[..., None] * value[:, : place + 1]).sum(axis=1)
        context[:, place] = _clamp(_halve(mixed, PROBABILITY_SHIFT))
    context = context.reshape(*normed.shape)
    return _halve(_multiply(context, layer.attend_out.numpy()), shape.output_shift)


def _feed(shape: TransformerShape, layer: LayerParams, normed: Integers) -> Integers:
    wave = np.array(build_wave_table(), dtype=np.int64)
    hidden = _clamp(_halve(_multiply(normed, layer.feed_in.numpy()), shape.input_shift))
    return _halve(_multiply(wave[hidden + INT8_LIMIT], layer.feed_out.numpy()), shape.down_shift)


def _join(residual: Integers, update: Integers) -> Integers:
    joined: Integers = np.clip(_halve(residual, 1) + update, -RESIDUAL_LIMIT, RESIDUAL_LIMIT)
    return joined


def _norm(vectors: Integers) -> Integers:
    means = (vectors * vectors).sum(axis=-1) // vectors.shape[-1]
    roots = np.array([max(1, isqrt(mean)) for mean in means.ravel().tolist()], dtype=np.int64).reshape(means.shape)
    return _clamp(_halve(vectors * ((NORM_RMS << NORM_SHIFT) // roots)[..., None], NORM_SHIFT))


def _multiply(values: Integers, matrix: NDArray[np.int8]) -> Integers:
    """Product with matrix.T; fp64 holds every partial sum below 2**53, so any order of summing gives the same integers."""
    return (values.astype(np.float64) @ matrix.T.astype(np.float64)).astype(np.int64)


def _halve(values: Integers, times: int) -> Integers:
    """Division by 2**times, ties to even."""
    if times == 0:
        return values
    return (values + (1 << (times - 1)) - 1 + (values >> times & 1)) >> times


def _clamp(values: Integers) -> Integers:
    return np.clip(values, -INT8_LIMIT, INT8_LIMIT)
