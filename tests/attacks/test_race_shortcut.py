"""A racer ranks nonces by something cheaper than the network and runs only the promising ones.

With c the cost of the cheap score in network passes, q the share of nonces it keeps and h the share of hits among those
kept, work is worth h / (c + (1 - c) q) times the honest hits. Asserted for `tiny`: the mean output gains nothing beyond
counting noise, leaving out the last layer or only the last feed-forward gains below 1.05. The defence is an odd function
of symmetric inputs, and layers that never add less than they keep; with the activation made even, outputs share a mean, and
ranking by it alone pays. Other surrogates: `test_race_surrogates.py`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paceline.base.hashing import hash_parts
from paceline.models import integer_transformer
from paceline.models.counter_rng import build_streams
from paceline.models.integer_transformer import IntegerTransformer, fold
from paceline.race.plan import (
    PRESETS,
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)

CHALLENGE = RaceChallenge(PRESETS["tiny"], hash_parts("shortcut-race"))
SHAPE = CHALLENGE.preset.get_shape()
NONCES = 6144
LEARN = 2048


@pytest.fixture(scope="module")
def drawn():
    entry = derive_entry(CHALLENGE, hash_parts("shortcut-node"))
    streams = build_streams(range(NONCES))
    return draw_inputs(entry, streams), draw_permutations(entry, streams)


@pytest.fixture(scope="module")
def outputs(drawn):
    return run_model(derive_params(CHALLENGE), drawn[0])


def run_model(params, inputs):
    model = IntegerTransformer(SHAPE, params)
    return torch.cat([model.forward(part) for part in inputs.split(64)]).double()


def compute_scores(outputs, permutations):
    """How near each permuted output is to the target, in standard deviations."""
    target = derive_target(CHALLENGE).double()
    return outputs.expand(len(permutations), -1).gather(1, permutations) @ target / outputs.norm(dim=-1)


def compute_gain(cheap, scores, cost):
    """The best worth over all thresholds that keep at least 2 % of the nonces."""
    is_hit = (scores > 1.6449).double()
    kept = is_hit[cheap.argsort(descending=True)].cumsum(0) / is_hit.sum()
    share = torch.arange(1, len(cheap) + 1) / len(cheap)
    return float((kept / (cost + (1 - cost) * share))[share >= 0.02].max())


def compute_best_by_mean(outputs, permutations):
    """Learn the mean on some nonces, rank the others by it at no cost; the worth of keeping a tenth of them."""
    cheap = compute_scores(outputs[:LEARN].mean(0, keepdim=True), permutations[LEARN:])
    is_hit = (compute_scores(outputs[LEARN:], permutations[LEARN:]) > 1.6449).double()
    best = cheap.topk(len(cheap) // 10).indices
    return float(is_hit[best].mean() / is_hit.mean())


def test_mean_output_is_worth_nothing(drawn, outputs):
    # About 20 hits fall among the kept 409 by chance: 3 deviations are 0.65. With the defence off it is far beyond.
    assert compute_best_by_mean(outputs, drawn[1]) < 1.65


def test_defence_off_an_even_activation_makes_the_mean_output_pay(drawn, monkeypatch):
    inputs, permutations = drawn
    even = dataclasses.replace(integer_transformer.EAGER, fold=lambda sums, shift: fold(sums, shift).abs())
    monkeypatch.setattr(integer_transformer, "EAGER", even)
    assert compute_best_by_mean(run_model(derive_params(CHALLENGE), inputs), permutations) > 2


def test_outputs_share_no_mean(outputs):
    shared = outputs.mean(0).square().mean() / outputs.square().mean()
    # By chance 1 / NONCES is expected; a shared mean of even 1 % of the length would show as 0.0001 more.
    assert float(shared) < 1.5 / NONCES


def test_leaving_out_the_end_of_the_network_gains_nothing(drawn, outputs):
    inputs, permutations = drawn
    params = list(derive_params(CHALLENGE))
    scores = compute_scores(outputs, permutations)
    width, hidden, layers = SHAPE.width, SHAPE.hidden, SHAPE.layers
    # A net that ends a layer earlier saves the other places of that layer too.
    shorter = dataclasses.replace(SHAPE, layers=layers - 1).products
    without_layer = compute_scores(run_model(params[:-1], inputs), permutations)
    assert compute_gain(without_layer, scores, shorter / SHAPE.products) < 1.05
    blind = [*params[:-1], type(params[-1])(**{**vars(params[-1]), "feed_out": torch.zeros_like(params[-1].feed_out)})]
    without_feed = compute_scores(run_model(blind, inputs), permutations)
    assert compute_gain(without_feed, scores, 1 - 2 * hidden * width / SHAPE.products) < 1.05
