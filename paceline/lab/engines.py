"""Several arithmetics of one model side by side: the shipped forward pass under the variants of `models.variants`.

Rows of several sequences run together, so that thousands of tokens can be compared in minutes. It knows tensors, no requests
and no judgement. Invariant: what differs between two engines is their variant, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from paceline.models.decoder import DecoderNetwork, KeyValueCache
from paceline.models.families import build_network
from paceline.models.files import WEIGHTS_FILE
from paceline.models.language import load_entry, verify_content
from paceline.models.quantise import ParamsChange
from paceline.models.variants import get_variant


@dataclass(frozen=True, kw_only=True)
class Pass:
    """States of one sequence. Shapes: hidden (T, width) as computed, states (T, kinds, width) bf16, the last ones first."""

    hidden: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt, the most tokens of its answer, and the sampler that takes each token from its logits."""

    prompt: tuple[int, ...]
    limit: int
    choose: Callable[[torch.Tensor], int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an engine decoded. Shapes: tokens (n,), states (n, kinds, width)."""

    tokens: torch.Tensor
    states: torch.Tensor


class Decodes(Protocol):
    """What `decode` needs of an engine; caches are its own affair."""

    def open_caches(self, count: int, capacity_tokens: int) -> Sequence[Any]: ...
    def run(self, rows: Sequence[torch.Tensor], caches: Sequence[Any]) -> list[Pass]: ...
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


class Engine:
    """One network with the layers that a trace commits to."""

    def __init__(self, network: DecoderNetwork, traced: Sequence[int]) -> None:
        self._network = network
        self._traced = tuple(traced)

    def open_caches(self, count: int, capacity_tokens: int) -> list[KeyValueCache]:
        """Empty caches for so many sequences."""
        return [self._network.open_cache(capacity_tokens) for _ in range(count)]

    def run(self, rows: Sequence[torch.Tensor], caches: Sequence[KeyValueCache] | None = None) -> list[Pass]:
        """Sequences in one pass: a prefill of each, or one more token of each with its cache. Shapes: rows (T,) each."""
        if caches is None:
            caches = [self._network.open_cache(len(row)) for row in rows]
        taps: dict[int, list[torch.Tensor]] = {layer: [] for layer in self._traced}
        hidden = self._network.compute_hidden_together(rows, caches, taps)
        states = torch.stack((hidden, *(taps[layer][0] for layer in self._traced)), 1).bfloat16()
        passes, first = [], 0
        for row in rows:
            part = slice(first, first + len(row))
            passes.append(Pass(hidden=hidden[part], states=states[part]))
            first += len(row)
        return passes

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Shapes: (T, width) -> (T, vocab_size) fp32."""
        return self._network.compute_logits(hidden)


class PrefillingEngine:
    """An engine without a cache: every token of an answer comes from a prefill of all that stands before it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open_caches(self, count: int, capacity_tokens: int) -> list[list[torch.Tensor]]:
        """Lists of what was given so far."""
        del capacity_tokens
        return [[] for _ in range(count)]

    def run(self, rows: Sequence[torch.Tensor], caches: Sequence[list[torch.Tensor]]) -> list[Pass]:
        """As `Engine.run`, all positions of each sequence again."""
        for row, cache in zip(rows, caches, strict=True):
            cache.append(row)
        return self._engine.run([torch.cat(cache) for cache in caches])

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `Engine.compute_logits`."""
        return self._engine.compute_logits(hidden)


@torch.inference_mode()
def decode(engine: Decodes, asked: Sequence[Asked], ends: Sequence[int]) -> list[Answer]:
    """Answers token by token; sequences run side by side until each reaches its end or its limit."""
    rows = [torch.tensor(one.prompt) for one in asked]
    caches = engine.open_caches(len(asked), max(len(one.prompt) + one.limit for one in asked))
    tokens: list[list[int]] = [[] for _ in asked]
    states: list[list[torch.Tensor]] = [[] for _ in asked]
    alive = list(range(len(asked)))
    while alive:
        passes = engine.run([rows[i] for i in alive], [caches[i] for i in alive])
        logits = engine.compute_logits(torch.stack([made.hidden[-1] for made in passes]))
        for place, (i, made) in enumerate(zip(alive, passes, strict=True)):
            tokens[i].append(asked[i].choose(logits[place]))
            states[i].append(made.states[-1])
            rows[i] = torch.tensor(tokens[i][-1:])
        alive = [i for i in alive if tokens[i][-1] not in ends and len(tokens[i]) < asked[i].limit]
    return [
        Answer(tokens=torch.tensor(chosen), states=torch.stack(kept))
        for chosen, kept in zip(tokens, states, strict=True)
    ]


def load_engines(path: Path, names: Iterable[str]) -> dict[str, Engine]:
    """A prepared model under each named variant; those that change the weights alike share one copy.

    Errors: ConfigError for an unknown name; WorkError when the model directory is damaged.
    """
    verify_content(path)
    entry, config = load_entry(path), json.loads((path / "config.json").read_text("utf-8"))
    params = load_file(path / WEIGHTS_FILE)
    changed: dict[ParamsChange, Mapping[str, torch.Tensor]] = {}
    engines = {}
    for name in names:
        variant = get_variant(name)
        if variant.change not in changed:
            changed[variant.change] = variant.change(params)
        network = build_network(
            config, changed[variant.change], context_tokens=entry.context_tokens, kernels=variant.kernels
        )
        engines[name] = Engine(network, entry.inner_layers)
    return engines
