"""A small transformer that reads and writes bytes: no tokenizer, so any UTF-8 text trains it.

It refuses to know who trains it, on what, or how its parameters travel.
Invariant: the first parameters follow from a seed through integers alone, so they are the same on every CPU; no
tensor has a gradient that is zero in exact arithmetic (no biases), because AdamW would blow its rounding up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn
from torch.nn import functional

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM

VOCABULARY = 256
_INIT_BOUND = 0.1
"""Half-width of the uniform start; of 0.05, 0.1 and 0.15 the one that learns fastest in short runs."""


@dataclass(frozen=True, kw_only=True)
class ByteGptConfig:
    """Sizes of the network. `width` is a multiple of `heads`."""

    layers: int
    width: int
    heads: int
    context: int


PRESETS = {"tiny": ByteGptConfig(layers=2, width=128, heads=4, context=64)}


class ByteGpt(nn.Module):
    """Decoder-only transformer over bytes with tied embeddings; its forward returns the loss.

    Shapes: tokens (B, T + 1) integers below 256, T at most the context; the loss is a scalar, nats per byte.
    """

    def __init__(self, config: ByteGptConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(VOCABULARY, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each byte after the first, given those before it."""
        logits = self.compute_logits(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def compute_logits(self, tokens: Tensor) -> Tensor:
        """Scores of the next byte.

        Shapes: (B, T) in, (B, T, 256) out.
        """
        hidden = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.token_embedding.weight)


class _Block(nn.Module):
    def __init__(self, config: ByteGptConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.LayerNorm(width, bias=False)
        self.feed_in = nn.Linear(width, 4 * width, bias=False)
        self.feed_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        joined = self.attention_in(self.attention_norm(hidden))
        query, key, value = joined.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = self.feed_out(functional.gelu(self.feed_in(self.feed_norm(hidden))))
        return hidden + fed


def get_config(preset: str) -> ByteGptConfig:
    """The sizes behind a preset name.

    Errors: ConfigError for a name that is none.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown model preset {preset!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]


def build_model(preset: str) -> ByteGpt:
    """A model whose parameters mean nothing yet; load some before use.

    Effects: none on torch's own generator, which would otherwise advance with every model built.
    """
    with torch.random.fork_rng(devices=[]):
        return ByteGpt(get_config(preset))


def build_initial_params(preset: str, seed: bytes) -> dict[str, Tensor]:
    """Parameters that follow from a seed, in name order: norms are one, output projections shrink with depth."""
    model = build_model(preset)
    shrink = 1 / math.sqrt(2 * model.config.layers)
    params: dict[str, Tensor] = {}
    for name, tensor in sorted(model.named_parameters()):
        if tensor.ndim == 1:
            params[name] = torch.ones(tensor.shape)
        else:
            bound = _INIT_BOUND * (shrink if name.endswith("_out.weight") else 1)
            params[name] = generate_uniform(hash_parts("byte-gpt-init", seed, name.encode()), tensor.shape) * bound
    return params


def sample_text(model: ByteGpt, prompt: bytes, *, length: int, seed: bytes, temperature_ppm: int = 800_000) -> str:
    """`length` bytes that continue a prompt, drawn at a temperature; bytes that are no UTF-8 show as U+FFFD."""
    words = np.frombuffer(blake3(hash_parts("byte-gpt-sample", seed)).digest(length=8 * length), dtype="<u8")
    written = list(prompt) or [ord("\n")]
    start = len(written)
    with torch.no_grad():
        for word in words:
            window = torch.tensor([written[-model.config.context :]])
            scores = model.compute_logits(window)[0, -1].double() * (PPM / temperature_ppm)
            ladder = torch.softmax(scores, dim=0).cumsum(dim=0)
            written.append(min(VOCABULARY - 1, int(torch.searchsorted(ladder, int(word) / 2**64))))
    return bytes(written[start:]).decode("utf-8", errors="replace")


def generate_uniform(seed: bytes, shape: torch.Size) -> Tensor:
    """Multiples of 2**-23 in [-1, 1): every value and the later product are exact or rounded once, on any CPU."""
    words = np.frombuffer(blake3(seed).digest(length=4 * shape.numel()), dtype="<u4")
    centred = (words >> 8).astype(np.int32) - 2**23
    return torch.from_numpy(centred.astype(np.float32) * np.float32(2**-23)).reshape(shape)
