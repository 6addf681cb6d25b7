"""Which forward pass runs a model, told from its config.json.

It knows names of families and nothing of files. Invariant: a family that is not listed is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from paceline.base.errors import ConfigError
from paceline.models.decoder import DecoderNetwork, Kernels
from paceline.models.gemma3 import Gemma3Network, get_gemma3_shape
from paceline.models.llama import LlamaNetwork, get_llama_shape

Params = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """What its config.json must hold beside the sizes, and how a network is made of it."""

    config_names: tuple[str, ...]
    get_shape: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any, Params, Kernels | None], DecoderNetwork]


_SHARED_NAMES = (
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
)
FAMILIES: Mapping[str, Family] = {
    "llama": Family(("hidden_act",), get_llama_shape, LlamaNetwork),
    "gemma3_text": Family(
        ("hidden_activation", "layer_types", "query_pre_attn_scalar", "sliding_window"),
        get_gemma3_shape,
        Gemma3Network,
    ),
}


def get_family(config: Mapping[str, Any]) -> Family:
    """Errors: ConfigError for a family without a forward pass here."""
    found = str(config.get("model_type"))
    if found not in FAMILIES:
        raise ConfigError(f"model_type is {found!r}: forward passes exist for {', '.join(FAMILIES)}")
    return FAMILIES[found]


def select_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the forward pass reads of a config, after a look whether it covers the whole.

    Errors: ConfigError naming what is missing or not covered.
    """
    family = get_family(config)
    names = (*_SHARED_NAMES, *family.config_names)
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise ConfigError(f"config.json lacks {', '.join(missing)}")
    family.get_shape(config)
    return {name: config[name] for name in names}


def build_network(
    config: Mapping[str, Any], params: Params, *, context_tokens: int, kernels: Kernels | None = None
) -> DecoderNetwork:
    """The network of a parsed config.json, for positions below `context_tokens`."""
    family = get_family(config)
    shape = family.get_shape(config)
    context = min(context_tokens, shape.max_position_embeddings)
    return family.build(replace(shape, max_position_embeddings=context), params, kernels)
