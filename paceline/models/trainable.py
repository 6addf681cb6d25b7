"""Models to train by name: presets from a seed, folders in Hugging Face's layout with the params they hold.

It refuses to know who trains them, on what, or how their parameters travel. Invariant: a preset's first parameters follow
from (preset, vocabulary, seed) through integers alone, so they are the same on every CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.base.integers import MAX_UINT64
from paceline.models.byte_gpt import generate_uniform
from paceline.models.trainable_folder import TransformersModel, load_folder
from paceline.models.trainable_llama import TrainableLlama, TrainableShape, build_from_params

Trainable = TrainableLlama | TransformersModel
_NORM_EPS = 1e-5
_SPREAD = 0.4
"""Variance of a fresh matrix times the width: about 0.02 as standard deviation at width 1,000, more in narrow models."""
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


@dataclass(frozen=True, kw_only=True)
class PresetSizes:
    """Sizes of a preset. The embedding (vocabulary x width, tied) comes on top of what its name counts."""

    layers: int
    width: int
    heads: int
    groups: int
    inner: int
    context_tokens: int
    theta: float = 10_000.0


PRESETS = {
    "byte-gpt-0.5m": PresetSizes(layers=4, width=96, heads=3, groups=3, inner=256, context_tokens=64),
    "byte-gpt-1m": PresetSizes(layers=5, width=128, heads=4, groups=4, inner=344, context_tokens=128),
    "llama-10m": PresetSizes(layers=8, width=320, heads=5, groups=5, inner=864, context_tokens=1024),
    "llama-30m": PresetSizes(layers=10, width=512, heads=8, groups=8, inner=1344, context_tokens=1024),
    "llama-100m": PresetSizes(layers=14, width=768, heads=12, groups=12, inner=2048, context_tokens=2048),
    "llama-300m": PresetSizes(layers=24, width=1024, heads=16, groups=16, inner=2752, context_tokens=2048),
    "llama-1b": PresetSizes(
        layers=16, width=2048, heads=32, groups=8, inner=8192, context_tokens=2048, theta=500_000.0
    ),
}


def build_trainable(name_or_folder: str | Path, *, vocabulary: int, seed: int) -> Trainable:
    """A module whose forward takes tokens (B, T + 1) and returns the loss.

    A folder brings its own params, so the seed chooses nothing there.
    Errors: ConfigError for a name that is neither, and for token ids that the model does not embed.
    Effects: none on torch's own generator.
    """
    if name_or_folder in PRESETS:
        shape = get_preset_shape(str(name_or_folder), vocabulary)
        return build_from_params(shape, build_initial_params(shape, seed))
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise ConfigError(f"model is {str(name_or_folder)!r}; name a folder or one of {', '.join(PRESETS)}")
    module = load_folder(folder)
    if vocabulary > module.vocabulary:
        raise ConfigError(
            f"vocabulary is {vocabulary}, the model in {folder} embeds {module.vocabulary} tokens; "
            "use the tokenizer of its folder"
        )
    return module


def get_preset_shape(preset: str, vocabulary: int) -> TrainableShape:
    """The architecture behind a preset for a tokenizer.

    Errors: ConfigError for a vocabulary without a choice.
    """
    if vocabulary < 2:
        raise ConfigError(f"vocabulary is {vocabulary}; a model needs at least 2 tokens to choose from")
    sizes = PRESETS[preset]
    return TrainableShape(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        head_dim=sizes.width // sizes.heads,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.groups,
        num_hidden_layers=sizes.layers,
        max_position_embeddings=sizes.context_tokens,
        rms_norm_eps=_NORM_EPS,
        rope_theta=sizes.theta,
        tie_word_embeddings=True,
    )


def build_initial_params(shape: TrainableShape, seed: int) -> dict[str, Tensor]:
    """Parameters that follow from a seed: norms are one, matrices uniform, those that write to the residual shrink with depth.

    Errors: ConfigError for a seed outside 64 bits.
    """
    if not 0 <= seed <= MAX_UINT64:
        raise ConfigError(f"seed is {seed}; use a number from 0 to {MAX_UINT64}")
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in TrainableLlama(shape).named_parameters()}
    bound = math.sqrt(3 * _SPREAD / shape.hidden_size)
    shrink = 1 / math.sqrt(2 * shape.num_hidden_layers)
    params: dict[str, Tensor] = {}
    for name, size in names.items():
        if len(size) == 1:
            params[name] = torch.ones(size)
        else:
            scale = bound * (shrink if name.endswith(_RESIDUAL_OUTPUTS) else 1)
            stream = hash_parts("trainable-init", seed.to_bytes(8, "little"), name.encode())
            params[name] = generate_uniform(stream, size).mul_(scale)
    return params
