"""What is drawn for a Race: target, inputs, permutations, keys, and presets that are refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import build_streams, compute_words_plain, generate_bytes
from paceline.race.plan import (
    PRESETS,
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_target_is_half_plus_and_half_minus(preset):
    target = derive_target(RaceChallenge(preset, bytes(32)))
    assert target.abs().tolist() == [1] * preset.width
    assert int(target.sum()) == 0


def test_permutation_is_one_and_orders_random_numbers_with_ties_to_the_lower_index(challenge, public_key):
    entry, width = derive_entry(challenge, public_key), challenge.preset.width
    race_nonces = [0, 1, 2**64 - 1]
    permutations = draw_permutations(entry, build_streams(race_nonces)).tolist()
    for number, permutation in zip(race_nonces, permutations, strict=True):
        words = compute_words_plain(entry.permutation_key, number, width // 2)
        halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
        signed = [half - 65_536 if half > 32_767 else half for half in halves]
        assert permutation == sorted(range(width), key=signed.__getitem__)


def test_equal_numbers_keep_their_order(challenge, public_key, monkeypatch):
    monkeypatch.setattr(
        "paceline.race.plan.generate_bytes",
        lambda _, streams, count: torch.zeros(len(streams), count, dtype=torch.int8),
    )
    entry = derive_entry(challenge, public_key)
    assert draw_permutations(entry, build_streams([7]))[0].tolist() == list(range(challenge.preset.width))


def test_permutation_of_another_device_is_sorted_alike(challenge, public_key):
    entry = derive_entry(challenge, public_key)
    made = draw_permutations(entry, build_streams(range(50)))
    numbers = generate_bytes(entry.permutation_key, build_streams(range(50)), 2 * challenge.preset.width)
    assert torch.equal(numbers.view(torch.int16).sort(stable=True).indices, made)


def test_inputs_are_the_plain_words_made_odd(challenge, public_key):
    entry, preset = derive_entry(challenge, public_key), challenge.preset
    inputs = draw_inputs(entry, build_streams(range(300)))
    assert inputs.unique().tolist() == list(range(-127, 128, 2))
    words = compute_words_plain(entry.input_key, 299, preset.sequence * preset.width // 4)
    signed = [byte - 256 if byte > 127 else byte for word in words for byte in word.to_bytes(4, "little")]
    assert inputs[299].flatten().tolist() == [byte | 1 for byte in signed]


def test_seed_node_and_preset_each_change_what_is_drawn(challenge, public_key):
    base = derive_entry(challenge, public_key)
    other_seed = RaceChallenge(challenge.preset, hash_parts("other-race"))
    other_preset = RaceChallenge(dataclasses.replace(challenge.preset, name="other"), challenge.race_seed)
    others = [
        derive_entry(other_seed, public_key),
        derive_entry(other_preset, public_key),
        derive_entry(challenge, hash_parts("other-node")),
    ]
    keys = {key for entry in (base, *others) for key in (entry.input_key, entry.permutation_key)}
    assert len(keys) == 8
    assert not torch.equal(derive_target(challenge), derive_target(other_seed))
    assert not torch.equal(next(derive_params(challenge)).feed_in, next(derive_params(other_seed)).feed_in)


def test_params_and_target_are_common_to_all_nodes(challenge):
    again = RaceChallenge(challenge.preset, challenge.race_seed)
    assert torch.equal(derive_target(challenge), derive_target(again))
    assert torch.equal(next(derive_params(challenge)).attend_out, next(derive_params(again)).attend_out)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_invalid_lengths_of_seed_and_key_are_refused(challenge, size):
    with pytest.raises(ConfigError):
        RaceChallenge(challenge.preset, bytes(size))
    with pytest.raises(ConfigError):
        derive_entry(challenge, bytes(size))


@pytest.mark.parametrize("change", [{"batch": 0}, {"threshold_ppm": 0}, {"threshold_ppm": 64_000_000}, {"heads": 5}])
def test_invalid_presets_are_refused(challenge, change):
    with pytest.raises(ConfigError):
        dataclasses.replace(challenge.preset, **change)


def test_presets_at_the_bounds(challenge):
    assert dataclasses.replace(challenge.preset, batch=1, threshold_ppm=63_999_999).batch == 1
