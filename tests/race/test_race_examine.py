"""What a checker recomputes: the search's path and the plain twin say the same, and a faulty kernel convicts nobody."""

from __future__ import annotations

import pytest

from paceline.base.hashing import hash_parts
from paceline.race.check import TWIN_LOOKS, PlainTwin, examine_nonces
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import Searcher

KEY = hash_parts("examined")
CHALLENGE = RaceChallenge(PRESETS["tiny"], hash_parts("examine-race"))
NUMBERS = [*range(24), 2**64 - 1]


@pytest.fixture(scope="module")
def plain():
    return examine_nonces(CHALLENGE, KEY, NUMBERS)


def test_both_paths_say_the_same(plain):
    assert examine_nonces(CHALLENGE, KEY, NUMBERS, "cpu") == plain
    assert len({output for _, output in plain}) == len(NUMBERS)


def test_numbers_beyond_64_bits_are_no_hits_and_have_no_output(plain):
    assert examine_nonces(CHALLENGE, KEY, [2**64, -1, 3], "cpu") == [(False, b""), (False, b""), plain[3]]
    assert examine_nonces(CHALLENGE, KEY, [2**64], "cpu") == [(False, b"")]
    assert examine_nonces(CHALLENGE, KEY, [], "cpu") == []


def test_a_kernel_that_is_wrong_everywhere_is_overruled(plain, monkeypatch):
    right = Searcher.compute_outputs
    monkeypatch.setattr(Searcher, "compute_outputs", lambda self, numbers: -right(self, numbers))
    assert examine_nonces(CHALLENGE, KEY, NUMBERS, "cpu") == plain


def test_a_kernel_that_refuses_hits_is_overruled(plain, monkeypatch):
    monkeypatch.setattr(Searcher, "test_batch", lambda _, numbers: [False] * len(numbers))
    assert examine_nonces(CHALLENGE, KEY, NUMBERS, "cpu") == plain


def test_the_twin_looks_at_few_of_many_hits(monkeypatch):
    looked = []
    examine = PlainTwin.examine_batch
    monkeypatch.setattr(
        PlainTwin, "examine_batch", lambda self, numbers: (looked.extend(numbers), examine(self, numbers))[1]
    )
    hits = [n for n, (hit, _) in enumerate(examine_nonces(CHALLENGE, KEY, range(200), "cpu")) if hit][:8]
    assert len(hits) == 8
    looked.clear()
    assert all(hit for hit, _ in examine_nonces(CHALLENGE, KEY, hits, "cpu"))
    assert len(looked) == TWIN_LOOKS
