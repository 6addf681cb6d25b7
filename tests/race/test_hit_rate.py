"""How hard the Race is: one constant threshold gives the same hit rate for every seed.

Over 100 seeds, each with its own network, target and node, hits scatter no more than counting alone explains: the
dispersion (variance over that of a binomial) lies near 1. `bench/race.py` measures it on more nonces.
"""

from __future__ import annotations

import dataclasses
from math import sqrt

import pytest

from paceline.base.hashing import hash_parts
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import search

SEEDS = 100


def count_hits(preset, number, batches):
    seed, key = (hash_parts(purpose, number.to_bytes(4, "little")) for purpose in ("rate-seed", "rate-key"))
    left = iter([False] * batches)
    return len(search(RaceChallenge(preset, seed), key, stop=lambda: next(left, True)).hits)


@pytest.mark.parametrize(
    ("name", "batches", "rate"), [("micro", 4, 1 / 10), pytest.param("tiny", 1, 1 / 20, marks=pytest.mark.long)]
)
def test_hit_rate_hardly_depends_on_the_seed(name, batches, rate):
    preset = dataclasses.replace(PRESETS[name], batch=256)
    counts = [count_hits(preset, number, batches) for number in range(SEEDS)]
    expected, mean = batches * preset.batch * rate, sum(counts) / SEEDS
    # Four standard deviations of counting, and 1 % for the threshold, which was itself measured.
    assert abs(mean - expected) < 4 * sqrt(expected * (1 - rate) / SEEDS) + 0.01 * expected
    dispersion = sum((count - mean) ** 2 for count in counts) / (SEEDS - 1) / (mean * (1 - rate))
    # Chi-square with 99 degrees of freedom leaves 0.5 to 1.6 less than once in 10,000 runs.
    assert 0.5 < dispersion < 1.6
