"""Sizes of the presets: what `paper` adds up to, and thresholds that belong to the stated rates."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from paceline.race.plan import PRESETS, RaceChallenge, count_params, derive_params

ONE_HIT_IN = {"paper": 900, "consumer": 900, "tiny": 20, "micro": 10}
GIB = 2**30


def test_paper_has_the_sizes_of_the_appendix_and_604_million_params():
    paper = PRESETS["paper"]
    assert (paper.layers, paper.heads, paper.width, paper.hidden, paper.sequence) == (64, 128, 512, 8192, 4)
    assert count_params(paper) == 64 * (4 * 512 * 512 + 2 * 512 * 8192) == 603_979_776


def test_the_2_3_billion_of_the_paper_are_the_bytes_of_floats_and_not_params():
    """With both tables of a vocabulary of 8,192 the Appendix has 612 million numbers: 2.28 GiB in fp32."""
    with_tables = count_params(PRESETS["paper"]) + 2 * 8192 * 512
    assert with_tables == 612_368_384
    assert round(4 * with_tables / GIB, 2) == 2.28


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_count_is_what_is_generated(name):
    challenge = RaceChallenge(PRESETS[name], bytes(32))
    made = sum(matrix.numel() for layer in derive_params(challenge) for matrix in vars(layer).values())
    assert made == count_params(PRESETS[name])


def test_params_of_paper_come_layer_by_layer():
    """One layer of 9 MB is there at a time, so building needs no second copy of the network."""
    first = next(derive_params(RaceChallenge(PRESETS["paper"], bytes(32))))
    assert first.attend_in.shape == (1536, 512)
    assert first.feed_in.shape == (8192, 512)
    assert all(matrix.dtype is torch.int8 for matrix in vars(first).values())


def test_consumer_fits_16_gb_with_its_sums():
    consumer = PRESETS["consumer"]
    rows = consumer.batch * consumer.sequence
    assert count_params(consumer) + rows * consumer.hidden * 8 < GIB


@pytest.mark.parametrize("name", PRESETS)
def test_threshold_belongs_to_the_stated_rate(name):
    """The quantile of a normal variable, within what finite widths change in a tail (decision 017)."""
    quantile = NormalDist().inv_cdf(1 - 1 / ONE_HIT_IN[name])
    assert PRESETS[name].threshold_ppm == pytest.approx(quantile**2 * 1e6, rel=0.01)
