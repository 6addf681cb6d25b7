"""Random words from counters: Philox4x32-10 as vectorised int64 tensor operations, with a plain twin in Python integers.

A word depends on its key, stream and place alone, so any part of any stream is made directly, in any order, on the
device that needs it. It knows nothing of what the words become. Not a cipher: keys must come from `hash_parts`, and
nothing here hides a key from somebody who sees words.
Invariant: tensor path and plain twin give the same words on every device and thread count.
Source: Salmon and others, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paceline.base.integers import MAX_UINT64

ROUNDS = 10
WORDS_PER_BLOCK = 4
BYTES_PER_WORD = 4
KEY_BYTES = 16
MASK = 0xFFFF_FFFF
_MULTIPLIERS = (0xD251_1F53, 0xCD9E_8D57)
_KEY_STEPS = (0x9E37_79B9, 0xBB67_AE85)


class StreamKey(NamedTuple):
    """128 bits: two words are Philox's key, two are mixed into the counter above the block number."""

    first: int
    second: int
    block_mask: int
    top: int


def split_key(material: bytes) -> StreamKey:
    """The key held by the first 16 bytes of a digest, as little-endian words."""
    assert len(material) >= KEY_BYTES
    return StreamKey(*(int.from_bytes(material[i : i + BYTES_PER_WORD], "little") for i in range(0, KEY_BYTES, 4)))


def build_streams(numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Stream numbers (unsigned, 64 bits) as pairs of words.

    Shapes: (N,) integers -> (N, 2) int64, low word first.
    """
    assert all(0 <= number <= MAX_UINT64 for number in numbers)
    values = np.array(numbers, dtype=np.uint64)
    halves = np.stack([values & np.uint64(MASK), values >> np.uint64(32)], axis=-1)
    return torch.from_numpy(halves.astype(np.int64)).to(device)


def generate_words(key: StreamKey, streams: Tensor, count: int) -> Tensor:
    """The first `count` words of every stream.

    Shapes: (N, 2) from `build_streams` -> (N, count) int64, each in [0, 2**32).
    """
    blocks = -(-count // WORDS_PER_BLOCK)
    number = torch.arange(blocks, dtype=torch.int64, device=streams.device) ^ key.block_mask
    low, high = (streams[:, half : half + 1].expand(-1, blocks) for half in (0, 1))
    counter = (low, high, number.expand_as(low), torch.full_like(number, key.top).expand_as(low))
    words = torch.stack(compute_philox(counter, (key.first, key.second)), dim=-1)
    return words.flatten(1)[:, :count]


def generate_bytes(key: StreamKey, streams: Tensor, count: int) -> Tensor:
    """The first `count` bytes of every stream (each word little endian), read as signed numbers.

    Shapes: (N, 2) -> (N, count) int8. Every machine that torch runs on is little endian; the twin's test would show one that is not.
    """
    words = generate_words(key, streams, -(-count // BYTES_PER_WORD))
    return words.to(torch.int32).contiguous().view(torch.int8)[:, :count]


def compute_philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Ten rounds of Philox4x32 on four tensors of 32-bit words held in int64."""
    c0, c1, c2, c3 = counter
    for turn in range(ROUNDS):
        k0, k1 = ((word + turn * step) & MASK for word, step in zip(key, _KEY_STEPS, strict=True))
        # Products wrap modulo 2**64 and carry rubbish above bit 31 into c1 and c3; the mask after the next exclusive or
        # removes it, and that of the shifted sign with it.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(MASK)
        c2 = (product0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, c3 = product1, product0
    return [c0, c1 & MASK, c2, c3 & MASK]


def compute_words_plain(key: StreamKey, stream: int, count: int) -> list[int]:
    """The plain twin of `generate_words` for one stream."""
    words: list[int] = []
    for block in range(-(-count // WORDS_PER_BLOCK)):
        counter = (stream & MASK, stream >> 32, block ^ key.block_mask, key.top)
        words += compute_philox_plain(counter, (key.first, key.second))
    return words[:count]


def compute_philox_plain(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The plain twin of `compute_philox`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & MASK, (product0 >> 32) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & MASK, (k1 + _KEY_STEPS[1]) & MASK
    return c0, c1, c2, c3
