"""Named ways to run a prepared model otherwise than it is served: what cheats save on, and honest arithmetic that differs.

It knows parameters and kernels and judges nothing. Invariant: every variant states the model id, content hash and engine of
the model it pretends to be, as a cheat does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from paceline.base.errors import ConfigError
from paceline.models.decoder import Kernels, attend_eager
from paceline.models.language import LanguageModel
from paceline.models.quantise import (
    ParamsChange,
    change_linear,
    project_fp8,
    project_int8,
    quantise_params,
    round_fp8,
    round_rows_fp8,
    round_rows_int8,
)

NOISE_SHARE = 0.01
NOISE_SEED = 20_260_101
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change of parameters and kernels. `honest` ones compute the published weights and must never be punished."""

    meaning: str
    change: ParamsChange = dict
    kernels: Kernels = field(default_factory=Kernels)
    honest: bool = False


def add_noise(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every weight of a linear layer times 1 + 1 % of a normal number, the same numbers every time."""
    generator = torch.Generator().manual_seed(NOISE_SEED)

    def disturb(matrix: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(matrix.shape, generator=generator) * NOISE_SHARE
        return (matrix.float() * (1 + noise)).to(matrix.dtype)

    return change_linear(dict(sorted(params.items())), disturb)


def drop_middle_layer(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Silence the middle layer: with both output projections zero, states pass through it unchanged."""
    layers = 1 + max(int(found[1]) for name in params if (found := _LAYER.match(name)))
    silenced = [f"model.layers.{layers // 2}.{name}.weight" for name in ("self_attn.o_proj", "mlp.down_proj")]
    return {name: torch.zeros_like(tensor) if name in silenced else tensor for name, tensor in params.items()}


def widen(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All parameters in fp32; the network computes in the type of its parameters."""
    return {name: tensor.float() for name, tensor in params.items()}


def _round_int8(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return change_linear(params, round_rows_int8)


def _round_fp8(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return change_linear(params, round_rows_fp8)


VARIANTS: Mapping[str, Variant] = {
    "served": Variant(meaning="as it is served", honest=True),
    "fp32": Variant(meaning="fp32 throughout", change=widen, honest=True),
    "eager": Variant(meaning="plain attention", kernels=Kernels(attend=attend_eager), honest=True),
    "int4-g128": Variant(meaning="4-bit weights, groups of 128", change=quantise_params),
    "int4-g32": Variant(
        meaning="4-bit weights, groups of 32", change=functools.partial(quantise_params, group_size=32)
    ),
    "int8-weights": Variant(meaning="8-bit weights, a scale per output", change=_round_int8),
    "int8-w8a8": Variant(
        meaning="8-bit weights and activations", change=_round_int8, kernels=Kernels(project=project_int8)
    ),
    "fp8-weights": Variant(meaning="fp8 weights, a scale per output", change=_round_fp8),
    "fp8-w8a8": Variant(meaning="fp8 weights and activations", change=_round_fp8, kernels=Kernels(project=project_fp8)),
    "fp8-kv": Variant(meaning="fp8 cache", kernels=Kernels(store=round_fp8)),
    "noise-1pct": Variant(meaning="1 % noise on the weights", change=add_noise),
    "dropped-layer": Variant(meaning="without its middle layer", change=drop_middle_layer),
}


def get_variant(name: str) -> Variant:
    """Errors: ConfigError naming those that exist."""
    if name not in VARIANTS:
        raise ConfigError(f"variant {name!r} is none of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def load_variant(path: Path, name: str) -> LanguageModel:
    """A prepared model under a variant's arithmetic.

    Errors: ConfigError for an unknown name; WorkError when the model directory is damaged.
    """
    variant = get_variant(name)
    return LanguageModel.load(path, change=variant.change, kernels=variant.kernels)
