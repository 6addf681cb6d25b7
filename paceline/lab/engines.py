"""Many ways to run one Llama: the arithmetic of honest engines, and what cheaters save on.

Batched and plain, so that thousands of tokens can be compared in minutes. It knows tensors, no requests and no judgement.
Invariant: an engine differs from the served model only by what its fields say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses for it)

from paceline.models.llama import LlamaShape
from paceline.models.quantise import quantise_matrix

Rounding = Callable[[torch.Tensor], torch.Tensor]
Params = Mapping[str, torch.Tensor]
NOISE = 0.01
_NOISE_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Roundings are applied to weights of linear layers, to their inputs, to keys and values."""

    weights: Rounding | None = None
    inputs: Rounding | None = None
    cache: Rounding | None = None
    wide: bool = False
    """All arithmetic in fp32 instead of bf16."""
    eager: bool = False
    """Attention as separate steps instead of one fused kernel."""
    dropped: tuple[int, ...] = ()
    """Layers that are left out."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What came out. Shapes: states (B, T, kinds, width) bf16, last kind of all first; logits are computed on demand."""

    hidden: torch.Tensor
    states: torch.Tensor


def round_int8(rows: torch.Tensor) -> torch.Tensor:
    """Symmetric 8-bit integers with a scale per row."""
    values = rows.float()
    scale = (values.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-12)
    return ((values / scale).round() * scale).to(rows.dtype)


def round_fp8(rows: torch.Tensor) -> torch.Tensor:
    """8-bit floats (e4m3) with a scale per row."""
    values = rows.float()
    scale = (values.abs().amax(-1, keepdim=True) / 448).clamp_min(1e-12)
    return ((values / scale).to(torch.float8_e4m3fn).float() * scale).to(rows.dtype)


def round_fp8_plain(values: torch.Tensor) -> torch.Tensor:
    """8-bit floats (e4m3) as they are: what servers do with keys and values by default."""
    return values.float().clamp(-448, 448).to(torch.float8_e4m3fn).to(values.dtype)


def add_noise(matrix: torch.Tensor) -> torch.Tensor:
    """Each weight off by about one percent, the same way each time."""
    generator = torch.Generator().manual_seed(_NOISE_SEED + matrix.numel())
    return (matrix.float() * (1 + NOISE * torch.randn(matrix.shape, generator=generator))).to(matrix.dtype)


ENGINES: dict[str, Engine] = {
    "bf16": Engine(),
    "fp32": Engine(wide=True),
    "eager": Engine(eager=True),
    "fp8-weights": Engine(weights=round_fp8),
    "int8-weights": Engine(weights=round_int8),
    "int8-w8a8": Engine(weights=round_int8, inputs=round_int8),
    "fp8-w8a8": Engine(weights=round_fp8, inputs=round_fp8),
    "fp8-kv": Engine(cache=round_fp8_plain),
    "weight-noise": Engine(weights=add_noise),
    "int4": Engine(weights=quantise_matrix),
    "layer-drop": Engine(dropped=(14,)),
}


