"""Re-executes single nonces of a Race. What refuses a hit is always the plain twin of the search: whole layers in NumPy integers.

Written from the definition, in another layout and without the fast path's kernels, so that a fault there costs a racer
hits instead of splitting the checkers. It returns evidence and judges nobody.
Invariant: the same nonces give the same answers on every machine; no tolerance exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.base.hashing import hash_parts
from paceline.base.integers import MAX_UINT64, PPM
from paceline.models.counter_rng import build_streams
from paceline.models.integer_transformer import (
    EXP_MASKED,
    NORM_SHIFT,
    PROBABILITY_SHIFT,
    STATE_RMS,
    SUM_LIMIT,
    LayerParams,
    TransformerShape,
    build_exp_table,
)
from paceline.race.plan import (
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)
from paceline.race.run import Searcher

Integers = NDArray[np.int32]
BATCH = 64
TWIN_LOOKS = 2
"""Outputs of a duty that the plain twin recomputes although the search's path took them for hits."""
# fp32 holds every sum of this many products of a byte and a parameter: 2048 * 127 * 64 < 2**24.
EXACT_DEPTH = 2048


def check_nonces(
    challenge: RaceChallenge, public_key: bytes, race_nonces: Sequence[int], device: torch.device | str | None = None
) -> list[bool]:
    """For each nonce, in the given order, whether it is a hit of this node. A number beyond 64 bits is none.

    Without a device the plain twin answers. With one, the search's own path confirms at the cost of a search, and the twin
    decides whatever that path refuses, so that no kernel accuses anybody.
    """
    usable = [number for number in race_nonces if 0 <= number <= MAX_UINT64]
    confirmed = set[int]()
    if device is not None and usable:
        confirmed = confirm_nonces(Searcher(challenge, public_key, device, fuse=False), usable, challenge.preset.batch)
    left = [number for number in usable if number not in confirmed]
    if left:
        twin = PlainTwin(challenge, public_key)
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            confirmed.update(number for number, hit in zip(batch, twin.test_batch(batch), strict=True) if hit)
    return [number in confirmed for number in race_nonces]


def confirm_nonces(searcher: Searcher, race_nonces: Sequence[int], batch: int) -> set[int]:
    """Those that the search's own path takes for hits, at one pass of the network each."""
    confirmed = set[int]()
    for start in range(0, len(race_nonces), batch):
        part = race_nonces[start : start + batch]
        confirmed.update(number for number, hit in zip(part, searcher.test_batch(part), strict=True) if hit)
    return confirmed


def compute_report_digest(challenge: RaceChallenge, prover: bytes, checker: bytes, outputs: Sequence[bytes]) -> bytes:
    """What a checker's report names: hashes of the exact outputs at its positions in order, bound to its own address.

    One position left out makes all of it unknowable, and what one checker names serves no other.
    """
    return hash_parts("race-report", challenge.race_seed, prover, checker, *outputs)


def examine_nonces(
    challenge: RaceChallenge, public_key: bytes, race_nonces: Sequence[int], device: torch.device | str | None = None
) -> list[tuple[bool, bytes]]:
    """For each nonce whether it is a hit, and the hash of its output; none beyond 64 bits is a hit.

    Without a device the plain twin answers. With one, the search's own path does at the cost of a search; the twin looks at
    some of its outputs besides and at whatever it refuses, and answers for all of them as soon as one differs.
    """
    usable = [number for number in race_nonces if 0 <= number <= MAX_UINT64]
    if not usable:
        return [(False, b"")] * len(race_nonces)
    twin = PlainTwin(challenge, public_key)
    found = (
        None if device is None else _examine_quickly(twin, Searcher(challenge, public_key, device, fuse=False), usable)
    )
    found = found or _examine_plainly(twin, usable)
    return [found.get(number, (False, b"")) for number in race_nonces]


