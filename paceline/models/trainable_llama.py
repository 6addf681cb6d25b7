"""A Llama to train: one module whose forward returns the loss, under the names that transformers gives its parameters.

It refuses to know data, optimisers and files. `llama.py` is the other one: it serves finished params and keeps a cache.
Invariant: params (and their order) and config.json fit transformers' Llama as they are, no tensor is a bias, and no dropout draws at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paceline.base.errors import ConfigError
from paceline.models.decoder import compute_rotary_tables, rotate
from paceline.models.families import select_config
from paceline.models.llama import LlamaShape, get_llama_shape
from paceline.models.local import normalise_config

ARCHITECTURE = "LlamaForCausalLM"
_ROPE_SETTINGS = frozenset({"rope_type", "rope_theta"})


@dataclass(frozen=True, kw_only=True)
class TrainableShape(LlamaShape):
    """What training needs beside the numbers of the served architecture; the last field: one matrix embeds and scores."""

    intermediate_size: int
    tie_word_embeddings: bool


class TrainableLlama(nn.Module):
    """A decoder with rotary positions, RMS norms and SwiGLU; its params mean nothing until some are loaded.

    Shapes: tokens (B, T + 1) integers below the vocabulary, T at most the context; the loss is a scalar, nats per token.
    """

    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Stack(shape)
        if not shape.tie_word_embeddings:
            self.lm_head = _Matrix(shape.vocab_size, shape.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        return self.shape.vocab_size

    @property
    def context_tokens(self) -> int:
        """The longest sequence it reads."""
        return self.shape.max_position_embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each token after the first, given those before it."""
        return compute_next_token_loss(self.compute_logits(tokens[:, :-1]), tokens[:, 1:])

    def compute_logits(self, tokens: Tensor) -> Tensor:
        """Scores of the next token.

        Shapes: (B, T) in, (B, T, vocabulary) out.
        Errors: ConfigError when T is more than the context.
        """
        if tokens.shape[1] > self.shape.max_position_embeddings:
            raise ConfigError(
                f"sequence_tokens is {tokens.shape[1]}, this model's context holds "
                f"{self.shape.max_position_embeddings}; use shorter sequences or another model"
            )
        head = self.model.embed_tokens if self.shape.tie_word_embeddings else self.lm_head
        return functional.linear(self.model(tokens), head.weight)


class _Stack(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.embed_tokens = _Matrix(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = _Norm(shape)
        # The processor by name: a module may be built without storage first, tables are never filled afterwards.
        with torch.device("cpu"):
            tables = compute_rotary_tables(
                shape.head_dim, shape.max_position_embeddings, shape.rope_theta, torch.float32
            )
        for name, table in zip(("cos", "sin"), tables, strict=True):
            self.register_buffer(name, table[:, None], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = functional.embedding(tokens, self.embed_tokens.weight)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, cos, sin)
        normed: Tensor = self.norm(hidden)
        return normed


class _Layer(nn.Module):
    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.self_attn = _Attention(shape)
        self.mlp = _Mlp(shape)
        self.input_layernorm = _Norm(shape)
        self.post_attention_layernorm = _Norm(shape)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        fed: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return fed


class _Attention(nn.Module):
    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.heads, self.groups, self.dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q_proj = _Matrix(self.heads * self.dim, shape.hidden_size)
        self.k_proj = _Matrix(self.groups * self.dim, shape.hidden_size)
        self.v_proj = _Matrix(self.groups * self.dim, shape.hidden_size)
        self.o_proj = _Matrix(shape.hidden_size, self.heads * self.dim)

    def forward(self, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = normed.shape
        # One product instead of three: joining the matrices costs less than small products do.
        joined = functional.linear(normed, torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)))
        joined = joined.view(batch, length, self.heads + 2 * self.groups, self.dim)
        turned = rotate(joined[:, :, : -self.groups], cos, sin)
        mixed = functional.scaled_dot_product_attention(
            turned[:, :, : self.heads].transpose(1, 2),
            turned[:, :, self.heads :].transpose(1, 2),
            joined[:, :, -self.groups :].transpose(1, 2),
            is_causal=True,
            enable_gqa=self.heads != self.groups,
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output


class _Mlp(nn.Module):
    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.gate_proj = _Matrix(shape.intermediate_size, shape.hidden_size)
        self.up_proj = _Matrix(shape.intermediate_size, shape.hidden_size)
        self.down_proj = _Matrix(shape.hidden_size, shape.intermediate_size)

    def forward(self, normed: Tensor) -> Tensor:
        gate, up = functional.linear(normed, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, -1)
        output: Tensor = self.down_proj(functional.silu(gate) * up)
        return output


class _Matrix(nn.Module):
    """A linear layer without bias, or an embedding. Rows are outputs, as in torch's own.

    Those fill themselves at random when they are built: without storage that imports torch's compiler, which takes seconds.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight)


class _Norm(nn.Module):
    def __init__(self, shape: TrainableShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape.hidden_size))
        self.eps = shape.rms_norm_eps

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


def compute_next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in fp32 at least. Shapes: (B, T, vocabulary) and (B, T) in, a scalar out."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(exact.flatten(0, 1), targets.flatten())


def build_from_params(shape: TrainableShape, params: Mapping[str, Tensor]) -> TrainableLlama:
    """A model that takes the given tensors as its own.

    Errors: ConfigError when their names or shapes are not those of the architecture.
    """
    with torch.device("meta"):
        module = TrainableLlama(shape)
    try:
        module.load_state_dict(params, assign=True)
    except RuntimeError as problem:
        raise ConfigError(f"the tensors do not fit their config.json: {problem}") from None
    return module


def describe_shape(shape: TrainableShape) -> dict[str, Any]:
    """The config.json of a model, as transformers reads it."""
    sizes = asdict(shape)
    theta = sizes.pop("rope_theta")
    return sizes | {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        # Left out, transformers would take ids of another tokenizer for the ends of a text.
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }


def read_shape(config: Mapping[str, Any]) -> TrainableShape:
    """The shape that a parsed config.json states.

    Errors: ConfigError naming what this module does not cover.
    """
    full = normalise_config(config)
    if full.get("model_type") != "llama":
        raise ConfigError(f"model_type is {full.get('model_type')!r}: this module trains llama only")
    select_config(full)
    if unknown := sorted(set(full["rope_parameters"]) - _ROPE_SETTINGS):
        raise ConfigError(f"rope_parameters holds {', '.join(unknown)}: only default rotary embeddings are covered")
    served = asdict(get_llama_shape(full))
    names = ("intermediate_size", "tie_word_embeddings")
    return TrainableShape(**served, **{name: full[name] for name in names})
