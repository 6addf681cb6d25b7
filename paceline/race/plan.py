"""What a Race asks: presets, the challenge, and everything that follows from its seed.

A nonce is a hit when the network's last vector, its coordinates permuted per nonce, lies within a constant distance of
the target on the unit sphere. Decided where Appendix A is silent: inputs are embeddings drawn directly (int8), so no
table of outputs can be kept; the target has as many +1 as -1, so that over random permutations the scaled cosine has
mean 0 and variance 1 for every seed, and one constant gives one hit rate; the comparison is of integers.
Source: seed 001, Appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import CounterKey, generate_words, words_to_int8
from paceline.models.integer_transformer import IntegerTransformer, TransformerSize

_INPUT_DOMAIN = 100
_PERMUTATION_DOMAIN = 101
_TARGET_DOMAIN = 102
MAX_NONCE = 2**62


@dataclass(frozen=True, kw_only=True)
class RacePreset:
    """Network and threshold of a Race.

    `threshold_ppm` bounds D·cos² from below, in millionths: with z² = threshold, the unit-sphere distance is at most
    sqrt(2 - 2·z/sqrt(D)), and the hit rate is near the normal tail beyond z.
    """

    name: str
    size: TransformerSize
    threshold_ppm: int
    batch: int
    """Nonces per batch of the search."""


PRESETS = {
    preset.name: preset
    for preset in (
        # z = 1.645, the normal tail of 1 in 20.
        RacePreset(
            name="tiny",
            size=TransformerSize(layers=4, heads=4, width=128, hidden=512, sequence=4),
            threshold_ppm=2_706_000,
            batch=256,
        ),
        # A toy for tests of the rules, one hit in about 6.
        RacePreset(
            name="micro",
            size=TransformerSize(layers=1, heads=2, width=32, hidden=64, sequence=4),
            threshold_ppm=1_000_000,
            batch=64,
        ),
    )
}


@dataclass(frozen=True)
class RaceChallenge:
    """One Race: its preset and its 32-byte seed."""

    preset: RacePreset
    race_seed: bytes


def derive_model(challenge: RaceChallenge, *, device: str = "cpu") -> IntegerTransformer:
    """The network that everybody runs in this Race."""
    key = CounterKey.from_digest(hash_parts("race-model", challenge.race_seed))
    return IntegerTransformer(challenge.preset.size, key, device=device)


def derive_target(challenge: RaceChallenge) -> list[int]:
    """The target direction: one +1 or -1 per coordinate, half of each."""
    width = challenge.preset.size.width
    key = CounterKey.from_digest(hash_parts("race-target", challenge.race_seed))
    words = generate_words(key, torch.zeros(1, dtype=torch.int64), width, _TARGET_DOMAIN)[0].tolist()
    order = sorted(range(width), key=lambda index: (words[index], index))
    target = [1] * width
    for index in order[: width // 2]:
        target[index] = -1
    return target


def derive_node_key(challenge: RaceChallenge, public_key: bytes) -> CounterKey:
    """What inputs and permutations of one node in one Race derive from."""
    node_seed = hash_parts("race-node", public_key)
    return CounterKey.from_digest(hash_parts("race-inputs", challenge.race_seed, node_seed))


def derive_inputs(challenge: RaceChallenge, key: CounterKey, race_nonces: Tensor) -> Tensor:
    """Input embeddings.

    Shapes: race_nonces (N,) int64 -> (N, S, D) int8.
    """
    size = challenge.preset.size
    count = size.sequence * size.width
    octets = words_to_int8(generate_words(key, race_nonces, -(-count // 4), _INPUT_DOMAIN))
    return octets[:, :count].reshape(-1, size.sequence, size.width)


def derive_permutations(challenge: RaceChallenge, key: CounterKey, race_nonces: Tensor) -> Tensor:
    """Order of the output's coordinates: by random words, ties to the lower index.

    Shapes: race_nonces (N,) int64 -> (N, D) int64.
    """
    width = challenge.preset.size.width
    words = generate_words(key, race_nonces, width, _PERMUTATION_DOMAIN)
    ranked = words * width + torch.arange(width, dtype=torch.int64, device=words.device)
    return ranked.sort(dim=1).values % width
