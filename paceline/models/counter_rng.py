"""Random words by counter: Philox4x32-10 in integer tensor operations, the same bits on every device.

No state and no order: word i of a stream is a function of (key, stream, i), so any part can be drawn alone and in
batches. Keys carry 128 bits; two of the four key words enter through the counter.
Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011); its known answers are in the tests.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
WORDS_PER_BLOCK = 4


class CounterKey(NamedTuple):
    """Four 32-bit words of key material."""

    words: tuple[int, int, int, int]

    @staticmethod
    def from_digest(digest: bytes) -> CounterKey:
        """The key of the first 16 bytes of a digest."""
        a, b, c, d = (int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
        return CounterKey((a, b, c, d))


def compute_blocks(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """One Philox4x32-10 block per element.

    Shapes: four int64 tensors of one broadcastable shape, values below 2**32; four of that shape come back.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def generate_words(key: CounterKey, streams: Tensor, stream_words: int, domain: int) -> Tensor:
    """The first words of many streams.

    Shapes: streams (N,) int64, values as unsigned 63-bit numbers; out (N, stream_words) int64 below 2**32.
    `domain` (below 256) separates the uses of one key.
    """
    blocks = -(-stream_words // WORDS_PER_BLOCK)
    index = torch.arange(blocks, dtype=torch.int64, device=streams.device)[None, :] | (domain << 24)
    low, high = (streams & _MASK)[:, None], (streams >> 32)[:, None]
    k0, k1, k2, k3 = key.words
    full = torch.zeros(len(streams), blocks, dtype=torch.int64, device=streams.device)
    found = compute_blocks((full + index, full + low, full + (high ^ k2), full + k3), (k0, k1))
    words = torch.stack(found, dim=-1).flatten(1)
    return words[:, :stream_words]


def words_to_int8(words: Tensor) -> Tensor:
    """Four numbers from -127 to 127 per word, lowest byte first.

    Shapes: (N, W) -> (N, 4 W) int8. The byte 0 counts as -127, which is drawn twice as often as the others.
    """
    shifts = torch.tensor((0, 8, 16, 24), dtype=torch.int64, device=words.device)
    octets = (words[..., None] >> shifts) & 0xFF
    return (octets.flatten(-2) - 128).clamp(min=-127).to(torch.int8)


def _multiply(value: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product, in halves that stay below 2**49."""
    upper, lower = (value >> 16) * factor, (value & 0xFFFF) * factor
    high = (upper + (lower >> 16)) >> 16
    low = ((upper << 16) + lower) & _MASK
    return high, low
