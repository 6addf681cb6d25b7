"""The Llama layers on one CPU thread: plain functions over memory-mapped parameters and a growing cache.

It knows tensors and positions only: no tokenizer, no sampling, no file names, no peers. transformers' own Llama is the
slow twin: it costs seconds to import and about a sixth of the speed at one token a step; a test holds both together.
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


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The numbers of a Llama architecture, named as in its config.json."""

    vocab_size: int
    hidden_size: int
    head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True, kw_only=True)
class LayerParams:
    """The tensors of one block, rows are outputs."""

    attention_norm: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


_LAYER_NAMES = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", **MATRIX_NAMES}


def get_llama_shape(config: Mapping[str, Any]) -> LlamaShape:
    """The shape stated by a parsed config.json.

    Errors: ConfigError naming what this forward pass does not cover.
    """
    rope = config["rope_parameters"]
    found = {
        "hidden_act": (config["hidden_act"], "silu"),
        "rope_type": (rope["rope_type"], "default"),
        "attention_bias": (config.get("attention_bias", False), False),
        "mlp_bias": (config.get("mlp_bias", False), False),
    }
    check_covered("Llama", found)
    names = [name for name in LlamaShape.__dataclass_fields__ if name != "rope_theta"]
    return LlamaShape(rope_theta=rope["rope_theta"], **{name: config[name] for name in names})


class LlamaNetwork(DecoderNetwork):
    """A causal Llama in the type of its parameters."""

    shape: LlamaShape

    def __init__(self, shape: LlamaShape, params: Mapping[str, torch.Tensor], kernels: Kernels | None = None) -> None:
        super().__init__(params, kernels)
        self.shape = shape
        self._final_norm = params["model.norm.weight"]
        self._layers = [
            LayerParams(**select_tensors(params, f"model.layers.{index}", _LAYER_NAMES))
            for index in range(shape.num_hidden_layers)
        ]
        self._cos, self._sin = compute_rotary_tables(
            shape.head_dim, shape.max_position_embeddings, shape.rope_theta, self.dtype
        )

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self._embedding[token_ids]

    def _run_layer(self, x: torch.Tensor, index: int, batch: Batch) -> torch.Tensor:
        layer, project = self._layers[index], self._kernels.project
        x = x + self._mix(self._normalise(x, layer.attention_norm), layer, index, batch)
        normed = self._normalise(x, layer.mlp_norm)
        return x + project(F.silu(project(normed, layer.gate)) * project(normed, layer.up), layer.down)

    def _normalise_last(self, x: torch.Tensor) -> torch.Tensor:
        return self._normalise(x, self._final_norm)

    def _normalise(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (self.shape.hidden_size,), scale, self.shape.rms_norm_eps)

    def _mix(self, normed: torch.Tensor, layer: LayerParams, index: int, batch: Batch) -> torch.Tensor:
        shape, count, project = self.shape, len(normed), self._kernels.project
        heads, groups, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        rotated = torch.cat((project(normed, layer.query), project(normed, layer.key)), -1)
        cos, sin = self._cos[batch.positions, None], self._sin[batch.positions, None]
        rotated = rotate(rotated.view(count, heads + groups, dim), cos, sin)
        values = project(normed, layer.value).view(count, groups, dim)
        mixed = self._attend(rotated[:, :heads], rotated[:, heads:], values, index=index, batch=batch)
        return project(mixed, layer.output)
