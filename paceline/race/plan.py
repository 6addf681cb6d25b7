"""What a Race asks of whom: presets, the challenge of a seed, and everything that is drawn from it.

A node's inputs and permutations hang on the race seed, its public key and the `race_nonce`, so that nobody's hits are
another's and nothing can be made before the seed is known. It knows nothing of clocks, searches or claims.

A hit: the output vector, its coordinates permuted by the `race_nonce`, lies on the unit sphere nearer to the target than
a constant radius. The target's coordinates are +1 and -1, half each. With s the permuted output's product with the
target and |y| its length, distance² = 2 - 2 s / (|y| sqrt(width)), so "nearer than radius" is "s > 0 and s² > c |y|²"
with one constant c = width (1 - radius²/2)², which integers decide exactly.
How c was found: over all permutations s has mean 0 (the target sums to 0) and variance
(|y|² - width mean²) width / (width - 1), and averaged over outputs that is |y|². So s / |y| is close to a standard normal
variable whatever the seed, and c is near the square of its quantile; what is left of the distance, 0.5 % at 1 in 900, was
counted over permutations of true outputs. Measured (`bench/race.py --seeds 100`): hits scatter from seed to seed by
counting noise only.
Invariant: everything here is a function of (preset, race_seed, public_key, race_nonce).
Source: seed 001, Appendix A; decisions 003 and 017 (inputs drawn as embeddings, and why no vocabulary enters).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import DIGEST_BYTES, hash_parts
from paceline.base.integers import PPM
from paceline.base.keys import PUBLIC_KEY_BYTES
from paceline.models.counter_rng import StreamKey, build_streams, generate_bytes, split_key
from paceline.models.integer_transformer import LayerParams, TransformerShape, generate_params


@dataclass(frozen=True, kw_only=True)
class RacePreset:
    """One size of Race. `threshold_ppm` is c above, in millionths; `batch` only sets how a search cuts its work.

    Errors: ConfigError for sizes that no Race can have.
    """

    name: str
    layers: int
    heads: int
    width: int
    hidden: int
    sequence: int
    threshold_ppm: int
    batch: int

    def __post_init__(self) -> None:
        self.get_shape()
        if not 0 < self.threshold_ppm < self.width * PPM:
            raise ConfigError(f"race preset {self.name}: threshold_ppm must lie between 0 and width, in millionths")
        if self.batch < 1:
            raise ConfigError(f"race preset {self.name}: batch must be at least 1")

    def get_shape(self) -> TransformerShape:
        """The transformer of this preset."""
        return TransformerShape(
            layers=self.layers, heads=self.heads, width=self.width, hidden=self.hidden, sequence=self.sequence
        )


_ALL = (
    RacePreset(
        name="paper", layers=64, heads=128, width=512, hidden=8192, sequence=4, threshold_ppm=9_314_000, batch=1024
    ),
    RacePreset(
        name="consumer", layers=32, heads=64, width=512, hidden=8192, sequence=4, threshold_ppm=9_314_000, batch=512
    ),
    RacePreset(name="tiny", layers=2, heads=8, width=512, hidden=8192, sequence=4, threshold_ppm=2_705_000, batch=256),
    RacePreset(name="micro", layers=2, heads=4, width=64, hidden=128, sequence=4, threshold_ppm=1_654_000, batch=64),
)
PRESETS: dict[str, RacePreset] = {preset.name: preset for preset in _ALL}
MAX_WIDTH_BITS = 12


def count_params(preset: RacePreset) -> int:
    """How many parameters the network of a preset has, one byte each. Source: decision 017."""
    return preset.get_shape().params


@dataclass(frozen=True)
class RaceChallenge:
    """One Race, the same for all nodes. Errors: ConfigError when the seed is not 32 bytes."""

    preset: RacePreset
    race_seed: bytes

    def __post_init__(self) -> None:
        if len(self.race_seed) != DIGEST_BYTES:
            raise ConfigError(f"a race seed has {DIGEST_BYTES} bytes, this has {len(self.race_seed)}")


@dataclass(frozen=True)
class Entry:
    """One node in one Race: the keys of its inputs and permutations."""

    preset: RacePreset
    input_key: StreamKey
    permutation_key: StreamKey


def derive_params(challenge: RaceChallenge, device: torch.device | str = "cpu") -> Iterator[LayerParams]:
    """The transformer's parameters, common to all nodes, layer by layer."""
    return generate_params(challenge.preset.get_shape(), _derive(challenge, "race-model"), device)


def derive_target(challenge: RaceChallenge) -> Tensor:
    """The target vector, common to all nodes.

    Shapes: (width,) int8 of +1 and -1, half each.
    """
    width = challenge.preset.width
    order = _draw_permutations(split_key(_derive(challenge, "race-target")), build_streams([0]), width)[0]
    target = torch.ones(width, dtype=torch.int8)
    target[order[: width // 2]] = -1
    return target


def derive_entry(challenge: RaceChallenge, public_key: bytes) -> Entry:
    """What makes a node's search its own. Errors: ConfigError when the public key is not 32 bytes."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ConfigError(f"a public key has {PUBLIC_KEY_BYTES} bytes, this has {len(public_key)}")
    node_seed = hash_parts("race-node", public_key)
    keys = (split_key(_derive(challenge, purpose, node_seed)) for purpose in ("race-input", "race-permutation"))
    return Entry(challenge.preset, *keys)


def draw_inputs(entry: Entry, streams: Tensor) -> Tensor:
    """Input sequences of a batch of nonces: every odd number within ±127 alike, so symmetric.

    Shapes: (N, 2) from `build_streams` -> (N, sequence, width) int8, odd.
    """
    preset = entry.preset
    drawn = generate_bytes(entry.input_key, streams, preset.sequence * preset.width)
    return drawn.bitwise_or_(1).view(-1, preset.sequence, preset.width)


def draw_permutations(entry: Entry, streams: Tensor) -> Tensor:
    """The permutation of the output's coordinates for each nonce. Shapes: (N, 2) -> (N, width) int64."""
    return _draw_permutations(entry.permutation_key, streams, entry.preset.width)


def _draw_permutations(key: StreamKey, streams: Tensor, width: int) -> Tensor:
    """Indices in the order of one random signed 16-bit number each, ties to the lower index."""
    numbers = generate_bytes(key, streams, 2 * width).view(torch.int16).to(torch.int32)
    ranked = (numbers << MAX_WIDTH_BITS).bitwise_or_(torch.arange(width, dtype=torch.int32, device=streams.device))
    # NumPy sorts short rows some hundred times faster than torch does on a CPU.
    ordered = torch.from_numpy(np.sort(ranked.numpy())) if ranked.device.type == "cpu" else ranked.sort().values
    return (ordered & ((1 << MAX_WIDTH_BITS) - 1)).long()


def _derive(challenge: RaceChallenge, purpose: str, *parts: bytes) -> bytes:
    return hash_parts(purpose, challenge.preset.name.encode("ascii"), challenge.race_seed, *parts)
