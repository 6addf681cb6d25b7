"""Counter-based words: published vectors, plain twin against tensors, independence of place, batch and threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import (
    MASK,
    StreamKey,
    build_streams,
    compute_philox,
    compute_philox_plain,
    compute_words_plain,
    generate_bytes,
    generate_words,
    split_key,
)

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
KEY = split_key(hash_parts("test-key"))
WORDS = st.integers(0, MASK)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_published_vectors(counter, key, words):
    assert compute_philox_plain(counter, key) == words
    tensors = tuple(torch.tensor([word]) for word in counter)
    assert [int(word) for word in compute_philox(tensors, key)] == list(words)


@given(
    key=st.builds(StreamKey, WORDS, WORDS, WORDS, WORDS),
    streams=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    count=st.integers(1, 21),
)
def test_tensor_path_equals_plain_twin(key, streams, count):
    words = generate_words(key, build_streams(streams), count).tolist()
    assert words == [compute_words_plain(key, stream, count) for stream in streams]


def test_words_do_not_depend_on_batch_length_or_threads():
    together = generate_words(KEY, build_streams(range(300)), 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(generate_words(KEY, build_streams(range(300)), 64), together)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(generate_words(KEY, build_streams([299]), 64)[0], together[299])
    assert torch.equal(generate_words(KEY, build_streams(range(300)), 7), together[:, :7])


def test_bytes_are_the_words_little_endian():
    streams = build_streams([5, 2**63 + 1])
    words = generate_words(KEY, streams, 3).tolist()
    raw = [b"".join(word.to_bytes(4, "little") for word in row)[:10] for row in words]
    assert [bytes(byte & 255 for byte in row) for row in generate_bytes(KEY, streams, 10).tolist()] == raw


def test_every_part_of_the_key_changes_the_words():
    base = compute_words_plain(KEY, 1, 8)
    for part in range(4):
        changed = StreamKey(*(word ^ (place == part) for place, word in enumerate(KEY)))
        assert compute_words_plain(changed, 1, 8) != base


def test_streams_at_the_bounds_of_64_bits():
    assert build_streams([0, 2**64 - 1]).tolist() == [[0, 0], [MASK, MASK]]


@pytest.mark.parametrize("number", [-1, 2**64])
def test_invalid_stream_number_is_our_own_bug(number):
    with pytest.raises(AssertionError):
        build_streams([number])


def test_invalid_short_key_material_is_our_own_bug():
    assert split_key(bytes(16)) == (0, 0, 0, 0)
    with pytest.raises(AssertionError):
        split_key(bytes(15))


def test_bytes_are_spread_evenly():
    drawn = generate_bytes(KEY, build_streams(range(1000)), 1024).to(torch.int64).flatten() + 128
    counts = torch.bincount(drawn, minlength=256).double()
    chi_square = float(((counts - 4000) ** 2 / 4000).sum())
    # 255 degrees of freedom: 150 and 390 lie beyond five standard deviations on either side.
    assert 150 < chi_square < 390
