"""Edges of the search: the threshold itself, the end of 64 bits, pauses, and machines without an integer unit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from paceline.race.check import PlainTwin, check_nonces
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import Searcher, search


def stop_after(batches):
    left = iter([False] * batches)
    return lambda: next(left, True)


def build_both(challenge, public_key, threshold_ppm):
    race = RaceChallenge(dataclasses.replace(challenge.preset, threshold_ppm=threshold_ppm), challenge.race_seed)
    return Searcher(race, public_key), PlainTwin(race, public_key)


@pytest.mark.parametrize(("threshold_ppm", "expected"), [(1_599_999, True), (1_600_000, False)])
def test_distance_at_the_threshold_is_decided_alike(challenge, public_key, threshold_ppm, expected):
    """The product is 40 and the squared length 1000, so c = 1.6 is the edge, and the edge itself is no hit."""
    searcher, twin = build_both(challenge, public_key, threshold_ppm)
    permuted = searcher._target * 0
    places = (searcher._target > 0).nonzero().flatten().tolist()
    for place, value in zip(places, [30, 4, 4, 4, 2, 2, 2, 2, -2, -4, -4], strict=False):
        permuted[place] = value
    assert (int(permuted.sum()), int(permuted.square().sum())) == (40, 1000)
    assert bool(searcher._judge_distance(permuted[None])[0]) is expected
    assert twin._is_hit([int(value) for value in permuted]) is expected


def test_vectors_that_point_away_and_zero_are_no_hits(challenge, public_key):
    searcher, twin = Searcher(challenge, public_key), PlainTwin(challenge, public_key)
    for vector, expected in ((searcher._target, True), (-searcher._target, False), (searcher._target * 0, False)):
        assert bool(searcher._judge_distance(vector[None])[0]) is expected
        assert twin._is_hit([int(value) for value in vector]) is expected


def test_missing_integer_unit_changes_nothing(challenge, public_key, monkeypatch):
    fast = search(challenge, public_key, stop=stop_after(5))
    monkeypatch.delattr(torch, "_int_mm")
    assert search(challenge, public_key, stop=stop_after(5)) == fast


def test_pause_is_called_after_every_batch(challenge, public_key):
    calls = []
    search(challenge, public_key, stop=stop_after(3), pause=lambda: calls.append(1))
    assert len(calls) == 3


def test_search_ends_where_64_bits_end(challenge, public_key):
    first = 2**64 - 100
    found = search(challenge, public_key, stop=lambda: False, first_nonce=first)
    assert found.nonces_tried == 100
    answers = check_nonces(challenge, public_key, range(first, 2**64))
    assert found.hits == [first + place for place, hit in enumerate(answers) if hit]


def test_nothing_is_left_to_try_beyond_64_bits(challenge, public_key):
    assert search(challenge, public_key, stop=lambda: False, first_nonce=2**64).nonces_tried == 0


def test_work_that_is_cut_for_the_cache_gives_the_same_outputs(challenge, public_key, monkeypatch):
    searcher = Searcher(challenge, public_key)
    whole = searcher.compute_outputs(range(100))
    for rows in (1, 12, 1000):
        monkeypatch.setattr("paceline.race.run.CACHED_ROWS", rows)
        assert searcher.compute_outputs(range(100)).equal(whole)


OLDER = """
import json, torch
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import search
left = iter([False] * 5)
found = search(RaceChallenge(PRESETS["micro"], bytes(32)), bytes(32), stop=lambda: next(left, True))
print(json.dumps([found.hits]))
"""


def test_older_processors_find_the_same_hits():
    """AVX2 without VNNI adds pairs of products in 16 bits, where parameters of 127 would saturate in silence."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", OLDER], env=environment, capture_output=True, check=True, timeout=120)
    challenge = RaceChallenge(PRESETS["micro"], bytes(32))
    hits = search(challenge, bytes(32), stop=stop_after(5)).hits
    assert json.loads(run.stdout) == [hits]
    assert hits
