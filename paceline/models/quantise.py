"""Cheaper numbers: linear layers, activations and cache rounded to 4 or 8 bits and back.

It simulates what a cheating executor saves on; nothing honest uses it. Rounded values are held in the model's own type, so
the result of a product has one rounding more than an integer kernel would give.
Invariant: tensors other than linear layers (names ending in `_proj.weight`) pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses for it)

GROUP_SIZE = 128
HIGHEST_LEVEL = 7
INT8_LEVEL = 127
FP8 = torch.float8_e4m3fn
FP8_HIGHEST = torch.finfo(FP8).max

ParamsChange = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


def quantise_params(params: Mapping[str, torch.Tensor], *, group_size: int = GROUP_SIZE) -> dict[str, torch.Tensor]:
    """Round all linear layers to symmetric 4 bits and back. Shapes: kept; dtype kept."""
    return change_linear(params, lambda matrix: quantise_matrix(matrix, group_size))


def change_linear(
    params: Mapping[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Replace the matrix of every linear layer. The head is the embedding and stays as it is, as engines leave it."""
    return {name: change(tensor) if name.endswith("_proj.weight") else tensor for name, tensor in params.items()}


def quantise_matrix(matrix: torch.Tensor, group_size: int = GROUP_SIZE) -> torch.Tensor:
    """Round-to-nearest onto 15 levels per group; the last group of a row may be shorter. Shapes: (out, in) kept."""
    out_features, in_features = matrix.shape
    padding = -in_features % group_size
    groups = F.pad(matrix.float(), (0, padding)).view(out_features, -1, group_size)
    # A group of zeros has scale zero; the clamp keeps 0 / 0 out and leaves the zeros as they are.
    scale = (groups.abs().amax(-1, keepdim=True) / HIGHEST_LEVEL).clamp_min(torch.finfo(torch.float32).tiny)
    rounded = (groups / scale).round().clamp(-HIGHEST_LEVEL, HIGHEST_LEVEL) * scale
    return rounded.view(out_features, -1)[:, :in_features].to(matrix.dtype).contiguous()


def round_rows_int8(matrix: torch.Tensor) -> torch.Tensor:
    """Symmetric 8-bit rounding with one scale a row: an output channel of weights, a token of activations. Shapes: kept."""
    values = matrix.float()
    scale = (values.abs().amax(-1, keepdim=True) / INT8_LEVEL).clamp_min(torch.finfo(torch.float32).tiny)
    return ((values / scale).round() * scale).to(matrix.dtype)


def round_rows_fp8(matrix: torch.Tensor) -> torch.Tensor:
    """Rounding to fp8 (e4m3) with one scale a row that fills its range. Shapes: kept."""
    values = matrix.float()
    scale = (values.abs().amax(-1, keepdim=True) / FP8_HIGHEST).clamp_min(torch.finfo(torch.float32).tiny)
    return ((values / scale).clamp(-FP8_HIGHEST, FP8_HIGHEST).to(FP8).float() * scale).to(matrix.dtype)


def round_fp8(states: torch.Tensor) -> torch.Tensor:
    """Rounding to fp8 (e4m3) without a scale, as engines hold an fp8 cache by default. Shapes: kept."""
    return states.float().clamp(-FP8_HIGHEST, FP8_HIGHEST).to(FP8).to(states.dtype)


def project_int8(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """A linear layer whose input has 8 bits a token."""
    return F.linear(round_rows_int8(x), matrix)


def project_fp8(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """A linear layer whose input is fp8 with a scale a token."""
    return F.linear(round_rows_fp8(x), matrix)
