"""Random 64-bit words by counting: word i of a key is a mix of the key's seed and i, in integers only.

It refuses to know what is drawn. Invariant: the same key gives the same words on every CPU and GPU.
Source: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.base.hashing import hash_parts

_STEP = 0x9E3779B97F4A7C15
_MIXES = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_TOP_BITS = 31


def derive_words(key: bytes, purpose: str, start: int, count: int, device: torch.device) -> Tensor:
    """Words `start` to `start + count` of a key for one purpose.

    Shapes: (count,) int64 out, all 64 bits random. Products wrap around.
    """
    seed = int.from_bytes(hash_parts(purpose, key)[:8], "little")
    words = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=device)
    words.mul_(_to_signed(_STEP)).add_(_to_signed(seed))
    for shift, factor in _MIXES:
        words.bitwise_xor_(_shift_right(words, shift)).mul_(_to_signed(factor))
    return words.bitwise_xor_(_shift_right(words, _LAST_SHIFT))


def derive_fractions(key: bytes, purpose: str, start: int, count: int, device: torch.device) -> Tensor:
    """Uniform whole numbers below 2**31, the top bits of the words.

    Shapes: (count,) int64 out.
    """
    return _shift_right(derive_words(key, purpose, start, count, device), 64 - _TOP_BITS)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """The unsigned shift: torch's own repeats the sign."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _to_signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