class Cache:
    """Keys and values of all layers. Shapes: (layers, B, groups, T, dim)."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a layer, the new ones last."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), -2)
            self.values[layer] = torch.cat((self.values[layer], values), -2)
        return self.keys[layer], self.values[layer]


class EngineNetwork:
    """One engine with its weights. Engines of equal weights may share them through `lend`."""

    def __init__(self, shape: LlamaShape, params: Params, engine: Engine, traced: tuple[int, ...]) -> None:
        self._shape = shape
        self._engine = engine
        self._traced = traced
        self._params = params
        self._kept = [layer for layer in range(shape.num_hidden_layers) if layer not in engine.dropped]
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.arange(shape.max_position_embeddings).float()[:, None] / shape.rope_theta**exponents
        dtype = torch.float32 if engine.wide else torch.bfloat16
        self._cos, self._sin = (torch.cat((t, t), -1).to(dtype) for t in (angles.cos(), angles.sin()))

    @torch.inference_mode()
    def run(self, tokens: torch.Tensor, cache: Cache | None = None) -> Pass:
        """A prefill of equally long rows, or one more token of each with the cache of what came before.

        Shapes: tokens (B, T).
        """
        cache = Cache() if cache is None else cache
        start = cache.keys[0].shape[-2] if cache.keys else 0
        x = self._params["model.embed_tokens.weight"][tokens]
        kept: dict[int, torch.Tensor] = {}
        for place, layer in enumerate(self._kept):
            name = f"model.layers.{layer}."
            x = x + self._attend(self._norm(x, name + "input_layernorm"), name, start, place, cache)
            normed = self._norm(x, name + "post_attention_layernorm")
            gate, up = (self._linear(normed, f"{name}mlp.{part}_proj") for part in ("gate", "up"))
            x = x + self._linear(F.silu(gate) * up, name + "mlp.down_proj")
            if layer in self._traced:
                kept[layer] = x
        hidden = self._norm(x, "model.norm")
        states = torch.stack((hidden, *(kept[layer] for layer in self._traced)), 2).bfloat16()
        return Pass(hidden=hidden, states=states)

    @torch.inference_mode()
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Shapes: (T, width) -> (T, vocab_size) fp32."""
        return F.linear(hidden, self._params["model.embed_tokens.weight"]).float()

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (self._shape.hidden_size,), self._params[name + ".weight"], self._shape.rms_norm_eps)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        rounded = x if self._engine.inputs is None else self._engine.inputs(x)
        return F.linear(rounded, self._params[name + ".weight"])

    def _attend(self, normed: torch.Tensor, name: str, start: int, place: int, cache: Cache) -> torch.Tensor:
        shape, (batch, count, _) = self._shape, normed.shape
        heads, groups, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        q, k, v = (self._linear(normed, f"{name}self_attn.{part}_proj") for part in "qkv")
        q, k, v = (t.view(batch, count, -1, dim).transpose(1, 2) for t in (q, k, v))
        q, k = (self._rotate(t, start) for t in (q, k))
        if self._engine.cache is not None:
            k, v = self._engine.cache(k), self._engine.cache(v)
        keys, values = cache.extend(place, k.contiguous(), v.contiguous())
        mixed = (self._attend_eagerly if self._engine.eager else _attend_fused)(q, keys, values, heads // groups)
        return self._linear(mixed.transpose(1, 2).reshape(batch, count, heads * dim), name + "self_attn.o_proj")

    def _attend_eagerly(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, share: int) -> torch.Tensor:
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        scores = q @ k.transpose(-1, -2) * self._shape.head_dim**-0.5
        if q.shape[-2] > 1:
            ahead = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(ahead, -torch.inf)
        mixed: torch.Tensor = scores.float().softmax(-1).to(q.dtype) @ v
        return mixed

    def _rotate(self, x: torch.Tensor, start: int) -> torch.Tensor:
        half, stop = x.shape[-1] // 2, start + x.shape[-2]
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * self._cos[start:stop] + turned * self._sin[start:stop]


def build_networks(
    shape: LlamaShape, params: Params, names: list[str], traced: tuple[int, ...]
) -> dict[str, EngineNetwork]:
    """Engines by name; those that round weights alike share one copy."""
    copies: dict[tuple[Rounding | None, bool], Params] = {}
    networks = {}
    for name in names:
        engine = ENGINES[name]
        key = engine.weights, engine.wide
        if key not in copies:
            copies[key] = _convert(params, engine)
        networks[name] = EngineNetwork(shape, copies[key], engine, traced)
    return networks


def _convert(params: Params, engine: Engine) -> Params:
    rounding = engine.weights
    rounded = {
        name: rounding(tensor) if rounding is not None and name.endswith("_proj.weight") else tensor
        for name, tensor in params.items()
    }
    return {name: tensor.float() for name, tensor in rounded.items()} if engine.wide else rounded


def _attend_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, share: int) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[-2] > 1, enable_gqa=share > 1)
