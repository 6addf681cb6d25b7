"""What every decoder-only network here shares: the cache, attention by segments, the walk through the layers, the head.

Rows of several sequences may run together: products see all rows at once, attention sees each sequence with its own cache,
so nothing is padded. It knows tensors and positions only: no tokenizer, no sampling, no file names, no peers.
Invariant: parameters are never written, so one loaded network serves any number of caches at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses for it)
from torch import Tensor

from paceline.base.errors import ConfigError

Taps = Mapping[int, list[Tensor]]
MATRIX_NAMES: Mapping[str, str] = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""Linear layers of a block, which all families name alike."""


class DecoderShape(Protocol):
    """The numbers that the shared part needs of an architecture, named as in its config.json."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Fused attention, as torch brings it. Shapes: (1, heads, T, D) against (1, groups, S, D); mask (T, S), True where seen."""
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def attend_eager(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention as plain products with the softmax in fp32: what engines without a fused kernel compute. Shapes: as above."""
    repeats = queries.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights: Tensor = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return weights @ values


def keep_unchanged(states: Tensor) -> Tensor:
    """Keys and values go into the cache as they are."""
    return states


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Who computes the linear layers, the attention, and what the cache holds. The defaults are the engine that is served."""

    project: Callable[[Tensor, Tensor], Tensor] = F.linear
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor] = attend_fused
    store: Callable[[Tensor], Tensor] = keep_unchanged


