"""The plain twin: decides hits again, in numpy and Python integers, written apart from the search.

It shares the definitions of `plan` in words, not in code: generator, tables, rounding and order are spelled out here a
second time, so a mistake in one of the two shows as a difference on the vectors that both must pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from paceline.base.hashing import hash_parts
from paceline.race.plan import MAX_NONCE, RaceChallenge, derive_target

Ints = npt.NDArray[np.int64]
_BATCH = 128
_MASK = np.uint64(0xFFFFFFFF)


def check_nonces(challenge: RaceChallenge, public_key: bytes, race_nonces: Sequence[int]) -> list[bool]:
    """Which nonces are hits of this node; a nonce outside the range is none."""
    model = _PlainModel(challenge)
    key = hash_parts("race-inputs", challenge.race_seed, hash_parts("race-node", public_key))
    answers: dict[int, bool] = {}
    valid = [nonce for nonce in race_nonces if 0 <= nonce < MAX_NONCE]
    for start in range(0, len(valid), _BATCH):
        part = valid[start : start + _BATCH]
        answers.update(zip(part, model.find_hits(key, part), strict=True))
    return [answers.get(nonce, False) for nonce in race_nonces]


class _PlainModel:
    def __init__(self, challenge: RaceChallenge) -> None:
        self._challenge = challenge
        self._weights = _draw_weights(challenge)
        self._target = np.array(derive_target(challenge), dtype=np.int64)

    def find_hits(self, key: bytes, nonces: list[int]) -> list[bool]:
        size, threshold = self._challenge.preset.size, self._challenge.preset.threshold_ppm
        octets = _draw_bytes(key, np.array(nonces, dtype=np.uint64), size.sequence * size.width, 100)
        hidden = octets.reshape(len(nonces), size.sequence, size.width)
        for layer in range(size.layers):
            hidden = np.clip(hidden + self._attend(_normalise(hidden), layer), -32767, 32767)
            hidden = np.clip(hidden + self._feed_forward(_normalise(hidden), layer), -32767, 32767)
        last = _normalise(hidden[:, -1])
        words = _draw_words(key, np.array(nonces, dtype=np.uint64), size.width, 101)
        permuted = np.take_along_axis(last, np.argsort(words, axis=1, kind="stable"), axis=1)
        hits = []
        for row in permuted:
            product, square = int(row @ self._target), int(row @ row)
            hits.append(product > 0 and product * product * 1_000_000 >= square * threshold)
        return hits

    def _attend(self, hidden: Ints, layer: int) -> Ints:
        size = self._challenge.preset.size
        width = size.width // size.heads
        shift = _find_shift(size.width)
        query, key, value = (
            _shift_back(_product(hidden, self._weights[layer][index]), shift)
            .reshape(-1, size.sequence, size.heads, width)
            .swapaxes(1, 2)
            for index in range(3)
        )
        scores = _product(query, key.swapaxes(-1, -2))
        mixed = np.zeros_like(value)
        unit = (32 * 32 * isqrt(width) // 16).bit_length() - 1
        table = np.array(_exp_table(), dtype=np.int64)
        for place in range(size.sequence):
            seen = scores[:, :, place, : place + 1]
            shares = table[np.minimum((seen.max(-1, keepdims=True) - seen) >> unit, 255)]
            total = (shares[..., None] * value[:, :, : place + 1]).sum(2)
            mixed[:, :, place] = total // shares.sum(-1)[..., None]
        joined = mixed.swapaxes(1, 2).reshape(-1, size.sequence, size.width)
        return _shift_back(_product(joined, self._weights[layer][3]), shift)

    def _feed_forward(self, hidden: Ints, layer: int) -> Ints:
        size = self._challenge.preset.size
        up = _shift_back(_product(hidden, self._weights[layer][4]), _find_shift(size.width))
        active = np.array(_silu_table(), dtype=np.int64)[up + 128]
        return _shift_back(_product(active, self._weights[layer][5]), _find_shift(size.hidden) - 1)


def _product(left: Ints, right: Ints) -> Ints:
    # Sums of int8 products stay far below 2**53, where fp64 is exact in any order.
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)


def _normalise(values: Ints) -> Ints:
    width = values.shape[-1]
    squares = (values * values).sum(-1)
    roots = np.array([max(1, isqrt(int(square) << 16)) for square in squares.ravel()], dtype=np.int64)
    divisor = roots.reshape(*squares.shape, 1)
    factor = 32 * isqrt(width << 16)
    scaled: Ints = np.clip((2 * values * factor + divisor) // (2 * divisor), -127, 127)
    return scaled


def _shift_back(sums: Ints, shift: int) -> Ints:
    shifted: Ints = np.clip((sums + (1 << (shift - 1))) >> shift, -127, 127)
    return shifted


def _find_shift(inputs: int) -> int:
    scale = isqrt(5461 * inputs)
    return (2 * scale * scale).bit_length() // 2


@lru_cache(maxsize=1)
def _exp_table() -> tuple[int, ...]:
    table = [1 << 15]
    while len(table) < 256:
        table.append(table[-1] * 61565 // 65536)
    return tuple(table)


@lru_cache(maxsize=1)
def _silu_table() -> tuple[int, ...]:
    one = 1 << 24
    falling = [one]
    while len(falling) < 129:
        falling.append(falling[-1] * 16260860 // one)
    shares = [one * one // (one + value) for value in falling]
    return tuple((x * (shares[x] if x >= 0 else one - shares[-x]) + one // 2) // one for x in range(-128, 128))


@lru_cache(maxsize=2)
def _draw_weights(challenge: RaceChallenge) -> list[list[Ints]]:
    size = challenge.preset.size
    key = hash_parts("race-model", challenge.race_seed)
    shapes = [(size.width, size.width)] * 4 + [(size.width, size.hidden), (size.hidden, size.width)]
    return [
        [
            _draw_bytes(key, np.arange(rows, dtype=np.uint64) + np.uint64(layer << 20), columns, 1 + index)
            for index, (rows, columns) in enumerate(shapes)
        ]
        for layer in range(size.layers)
    ]


def _draw_bytes(key: bytes, streams: npt.NDArray[np.uint64], count: int, domain: int) -> Ints:
    words = _draw_words(key, streams, -(-count // 4), domain).astype("<u4")
    octets = words.view(np.uint8).reshape(len(streams), -1)[:, :count]
    return np.maximum(octets.astype(np.int64) - 128, -127)


def _draw_words(key: bytes, streams: npt.NDArray[np.uint64], count: int, domain: int) -> npt.NDArray[np.uint64]:
    """Philox4x32-10: counter (domain and block, stream low, stream high ^ k2, k3), key (k0, k1)."""
    k0, k1, k2, k3 = (int.from_bytes(key[i : i + 4], "little") for i in range(0, 16, 4))
    blocks = -(-count // 4)
    shape = (len(streams), blocks)
    c0 = np.broadcast_to(np.arange(blocks, dtype=np.uint64) | np.uint64(domain << 24), shape)
    c1 = np.broadcast_to((streams & _MASK)[:, None], shape)
    c2 = np.broadcast_to(((streams >> np.uint64(32)) ^ np.uint64(k2))[:, None], shape)
    c3 = np.full(shape, k3, dtype=np.uint64)
    for turn in range(10):
        left, right = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        first, second = np.uint64((k0 + turn * 0x9E3779B9) % 2**32), np.uint64((k1 + turn * 0xBB67AE85) % 2**32)
        c0, c1, c2, c3 = (
            (right >> np.uint64(32)) ^ c1 ^ first,
            right & _MASK,
            (left >> np.uint64(32)) ^ c3 ^ second,
            left & _MASK,
        )
    return np.stack([c0, c1, c2, c3], axis=-1).reshape(len(streams), -1)[:, :count]
