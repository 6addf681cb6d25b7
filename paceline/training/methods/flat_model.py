"""A module whose parameters are views of one vector, so that a trainer's state is a tensor and not a dictionary.

It refuses to know who trains and what is sent. Invariant: `values` and the module's parameters are the same memory;
the parameters of one fragment are consecutive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paceline.base.errors import ConfigError
from paceline.training.codecs.codec import Layout

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True)
class Fragment:
    """A stretch of the vector that is synchronised on its own."""

    start: int
    stop: int
    layout: Layout

    @property
    def span(self) -> slice:
        """Its place in the vector."""
        return slice(self.start, self.stop)


class FlatModel:
    """Takes a module over: its parameters and gradients become views of `values` and `gradient`.

    `fragments` above 1 groups whole layers, layer l to fragment l modulo the number (Streaming DiLoCo's strided
    pattern); what comes before the layers belongs to the first fragment, what comes after them to the last.
    Errors: ConfigError for a module without parameters, of mixed types, with running statistics, or with fewer layers
    than fragments.
    """

    def __init__(self, module: nn.Module, fragments: int = 1) -> None:
        self.module = module
        groups = _group_by_fragment(module, fragments)
        ordered = [entry for group in groups for entry in group]
        self.names = [name for name, _ in ordered]
        self.params = [param for _, param in ordered]
        dtype = _require_one_type(module, self.params)
        self.layout = Layout(tuple(tuple(param.shape) for param in self.params), dtype)
        self.fragments = _place(groups, dtype)
        self.whole = Fragment(0, self.layout.size, self.layout)
        self.values = torch.cat([param.detach().reshape(-1) for param in self.params])
        self.gradient = torch.zeros_like(self.values)
        views = zip(self.params, self.layout.split(self.values), self.layout.split(self.gradient), strict=True)
        for param, value, gradient in views:
            param.data = value
            param.grad = gradient

    def get_fragment(self, index: int, count: int) -> Fragment:
        """Fragment `index` for a rule that cuts the vector into `count`; one fragment is the whole."""
        return self.whole if count == 1 else self.fragments[index]

    def compute_gradient(self, batch: Tensor) -> float:
        """Forward and backward on one batch; the gradient is in `gradient`. Returns the loss.

        Errors: ConfigError when the module's forward gives no scalar.
        """
        self.gradient.zero_()
        if not self.module.training:
            self.module.train()
        loss = self.module(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"the model's forward returned {found}; it must return the loss, one number")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return loss.item()

    def evaluate(self, values: Tensor, batches: list[Tensor]) -> float:
        """Mean loss of some parameters on some batches; `values` stays as it was."""
        kept = self.values.clone()
        self.values.copy_(values)
        self.module.eval()
        with torch.no_grad():
            total = sum(self.module(batch).item() for batch in batches)
        self.values.copy_(kept)
        return float(total / len(batches))


def _require_one_type(module: nn.Module, params: list[nn.Parameter]) -> torch.dtype:
    if not params:
        raise ConfigError("the model has no parameters to train")
    found = {param.dtype for param in params} | {param.device for param in params}
    if len(found) != 2 or not params[0].dtype.is_floating_point:
        raise ConfigError(f"the model mixes {sorted(map(str, found))}; convert it to one type on one device")
    running = [name for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
    if running:
        raise ConfigError(f"{running[0]}: running statistics are not synchronised; use LayerNorm or GroupNorm")
    return params[0].dtype


def _group_by_fragment(module: nn.Module, count: int) -> list[list[tuple[str, nn.Parameter]]]:
    params = [(name, param) for name, param in module.named_parameters() if param.requires_grad]
    if count == 1:
        return [params]
    layers = [int(found[1]) if (found := _LAYER.search(name)) else None for name, _ in params]
    highest = max((layer for layer in layers if layer is not None), default=-1)
    if highest + 1 < count:
        raise ConfigError(f"fragments {count}: the model has {highest + 1} layers; use at most that many fragments")
    groups: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(count)]
    started = False
    for entry, layer in zip(params, layers, strict=True):
        started = started or layer is not None
        groups[layer % count if layer is not None else (count - 1 if started else 0)].append(entry)
    return groups


def _place(groups: list[list[tuple[str, nn.Parameter]]], dtype: torch.dtype) -> list[Fragment]:
    placed, start = [], 0
    for group in groups:
        layout = Layout(tuple(tuple(param.shape) for _, param in group), dtype)
        placed.append(Fragment(start, start + layout.size, layout))
        start += layout.size
    return placed