class KeyValueCache:
    """Keys and values of the positions seen so far.

    Memory is reserved for `capacity_tokens` and touched only as positions fill.
    """

    def __init__(self, shape: DecoderShape, capacity_tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
        self.capacity_tokens = capacity_tokens
        self.length_tokens = 0
        size = (shape.num_hidden_layers, shape.num_key_value_heads, capacity_tokens, shape.head_dim)
        self.keys = torch.empty(size, dtype=dtype)
        self.values = torch.empty(size, dtype=dtype)


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one sequence; `start` is the first one's position."""

    cache: KeyValueCache
    start: int
    count: int


@dataclass(frozen=True)
class Batch:
    """The rows of one pass, sequence after sequence."""

    segments: Sequence[Segment]
    positions: Tensor | slice
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def get_window_mask(self, length: int, window: int) -> Tensor:
        """The mask of a prompt in layers that see `window` positions, made once a pass."""
        if (length, window) not in self._masks:
            self._masks[length, window] = _build_window_mask(length, window)
        return self._masks[length, window]


class DecoderNetwork(ABC):
    """A causal network. A family says what a layer is."""

    shape: DecoderShape

    def __init__(self, params: Mapping[str, Tensor], kernels: Kernels | None) -> None:
        self._kernels = kernels or Kernels()
        self._embedding = params["model.embed_tokens.weight"]
        # Without a head of its own, the embedding is its head.
        self._head = params.get("lm_head.weight", self._embedding)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, which its caches hold too."""
        return self._embedding.dtype

    def open_cache(self, capacity_tokens: int) -> KeyValueCache:
        """An empty cache for one sequence."""
        return KeyValueCache(self.shape, capacity_tokens, self.dtype)

    def compute_hidden(self, token_ids: Tensor, cache: KeyValueCache, taps: Taps | None = None) -> Tensor:
        """Run tokens through every block, appending to the cache; `taps` takes the states after the layers it names.

        Shapes: token_ids (T,), either any T on an empty cache or T = 1; returns (T, hidden_size) after the last norm.
        Effects: appends one (T, hidden_size) tensor (bf16 as served) to the list of each layer in `taps`, first layer 0.
        """
        return self.compute_hidden_together([token_ids], [cache], taps)

    @torch.inference_mode()
    def compute_hidden_together(
        self, token_ids: Sequence[Tensor], caches: Sequence[KeyValueCache], taps: Taps | None = None
    ) -> Tensor:
        """As `compute_hidden` for several sequences: rows stand one sequence after another.

        A row that runs beside others may differ in its last bits from the same row alone: products of other heights sum in
        another order.
        """
        batch = _lay_out([len(ids) for ids in token_ids], caches)
        x = self._embed(torch.cat(list(token_ids)) if len(token_ids) > 1 else token_ids[0])
        for index in range(self.shape.num_hidden_layers):
            x = self._run_layer(x, index, batch)
            if taps is not None and index in taps:
                taps[index].append(x)
        for segment in batch.segments:
            segment.cache.length_tokens += segment.count
        return self._normalise_last(x)

    @torch.inference_mode()
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token. Shapes: (T, hidden_size) -> (T, vocab_size) in fp32, products rounded to `dtype`."""
        return F.linear(hidden, self._head).float()

    @abstractmethod
    def _embed(self, token_ids: Tensor) -> Tensor: ...

    @abstractmethod
    def _run_layer(self, x: Tensor, index: int, batch: Batch) -> Tensor: ...

    @abstractmethod
    def _normalise_last(self, x: Tensor) -> Tensor: ...

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, index: int, batch: Batch, window: int | None = None
    ) -> Tensor:
        """Attention of every row to its own sequence. Shapes: (T, heads, D), (T, groups, D) twice -> (T, heads * D)."""
        keys, values = self._kernels.store(keys), self._kernels.store(values)
        mixed, first = [], 0
        for segment in batch.segments:
            rows = slice(first, first + segment.count)
            first += segment.count
            cache, end = segment.cache, segment.start + segment.count
            cache.keys[index, :, segment.start : end] = keys[rows].transpose(0, 1)
            cache.values[index, :, segment.start : end] = values[rows].transpose(0, 1)
            mask = None
            if window is not None and segment.count > 1 and window < end:
                mask = batch.get_window_mask(end, window)
            mixed.append(self._attend_segment(queries[rows], segment, index, window, mask))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _attend_segment(
        self, queries: Tensor, segment: Segment, index: int, window: int | None, mask: Tensor | None
    ) -> Tensor:
        count, heads, dim = queries.shape
        groups, end = self.shape.num_key_value_heads, segment.start + segment.count
        # One query needs only what it sees, and no mask.
        first = max(0, end - window) if window is not None and count == 1 else 0
        keys = segment.cache.keys[index : index + 1, :, first:end]
        values = segment.cache.values[index : index + 1, :, first:end]
        if count == 1:
            # With one query position, the heads that share a key-value head are just more queries of that head.
            grouped = queries.reshape(1, groups, heads // groups, dim)
            return self._kernels.attend(grouped, keys, values, None, False).reshape(1, heads * dim)
        mixed = self._kernels.attend(queries.transpose(0, 1)[None], keys, values, mask, mask is None)
        return mixed[0].transpose(0, 1).reshape(count, heads * dim)


def check_covered(family: str, found: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a config.json whose settings are not those that a forward pass computes: by name, (its value, the only one).

    Errors: ConfigError naming what is not covered.
    """
    for name, (value, wanted) in found.items():
        if value != wanted:
            raise ConfigError(f"{name} is {value!r}: this {family} runs with {wanted!r} only")


def select_tensors(params: Mapping[str, Tensor], prefix: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of one block by the names of their fields."""
    return {field: params[f"{prefix}.{name}.weight"] for field, name in names.items()}


def compute_rotary_tables(
    head_dim: int, positions: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding. Shapes: (positions, head_dim) each."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.arange(positions).float()[:, None] / theta**exponents
    cos, sin = angles.cos(), angles.sin()
    # The minus sign of the rotated half lives in the table, which saves one pass per layer.
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding. Shapes: x (T, heads, D), tables (T, 1, D)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((x[..., half:], x[..., :half]), -1) * sin


def _lay_out(counts: Sequence[int], caches: Sequence[KeyValueCache]) -> Batch:
    segments = [Segment(cache, cache.length_tokens, count) for cache, count in zip(caches, counts, strict=True)]
    for segment in segments:
        assert segment.start == 0 or segment.count == 1, "a prompt is one prefill, then single tokens follow"
        assert segment.start + segment.count <= segment.cache.capacity_tokens
    if len(segments) == 1:
        return Batch(segments, slice(segments[0].start, segments[0].start + segments[0].count))
    return Batch(segments, torch.cat([torch.arange(part.start, part.start + part.count) for part in segments]))


def _build_window_mask(length: int, window: int) -> Tensor:
    """Each of a prompt's positions sees itself and the `window - 1` before it."""
    seen = torch.ones(length, length, dtype=torch.bool)
    return seen.tril() & seen.triu(1 - window)
