"""Golden vectors of noise and operator order, the slow twin, and the pruned search for the winner against the plain sum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sampler_twin import NEUTRAL, choose_plainly

from paceline.inference.noise import compute_noise, find_winner
from paceline.inference.sampler import SamplerState, choose_token, compute_top_logprobs, replay_token
from paceline.protocol.transcripts import SamplerSpec

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sampler" / "vectors.json").read_text("utf-8"))
SEED = bytes(range(32))


class FixedMask:
    """A grammar that always allows the same tokens."""

    def __init__(self, allowed, size):
        self._mask = np.isin(np.arange(size), allowed)

    def compute_mask(self):
        return self._mask

    def push(self, token_id):
        return bool(self._mask[token_id])


def choose(logits, options, allowed, own, seed, position):
    spec = SamplerSpec(**{**options, "bias": tuple(map(tuple, options["bias"]))}, max_tokens=8, stop=())
    state = SamplerState(spec, seed, None if allowed is None else FixedMask(allowed, len(logits)))
    for token in own:
        state.push(token)
    state.position = position
    token = choose_token(torch.tensor(logits), state)
    replay = replay_token(torch.tensor(logits), state, token)
    assert (replay.margin, replay.support_gap) == (0, 0)
    return token


@pytest.mark.parametrize("case", VECTORS["noise"])
def test_noise_vectors(case):
    found = compute_noise(bytes.fromhex(case["seed"]), case["position"], torch.tensor([case["token"]]))
    assert float(found) == pytest.approx(case["noise"], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("case", VECTORS["choices"])
def test_choice_vectors(case):
    logits = [float.fromhex(logit) for logit in case["logits"]]
    arguments = (case["options"], case["allowed"], case["own"], bytes.fromhex(case["seed"]), case["position"])
    assert choose(logits, *arguments) == case["token"]
    assert choose_plainly(logits, *arguments)[0] == case["token"]


def test_every_operator_decides_a_vector():
    def differs(case, **changes):
        logits = [float.fromhex(logit) for logit in case["logits"]]
        changed = case | {"options": case["options"] | changes.pop("options", {})} | changes
        rest = (changed["allowed"], changed["own"], bytes.fromhex(changed["seed"]), changed["position"])
        return choose(logits, changed["options"], *rest) != case["token"]

    without = [{"options": {name: value}} for name, value in NEUTRAL.items()]
    for change in (*without, {"allowed": None}, {"own": []}, {"position": 7}, {"seed": "00" * 32}):
        assert any(differs(case, **dict(change)) for case in VECTORS["choices"]), change


@given(
    logits=st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=12),
    options=st.fixed_dictionaries(
        {
            "temperature_ppm": st.sampled_from([0, 300_000, 1_000_000, 2_000_000]),
            "top_k": st.sampled_from([0, 1, 3, 100]),
            "top_p_ppm": st.sampled_from([1, 500_000, 950_000, 1_000_000]),
            "presence_ppm": st.integers(-2_000_000, 2_000_000),
            "frequency_ppm": st.integers(-2_000_000, 2_000_000),
            "bias": st.lists(
                st.tuples(st.integers(0, 1), st.integers(-9_000, 9_000)), max_size=2, unique_by=lambda b: b[0]
            ),
        }
    ),
    own=st.lists(st.integers(0, 1), max_size=4),
    allowed=st.none() | st.just([0, 1]),
    position=st.integers(0, 99),
)
def test_the_sampler_equals_its_plain_twin(logits, options, own, allowed, position):
    token, lead = choose_plainly(logits, options, allowed, own, SEED, position)
    assume(lead > 1e-4 or options["temperature_ppm"] == 0)
    mass = choose_plainly(
        logits, {**options, "top_p_ppm": min(10**6, options["top_p_ppm"] + 2)}, allowed, own, SEED, position
    )
    assume(mass[0] == token)
    assert choose(logits, options, allowed, own, SEED, position) == token


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 5.0, 1e6])
def test_the_pruned_winner_is_that_of_the_plain_sum(spread):
    for position in range(20):
        scores = torch.randn(30_000, generator=torch.Generator().manual_seed(position)) * spread
        sums = scores + compute_noise(SEED, position, torch.arange(30_000))
        token, best = find_winner(scores, None, SEED, position)
        assert (token, best) == (int(sums.numpy().argmax()), float(sums.max()))
        some = torch.arange(1, 30_000, 3)
        assert find_winner(scores[some], some, SEED, position)[0] == int(some[int(sums[some].numpy().argmax())])


def test_equals_go_to_the_lower_id():
    # Noise vanishes beside scores of this size, so that equal ones stay equal.
    scores = torch.zeros(5_000)
    scores[[40, 4_000]] = 1e12
    assert find_winner(scores, None, SEED, 0)[0] == 40


def test_top_logprobs_are_best_first_with_ties_to_the_lower_id():
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0])
    found = compute_top_logprobs(logits, 3)
    assert [token for token, _ in found] == [1, 2, 0]
    assert found[0][1] == found[1][1] < 0
    assert [token for token, _ in compute_top_logprobs(logits, 20)] == [1, 2, 0, 3]
    assert compute_top_logprobs(logits, 0) == ()
    assert compute_top_logprobs(torch.tensor([0.0, -torch.inf]), 2)[1] == (1, -1_000_000_000)
