"""The Llama forward pass on one CPU thread: plain functions over memory-mapped parameters and a growing cache.

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

HEAD_CHUNK_TOKENS = 64


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


_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def get_shape(config: Mapping[str, Any]) -> LlamaShape:
    """The shape stated by a parsed config.json with default rotary embeddings and tied embeddings."""
    assert config["tie_word_embeddings"] and config["hidden_act"] == "silu"
    assert config["rope_parameters"]["rope_type"] == "default"
    names = [name for name in LlamaShape.__dataclass_fields__ if name != "rope_theta"]
    return LlamaShape(rope_theta=config["rope_parameters"]["rope_theta"], **{name: config[name] for name in names})


class KeyValueCache:
    """Keys and values of the positions seen so far.

    Memory is reserved for `capacity_tokens` and touched only as positions fill.
    """

    def __init__(self, shape: LlamaShape, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.length_tokens = 0
        size = (shape.num_hidden_layers, shape.num_key_value_heads, capacity_tokens, shape.head_dim)
        self.keys = torch.empty(size, dtype=torch.bfloat16)
        self.values = torch.empty(size, dtype=torch.bfloat16)


class LlamaNetwork:
    """A causal Llama in bf16 whose output head is its embedding."""

    def __init__(self, shape: LlamaShape, params: Mapping[str, torch.Tensor]) -> None:
        self.shape = shape
        self._embedding = params["model.embed_tokens.weight"]
        self._final_norm = params["model.norm.weight"]
        self._layers = [_get_layer(params, index) for index in range(shape.num_hidden_layers)]
        self._cos, self._sin = _compute_rotary_tables(shape)

    @torch.inference_mode()
    def compute_hidden(
        self, token_ids: torch.Tensor, cache: KeyValueCache, taps: Mapping[int, list[torch.Tensor]] | None = None
    ) -> torch.Tensor:
        """Run tokens through every block, appending to the cache; `taps` takes the states after the layers it names.

        Shapes: token_ids (T,), either any T on an empty cache or T = 1; returns (T, hidden_size) after the last norm.
        Effects: appends one (T, hidden_size) bf16 tensor to the list of each layer in `taps`, first layer 0.
        """
        shape, start, count = self.shape, cache.length_tokens, len(token_ids)
        assert start == 0 or count == 1, "a prompt is one prefill, then single tokens follow"
        assert start + count <= cache.capacity_tokens
        rotary = self._cos[start : start + count, None], self._sin[start : start + count, None]
        x = self._embedding[token_ids]
        for index, layer in enumerate(self._layers):
            normed = F.rms_norm(x, (shape.hidden_size,), layer.attention_norm, shape.rms_norm_eps)
            x = x + self._attend(normed, layer, rotary, cache, index)
            normed = F.rms_norm(x, (shape.hidden_size,), layer.mlp_norm, shape.rms_norm_eps)
            x = x + F.linear(F.silu(F.linear(normed, layer.gate)) * F.linear(normed, layer.up), layer.down)
            if taps is not None and index in taps:
                taps[index].append(x)
        cache.length_tokens += count
        return F.rms_norm(x, (shape.hidden_size,), self._final_norm, shape.rms_norm_eps)

    @torch.inference_mode()
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the next token. Shapes: (T, hidden_size) -> (T, vocab_size) in fp32, products rounded to bf16."""
        return F.linear(hidden, self._embedding).float()

    def _attend(
        self,
        normed: torch.Tensor,
        layer: LayerParams,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: KeyValueCache,
        index: int,
    ) -> torch.Tensor:
        shape, count = self.shape, len(normed)
        heads, groups, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        start, end = cache.length_tokens, cache.length_tokens + count
        rotated = torch.cat((F.linear(normed, layer.query), F.linear(normed, layer.key)), -1)
        rotated = _rotate(rotated.view(count, heads + groups, dim), *rotary)
        cache.keys[index, :, start:end] = rotated[:, heads:].transpose(0, 1)
        cache.values[index, :, start:end] = F.linear(normed, layer.value).view(count, groups, dim).transpose(0, 1)
        keys, values = cache.keys[index : index + 1, :, :end], cache.values[index : index + 1, :, :end]
        if count == 1:
            # With one query position, the heads that share a key-value head are just more queries of that head.
            queries = rotated[:, :heads].reshape(1, groups, heads // groups, dim)
            mixed = F.scaled_dot_product_attention(queries, keys, values).reshape(1, heads * dim)
        else:
            queries = rotated[:, :heads].transpose(0, 1)[None]
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
            mixed = mixed[0].transpose(0, 1).reshape(count, heads * dim)
        return F.linear(mixed, layer.output)


def _get_layer(params: Mapping[str, torch.Tensor], index: int) -> LayerParams:
    return LayerParams(**{field: params[f"model.layers.{index}.{name}.weight"] for field, name in _LAYER_NAMES.items()})


def _compute_rotary_tables(shape: LlamaShape) -> tuple[torch.Tensor, torch.Tensor]:
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.arange(shape.max_position_embeddings).float()[:, None] / shape.rope_theta**exponents
    cos, sin = angles.cos(), angles.sin()
    # The minus sign of the rotated half lives in the table, which saves one pass per layer.
    return torch.cat((cos, cos), -1).bfloat16(), torch.cat((-sin, sin), -1).bfloat16()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((x[..., half:], x[..., :half]), -1) * sin
