"""Counter-based words: published vectors, a plain twin in Python integers, independence of place, batch and threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import CounterKey, compute_blocks, generate_words, words_to_int8

MASK = 2**32 - 1
# The known answers that the authors of Philox publish with their library (philox4x32, 10 rounds): counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
KEY = CounterKey.from_digest(hash_parts("test-key"))
WORDS = st.integers(0, MASK)


def compute_plainly(counter, key):
    c0, c1, c2, c3 = counter
    for turn in range(10):
        k0, k1 = (key[0] + turn * 0x9E3779B9) & MASK, (key[1] + turn * 0xBB67AE85) & MASK
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & MASK, (left >> 32) ^ c3 ^ k1, left & MASK
    return [c0, c1, c2, c3]


def compute_words_plainly(key, stream, count, domain):
    k0, k1, k2, k3 = key.words
    words = []
    for block in range(-(-count // 4)):
        words += compute_plainly((block | domain << 24, stream & MASK, (stream >> 32) ^ k2, k3), (k0, k1))
    return words[:count]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_published_vectors(counter, key, words):
    assert compute_plainly(counter, key) == list(words)
    tensors = tuple(torch.tensor([word]) for word in counter)
    assert [int(word) for word in compute_blocks(tensors, key)] == list(words)


@given(
    words=st.tuples(WORDS, WORDS, WORDS, WORDS),
    streams=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5),
    count=st.integers(1, 21),
    domain=st.integers(0, 255),
)
def test_tensor_path_equals_plain_twin(words, streams, count, domain):
    key = CounterKey(words)
    drawn = generate_words(key, torch.tensor(streams), count, domain).tolist()
    assert drawn == [compute_words_plainly(key, stream, count, domain) for stream in streams]


def test_words_do_not_depend_on_batch_length_or_threads():
    streams = torch.arange(300)
    together = generate_words(KEY, streams, 64, 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(generate_words(KEY, streams, 64, 1), together)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(generate_words(KEY, streams[299:], 64, 1)[0], together[299])
    assert torch.equal(generate_words(KEY, streams, 7, 1), together[:, :7])


def test_every_part_of_the_key_and_the_domain_change_the_words():
    base = compute_words_plainly(KEY, 1, 8, 1)
    for part in range(4):
        changed = CounterKey(tuple(word ^ (place == part) for place, word in enumerate(KEY.words)))
        assert generate_words(changed, torch.tensor([1]), 8, 1)[0].tolist() != base
    assert generate_words(KEY, torch.tensor([1]), 8, 2)[0].tolist() != base


def test_bytes_come_lowest_first_and_never_reach_minus_128():
    words = torch.tensor([[0xFF80_0100]])
    assert words_to_int8(words).tolist() == [[-127, -127, 0, 127]]


def test_bytes_are_spread_evenly():
    drawn = words_to_int8(generate_words(KEY, torch.arange(1000), 256, 3)).to(torch.int64).flatten() + 127
    counts = torch.bincount(drawn, minlength=255).double()
    expected = torch.full((255,), 1000.0)
    expected[0] = 2000
    expected *= counts.sum() / expected.sum()
    # 254 degrees of freedom: 150 and 390 lie beyond five standard deviations on either side.
    assert 150 < float(((counts - expected) ** 2 / expected).sum()) < 390
