"""The Gemma 3 layers: norms before and after each half, normalised queries and keys, windows that slide in most layers.

It knows tensors and positions only: no tokenizer, no sampling, no file names, no peers. transformers' own Gemma 3 is the
slow twin; a test holds both together.
Invariant: parameters are never written, so one loaded model serves any number of caches at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses for it)

from paceline.models.decoder import (
    MATRIX_NAMES,
    Batch,
    DecoderNetwork,
    Kernels,
    check_covered,
    compute_rotary_tables,
    rotate,
    select_tensors,
)

SLIDING = "sliding_attention"
FULL = "full_attention"


@dataclass(frozen=True, kw_only=True)
class Gemma3Shape:
    """The numbers of a Gemma 3 architecture, named as in its config.json."""

    vocab_size: int
    hidden_size: int
    head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    rms_norm_eps: float
    sliding_window: int
    layer_types: tuple[str, ...]
    rope_thetas: Mapping[str, float]
    """By layer type."""


@dataclass(frozen=True, kw_only=True)
class Gemma3Layer:
    """The tensors of one block, rows are outputs; norms are fp32 and hold 1 + what the file holds."""

    before_attention: torch.Tensor
    after_attention: torch.Tensor
    before_mlp: torch.Tensor
    after_mlp: torch.Tensor
    heads_norm: torch.Tensor
    """(heads + groups, 1 or D): scales of queries, then of keys."""
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


_NORM_NAMES = {
    "before_attention": "input_layernorm",
    "after_attention": "post_attention_layernorm",
    "before_mlp": "pre_feedforward_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}


def get_gemma3_shape(config: Mapping[str, Any]) -> Gemma3Shape:
    """The shape stated by a parsed config.json.

    Errors: ConfigError naming what this forward pass does not cover.
    """
    ropes = config["rope_parameters"]
    found = {
        "hidden_activation": (config["hidden_activation"], "gelu_pytorch_tanh"),
        "query_pre_attn_scalar": (config["query_pre_attn_scalar"], config["head_dim"]),
        "attention_bias": (config.get("attention_bias", False), False),
        "attn_logit_softcapping": (config.get("attn_logit_softcapping"), None),
        "final_logit_softcapping": (config.get("final_logit_softcapping"), None),
        "use_bidirectional_attention": (config.get("use_bidirectional_attention", False), False),
    }
    found |= {f"rope_type of {kind}": (rope["rope_type"], "default") for kind, rope in ropes.items()}
    check_covered("Gemma 3", found)
    names = [name for name in Gemma3Shape.__dataclass_fields__ if name not in {"layer_types", "rope_thetas"}]
    return Gemma3Shape(
        layer_types=tuple(config["layer_types"]),
        rope_thetas={kind: rope["rope_theta"] for kind, rope in ropes.items()},
        **{name: config[name] for name in names},
    )


class Gemma3Network(DecoderNetwork):
    """A causal Gemma 3 in the type of its parameters; norms are computed in fp32."""

    shape: Gemma3Shape

    def __init__(self, shape: Gemma3Shape, params: Mapping[str, torch.Tensor], kernels: Kernels | None = None) -> None:
        super().__init__(params, kernels)
        self.shape = shape
        # Rounded to the type of the embedding, as the model was trained.
        self._embedding_scale = torch.tensor(shape.hidden_size**0.5, dtype=self.dtype)
        self._final_norm = _get_norm(params, "model.norm")
        self._layers = [_get_layer(shape, params, index) for index in range(shape.num_hidden_layers)]
        self._tables = {
            kind: compute_rotary_tables(shape.head_dim, shape.max_position_embeddings, theta, self.dtype)
            for kind, theta in shape.rope_thetas.items()
        }

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self._embedding[token_ids] * self._embedding_scale

    def _run_layer(self, x: torch.Tensor, index: int, batch: Batch) -> torch.Tensor:
        layer, project = self._layers[index], self._kernels.project
        mixed = self._mix(self._normalise(x, layer.before_attention), layer, index, batch)
        x = x + self._normalise(mixed, layer.after_attention)
        normed = self._normalise(x, layer.before_mlp)
        gated = F.gelu(project(normed, layer.gate), approximate="tanh") * project(normed, layer.up)
        return x + self._normalise(project(gated, layer.down), layer.after_mlp)

    def _normalise_last(self, x: torch.Tensor) -> torch.Tensor:
        return self._normalise(x, self._final_norm)

    def _normalise(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), (self.shape.hidden_size,), scale, self.shape.rms_norm_eps).to(x.dtype)

    def _mix(self, normed: torch.Tensor, layer: Gemma3Layer, index: int, batch: Batch) -> torch.Tensor:
        shape, count, project = self.shape, len(normed), self._kernels.project
        heads, groups, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        joined = torch.cat((project(normed, layer.query), project(normed, layer.key)), -1)
        joined = joined.view(count, heads + groups, dim).float()
        joined = (F.rms_norm(joined, (dim,), None, shape.rms_norm_eps) * layer.heads_norm).to(normed.dtype)
        kind = shape.layer_types[index]
        cos, sin = self._tables[kind]
        rotated = rotate(joined, cos[batch.positions, None], sin[batch.positions, None])
        values = project(normed, layer.value).view(count, groups, dim)
        window = shape.sliding_window if kind == SLIDING else None
        mixed = self._attend(rotated[:, :heads], rotated[:, heads:], values, index=index, batch=batch, window=window)
        return project(mixed, layer.output)


def _get_layer(shape: Gemma3Shape, params: Mapping[str, torch.Tensor], index: int) -> Gemma3Layer:
    prefix = f"model.layers.{index}"
    queries = _get_norm(params, f"{prefix}.self_attn.q_norm").expand(shape.num_attention_heads, -1)
    keys = _get_norm(params, f"{prefix}.self_attn.k_norm").expand(shape.num_key_value_heads, -1)
    return Gemma3Layer(
        heads_norm=torch.cat((queries, keys)),
        **{field: _get_norm(params, f"{prefix}.{name}") for field, name in _NORM_NAMES.items()},
        **select_tensors(params, prefix, MATRIX_NAMES),
    )


def _get_norm(params: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    return 1.0 + params[f"{name}.weight"].float()
