"""The search: equal to the plain twin hit for hit, and exact about what it tried."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paceline.base.hashing import hash_parts
from paceline.race.check import check_nonces
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import search


def stop_after(batches):
    left = iter([False] * batches)
    return lambda: next(left, True)


def with_batch(challenge, batch):
    return RaceChallenge(dataclasses.replace(challenge.preset, batch=batch), challenge.race_seed)


def find_plainly(challenge, public_key, numbers):
    answers = check_nonces(challenge, public_key, numbers)
    return [number for number, hit in zip(numbers, answers, strict=True) if hit]


def test_search_finds_exactly_what_the_plain_twin_finds(challenge, public_key):
    found = search(challenge, public_key, stop=stop_after(10))
    assert found.nonces_tried == 10 * challenge.preset.batch
    assert found.hits == find_plainly(challenge, public_key, range(found.nonces_tried))
    assert found.hits


@pytest.mark.parametrize("first", [0, 2**32 - 100, 2**61])
def test_tiny_search_finds_exactly_what_the_plain_twin_finds(public_key, first):
    challenge = with_batch(RaceChallenge(PRESETS["tiny"], hash_parts("tiny-race")), 256)
    found = search(challenge, public_key, stop=stop_after(1), first_nonce=first)
    assert found.hits == find_plainly(challenge, public_key, range(first, first + 256))
    assert found.hits


@pytest.mark.parametrize("batch", [1, 17, 100, 400])
def test_batch_size_and_company_change_nothing(challenge, public_key, batch):
    found = search(with_batch(challenge, batch), public_key, stop=stop_after(-(-400 // batch)))
    assert [hit for hit in found.hits if hit < 400] == find_plainly(challenge, public_key, range(400))


def test_two_threads_change_nothing(challenge, public_key):
    alone = search(challenge, public_key, stop=stop_after(5))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert search(challenge, public_key, stop=stop_after(5)) == alone
    finally:
        torch.set_num_threads(threads)


def test_search_that_is_stopped_at_once_tried_nothing(challenge, public_key):
    found = search(challenge, public_key, stop=lambda: True)
    assert (found.hits, found.nonces_tried) == ([], 0)


@pytest.mark.parametrize("change", ["seed", "key"])
def test_another_seed_or_node_has_other_hits(challenge, public_key, change):
    base = search(challenge, public_key, stop=stop_after(4)).hits
    other = RaceChallenge(challenge.preset, hash_parts("other-race")) if change == "seed" else challenge
    key = hash_parts("other-node") if change == "key" else public_key
    assert search(other, key, stop=stop_after(4)).hits != base