def _examine_quickly(twin: PlainTwin, searcher: Searcher, numbers: list[int]) -> dict[int, tuple[bool, bytes]] | None:
    """None when the twin disagrees anywhere it looked."""
    found: dict[int, tuple[bool, bytes]] = {}
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        hashes = hash_outputs(searcher.compute_outputs(batch).cpu().numpy())
        found.update(zip(batch, zip(searcher.test_batch(batch), hashes, strict=True), strict=True))
    looked = {*numbers[:: max(1, len(numbers) // TWIN_LOOKS)], *(number for number in numbers if not found[number][0])}
    plain = _examine_plainly(twin, sorted(looked))
    return found if all(found[number] == plain[number] for number in plain) else None


def _examine_plainly(twin: PlainTwin, numbers: list[int]) -> dict[int, tuple[bool, bytes]]:
    found: dict[int, tuple[bool, bytes]] = {}
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        found.update(zip(batch, twin.examine_batch(batch), strict=True))
    return found


def hash_outputs(outputs: NDArray[np.int8]) -> list[bytes]:
    """Hashes of exact outputs before permutation. Shapes: (N, width) -> N hashes."""
    return [hash_parts("race-output", vector.tobytes()) for vector in outputs]


class PlainTwin:
    """The Race's function as it is defined, for one node and one Race."""

    def __init__(self, challenge: RaceChallenge, public_key: bytes) -> None:
        self._challenge = challenge
        self._entry = derive_entry(challenge, public_key)
        self._params = list(derive_params(challenge))
        self._target = [int(sign) for sign in derive_target(challenge)]

    def test_batch(self, race_nonces: Sequence[int]) -> list[bool]:
        """For each nonce, whether it is a hit."""
        return [hit for hit, _ in self.examine_batch(race_nonces)]

    def examine_batch(self, race_nonces: Sequence[int]) -> list[tuple[bool, bytes]]:
        """For each nonce, whether it is a hit, and a hash of its exact output, which only computing it yields."""
        outputs = self.compute_outputs(race_nonces)
        permuted = np.take_along_axis(
            outputs, draw_permutations(self._entry, build_streams(race_nonces)).numpy(), axis=1
        )
        hashes = hash_outputs(outputs.astype(np.int8))
        return [(self._is_hit(vector), found) for vector, found in zip(permuted.tolist(), hashes, strict=True)]

    def compute_outputs(self, race_nonces: Sequence[int]) -> Integers:
        """Output vectors before permutation. Shapes: N nonces -> (N, width)."""
        inputs = draw_inputs(self._entry, build_streams(race_nonces)).numpy().astype(np.int32)
        return compute_outputs(self._challenge.preset.get_shape(), self._params, inputs)

    def _is_hit(self, permuted: list[int]) -> bool:
        product = sum(sign * value for sign, value in zip(self._target, permuted, strict=True))
        length = sum(value * value for value in permuted)
        return product > 0 and product * product * PPM > self._challenge.preset.threshold_ppm * length


def compute_outputs(shape: TransformerShape, params: Sequence[LayerParams], inputs: Integers) -> Integers:
    """The plain twin of `IntegerTransformer.forward`. Shapes: (B, S, width) -> (B, width)."""
    state = inputs
    for layer in params:
        state = _join(_attend(shape, layer, state), state, shape.output_shift)
        hidden = _fold(_multiply(state, layer.feed_in.numpy()), shape.input_shift)
        state = _join(_multiply(hidden, layer.feed_out.numpy()), state, shape.down_shift)
    return state[:, -1]


def _attend(shape: TransformerShape, layer: LayerParams, state: Integers) -> Integers:
    exp = np.array(build_exp_table(), dtype=np.int32)
    parts = _fold(_multiply(state, layer.attend_in.numpy()), shape.input_shift)
    query, key, value = parts.reshape(*parts.shape[:2], 3, shape.heads, shape.head_width).transpose(2, 0, 1, 3, 4)
    context = np.zeros_like(value)
    for place in range(shape.sequence):
        products = (key[:, : place + 1] * query[:, place : place + 1]).sum(axis=-1, dtype=np.int32)
        scores = _halve(products, shape.score_shift)
        drop = np.minimum(scores.max(axis=1, keepdims=True) - scores, EXP_MASKED - 1)
        total = exp[drop].sum(axis=1, keepdims=True, dtype=np.int32)
        shares = (exp[drop] * (2 << PROBABILITY_SHIFT) + total) // (2 * total)
        mixed = (shares[..., None] * value[:, : place + 1]).sum(axis=1, dtype=np.int32)
        context[:, place] = _fold(2 * mixed + value[:, place], PROBABILITY_SHIFT)
    return _multiply(context.reshape(*state.shape), layer.attend_out.numpy())


def _join(sums: Integers, state: Integers, shift: int) -> Integers:
    joined = np.clip(((sums >> shift) + state) | 1, -SUM_LIMIT, SUM_LIMIT)
    means = (joined * joined).sum(axis=-1, dtype=np.int64) // joined.shape[-1]
    roots = np.array([isqrt(mean) for mean in means.ravel().tolist()], dtype=np.int32).reshape(means.shape)
    factors = (STATE_RMS << NORM_SHIFT) // roots | 1
    return _fold(joined * factors[..., None], NORM_SHIFT)


def _fold(sums: Integers, shift: int) -> Integers:
    """Drop low bits, set the lowest of what is left, wrap modulo 256 to signed bytes."""
    return (((sums >> shift) | 1) + 128 & 255) - 128


def _multiply(values: Integers, matrix: NDArray[np.int8]) -> Integers:
    """Product with matrix.T, in pieces whose sums fp32 holds exactly, so that any order of summing gives the same integers."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float32)
    total = np.zeros((len(flat), len(matrix)), dtype=np.int32)
    for first in range(0, matrix.shape[1], EXACT_DEPTH):
        piece = slice(first, first + EXACT_DEPTH)
        total += (flat[:, piece] @ matrix[:, piece].astype(np.float32).T).astype(np.int32)
    return total.reshape(*values.shape[:-1], -1)


def _halve(values: Integers, times: int) -> Integers:
    """Division by 2**times, ties to even."""
    return (values + (1 << (times - 1)) - 1 + (values >> times & 1)) >> times
