from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.training.codecs import masks
from paceline.training.codecs.counter import derive_fractions, derive_words
from paceline.training.codecs.masks import RandomMask

CPU = torch.device("cpu")
WORD = 2**64 - 1


def next_words(seed, count):
    """SplitMix64 as published, in Python's integers."""
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & WORD
        word = seed
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
        yield word ^ (word >> 31)


@given(size=st.integers(1, 3000), share=st.floats(0.0001, 1), key=st.binary(max_size=8))
def test_a_mask_holds_its_share_each_place_once_in_order(size, share, key):
    places = RandomMask(share).draw(size, key)
    assert len(places) == RandomMask(share).count(size) == max(1, round(share * size))
    assert places.dtype == torch.int64 and int(places.min()) >= 0 and int(places.max()) < size
    assert bool((places[1:] > places[:-1]).all())


def test_the_key_alone_decides():
    mask = RandomMask(0.01)
    assert torch.equal(mask.draw(10_000, b"a"), mask.draw(10_000, b"a"))
    assert not torch.equal(mask.draw(10_000, b"a"), mask.draw(10_000, b"b"))
    assert RandomMask(0.002).draw(4000, b"pin").tolist() == [26, 138, 668, 1222, 1977, 2168, 3088, 3462]


def test_pieces_do_not_matter(monkeypatch):
    expected = RandomMask(0.1).draw(5000, b"key")
    monkeypatch.setattr(masks, "_PIECE", 7)
    assert torch.equal(RandomMask(0.1).draw(5000, b"key"), expected)


def test_every_place_is_drawn_equally_often():
    size, rounds = 37, 1500
    counts = torch.zeros(size)
    for index in range(rounds):
        counts[RandomMask(0.2).draw(size, index.to_bytes(4, "little"))] += 1
    expected = rounds * 7 / size
    assert float(((counts - expected) ** 2 / expected).sum()) < 62, "chi-squared of 36 degrees, 0.5 % of chance"


def test_everything_and_almost_nothing():
    assert RandomMask(1).draw(9, b"k").tolist() == list(range(9))
    assert len(RandomMask(1e-9).draw(9, b"k")) == 1
    assert len(RandomMask(0.5).draw(0, b"k")) == 0
    large = RandomMask(1e-9).draw(2**40, b"k")
    assert len(large) == 1100 and bool((large[1:] > large[:-1]).all())


def test_invalid_strata_beyond_the_generator_are_refused():
    with pytest.raises(ConfigError, match=r"^share: "):
        RandomMask(1e-12).draw(2**40, b"k")


@pytest.mark.parametrize("share", [0, -0.1, 1.01, "all", True, float("nan")])
def test_invalid_shares_are_refused(share):
    with pytest.raises(ConfigError, match=r"^share: "):
        RandomMask(share)


def test_words_are_split_mix_64():
    words = derive_words(b"key", "purpose", 0, 50, CPU)
    unsigned = [word & WORD for word in words.tolist()]
    seed = int.from_bytes(hash_parts("purpose", b"key")[:8], "little")
    assert unsigned == list(next_words(seed, 50))
    assert torch.equal(derive_words(b"key", "purpose", 20, 30, CPU), words[20:])
    assert derive_fractions(b"key", "purpose", 0, 50, CPU).tolist() == [word >> 33 for word in unsigned]
    assert not torch.equal(derive_words(b"key", "other", 0, 50, CPU), words)
