"""The seeded sampler: the same noise everywhere, the right distribution, a fixed order of operators."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.inference.noise import compute_noise as compute_noise_of
from paceline.inference.sampler import SamplerState, compute_logprob_micronats
from paceline.inference.sampler import choose_token as choose_by_state
from paceline.inference.sampler import replay_token as replay_by_state
from paceline.protocol.transcripts import SamplerSpec

SEED = bytes(range(32))
MASK = 2**64 - 1


def spec(temperature_ppm=1_000_000, top_p_ppm=1_000_000):
    return SamplerSpec(temperature_ppm=temperature_ppm, top_p_ppm=top_p_ppm, max_tokens=8, stop=())


def at(sampler, seed, position):
    state = SamplerState(sampler, seed)
    state.position = position
    return state


def choose_token(logits, sampler, seed, position):
    return choose_by_state(logits, at(sampler, seed, position))


def replay_token(logits, sampler, seed, position, token):
    return replay_by_state(logits, at(sampler, seed, position), token)


def compute_noise(seed, position, vocab_size):
    return compute_noise_of(seed, position, torch.arange(vocab_size))


def compute_noise_plainly(seed, position, token_id):
    """The slow twin: Python integers, one token."""
    key = int.from_bytes(hash_parts("gumbel", seed, position.to_bytes(8, "little"))[:8], "little")
    bits = (key + (token_id + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & MASK
    bits ^= bits >> 31
    return -math.log(-math.log(min(((bits >> 11) + 0.5) * 2.0**-53, 1 - 2.0**-53)))


@given(seed=st.binary(min_size=32, max_size=32), position=st.integers(0, 2**40), token_id=st.integers(0, 63))
def test_noise_equals_its_plain_twin(seed, position, token_id):
    found = float(compute_noise(seed, position, 64)[token_id])
    assert found == pytest.approx(compute_noise_plainly(seed, position, token_id), abs=2e-6)


def test_noise_of_a_token_does_not_depend_on_the_vocabulary_size():
    assert torch.equal(compute_noise(SEED, 3, 10), compute_noise(SEED, 3, 100)[:10])


def test_noise_has_the_moments_of_gumbel():
    noise = torch.cat([compute_noise(SEED, position, 50_000) for position in range(4)]).double()
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.012)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert bool(noise.isfinite().all())


def test_positions_and_seeds_are_unrelated():
    first, second = compute_noise(SEED, 0, 20_000), compute_noise(SEED, 1, 20_000)
    other = compute_noise(bytes(32), 0, 20_000)
    for one, two in ((first, second), (first, other), (first[:-1], first[1:])):
        assert abs(float(torch.corrcoef(torch.stack((one, two)))[0, 1])) < 0.03


def test_draws_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = [choose_token(logits, spec(temperature_ppm=500_000), SEED, position) for position in range(4_000)]
    wanted = (logits / 0.5).softmax(-1)
    for token, share in enumerate(wanted.tolist()):
        assert draws.count(token) / 4_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4_000) ** 0.5)


def test_zero_temperature_is_greedy_with_ties_to_the_lower_id():
    assert choose_token(torch.tensor([1.0, 5.0, 5.0]), spec(temperature_ppm=0), SEED, 0) == 1


def test_top_p_comes_after_temperature_and_before_noise():
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    kept = {choose_token(logits, spec(top_p_ppm=600_001), SEED, position) for position in range(300)}
    assert kept == {0, 1}
    # At half the temperature the first token alone reaches the same share.
    assert {choose_token(logits, spec(500_000, 600_001), SEED, position) for position in range(300)} == {0}


def test_the_least_top_p_is_greedy_and_the_largest_keeps_all():
    logits = torch.tensor([0.0, 1.0, 0.0])
    assert {choose_token(logits, spec(top_p_ppm=1), SEED, position) for position in range(50)} == {1}
    assert {choose_token(logits, spec(), SEED, position) for position in range(50)} == {0, 1, 2}


def test_tokens_as_likely_as_the_last_one_stay():
    logits = torch.zeros(4)
    assert {choose_token(logits, spec(top_p_ppm=500_000), SEED, position) for position in range(80)} == {0, 1, 2, 3}


def test_a_flat_distribution_over_a_large_vocabulary_finds_its_nucleus():
    logits = torch.linspace(0, 0.001, 40_000)
    token = choose_token(logits, spec(top_p_ppm=500_000), SEED, 0)
    assert token >= 19_900


@given(
    values=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=30),
    temperature=st.sampled_from([0, 1, 300_000, 1_000_000, 2_000_000]),
    top_p=st.sampled_from([1, 100_000, 900_000, 999_999, 1_000_000]),
    position=st.integers(0, 1000),
)
def test_the_right_token_replays_without_margin(values, temperature, top_p, position):
    logits = torch.tensor(values)
    token = choose_token(logits, spec(temperature, top_p), SEED, position)
    replay = replay_token(logits, spec(temperature, top_p), SEED, position, token)
    assert (replay.margin, replay.support_gap) == (0, 0)
    assert 0 <= replay.expected_mismatch <= 1


def test_invalid_token_outside_the_nucleus_shows_its_gap():
    logits = torch.tensor([0.9, 0.09, 0.01]).log()
    for temperature in (500_000, 1_000_000):
        found = replay_token(logits, spec(temperature, 850_000), SEED, 0, 2).support_gap
        assert found == pytest.approx(math.log(90), rel=1e-5)
    # The border token is forgiven: another machine may see it on the other side.
    assert replay_token(logits, spec(top_p_ppm=895_000), SEED, 0, 1).support_gap == 0
    assert replay_token(logits, spec(top_p_ppm=895_000), SEED, 0, 2).support_gap == pytest.approx(math.log(9), rel=1e-5)


def test_invalid_greedy_token_shows_its_margin_in_nats():
    logits = torch.tensor([3.0, 1.0])
    assert replay_token(logits, spec(temperature_ppm=0), SEED, 0, 1).margin == pytest.approx(2.0)
    assert replay_token(logits, spec(temperature_ppm=0), SEED, 0, 0).margin == 0


def test_margins_are_in_logits_at_temperature_one():
    logits = torch.tensor([30.0, 0.0])
    for temperature in (250_000, 1_000_000):
        noise = compute_noise(SEED, 0, 2)
        wanted = 30.0 + float(noise[0] - noise[1]) * temperature / 1e6
        assert replay_token(logits, spec(temperature), SEED, 0, 1).margin == pytest.approx(wanted, rel=1e-5)


def test_logprobs_are_integers_at_most_zero():
    assert compute_logprob_micronats(torch.tensor([0.0, 0.0]), 1) == -693_147
    assert compute_logprob_micronats(torch.tensor([100.0, 0.0]), 0) == 0
