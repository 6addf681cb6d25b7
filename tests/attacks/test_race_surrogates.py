"""A racer predicts outputs by something cheaper than the network and runs only the nonces whose prediction looks near.

Asserted for `micro`, on 20,000 nonces: mean output, linear maps, first sublayers completed linearly, half of the neurons, low rank
and a distilled network each gain at most 5 %, at the upper 95 % bound of the mean angle to the true output; counted on
held-out nonces the gain is at most 5 % too. `bench/race_surrogates.py` measures the same on more nonces, and `tiny`.
With the defence off, in a common pre-norm network with GELU and a shared mean, the same surrogates pay.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from paceline.base.hashing import hash_parts
from paceline.race.plan import PRESETS, RaceChallenge

NONCES = 20_000
BOUND = 1.05


def load_bench():
    path = Path(__file__).parents[2] / "bench" / "race_surrogates.py"
    spec = importlib.util.spec_from_file_location("bench_race_surrogates", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = load_bench()
bench.TURNS = 8
CHALLENGE = RaceChallenge(PRESETS["micro"], hash_parts("surrogate-test"))
SHAPE = CHALLENGE.preset.get_shape()


@pytest.fixture(scope="module")
def sample():
    return bench.draw_sample(CHALLENGE, NONCES)


class NaiveNet(nn.Module):
    """A network of the same sizes as found in language models: norm before each sublayer, residual kept whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        width, hidden = SHAPE.width, SHAPE.hidden
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, SHAPE.heads, hidden, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
            )
            for _ in range(SHAPE.layers)
        )
        for matrix in self.parameters():
            if matrix.ndim == 2:
                nn.init.normal_(matrix, std=2 / width**0.5)
        self.norm = nn.LayerNorm(width)

    def run(self, inputs, layers):
        state = inputs.float() / 73
        for layer in self.layers[:layers]:
            state = layer(state)
        return state[:, -1]

    def forward(self, inputs):
        return self.norm(self.run(inputs, SHAPE.layers))


@pytest.fixture(scope="module")
def naive(sample):
    net = NaiveNet().eval()
    with torch.inference_mode():
        outputs = net(sample.inputs)
        early = net.run(sample.inputs, SHAPE.layers // 2)
    return dataclasses.replace(sample, outputs=outputs.clone()), early.clone()


def test_floats_that_surrogates_start_from_are_the_function_itself(sample):
    part = bench.take(sample, slice(0, 200))
    *_, last = bench.run_layers(SHAPE, list(bench.derive_params(CHALLENGE)), part.inputs)
    assert torch.equal(last[:, -1], part.outputs)


def test_no_surrogate_pays(sample):
    rows = list(bench.measure_surrogates(CHALLENGE, sample, 2.0))
    assert len(rows) == 2 + 1 + 2 * SHAPE.layers - 1 + 3 + 1
    for row in rows:
        assert row.gain_by_angle <= BOUND, row
        assert row.gain_held_out <= BOUND, row


def test_defence_off_the_mean_output_pays(naive):
    outputs, _ = naive
    (mean,) = bench.predict_mean(SHAPE, outputs)
    row = bench.measure_gain(outputs, *mean)
    assert row.gain_by_angle > 2
    assert row.gain_held_out > 1.5


def test_defence_off_half_of_the_layers_pay(naive):
    outputs, early = naive
    row = bench.measure_gain(outputs, "half of the layers", 0.5, bench.fit_linearly(early, outputs))
    assert row.gain_by_angle > 1.2
    assert row.gain_held_out > 1.2


def test_perfect_prediction_gains_what_its_cost_allows():
    """The measure itself: full knowledge of a hit at half the price, with 1 hit in 10, is worth 1 / (0.5 + 0.5 / 10)."""
    hit_score = bench.NORMAL.inv_cdf(0.9)
    assert bench.compute_gain(0.9999, 0.5, hit_score) == pytest.approx(1 / 0.55, rel=0.02)
    assert bench.compute_gain(0.0, 0.5, hit_score) == pytest.approx(1, abs=0.01)
    assert bench.compute_gain(0.9999, 1.0, hit_score) <= 1
