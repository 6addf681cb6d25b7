"""A cheaper model: symmetric 4-bit rounding of every linear layer, groups of 128 along the input.

It simulates what a cheating executor saves on; nothing honest uses it. The published weights already lie on an asymmetric
4-bit grid, so only a symmetric grid changes the model. Invariant: tensors other than linear layers pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

GROUP_SIZE = 128
HIGHEST_LEVEL = 7


def quantise_params(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round all linear layers (names ending in `_proj.weight`) to 4 bits and back. Shapes: kept; dtype kept."""
    return {
        name: quantise_matrix(tensor) if name.endswith("_proj.weight") else tensor for name, tensor in params.items()
    }


def quantise_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Round-to-nearest onto 15 levels per group; the last group of a row may be shorter. Shapes: (out, in) kept."""
    out_features, in_features = matrix.shape
    padding = -in_features % GROUP_SIZE
    groups = torch.nn.functional.pad(matrix.float(), (0, padding)).view(out_features, -1, GROUP_SIZE)
    # A group of zeros has scale zero; the clamp keeps 0 / 0 out and leaves the zeros as they are.
    scale = (groups.abs().amax(-1, keepdim=True) / HIGHEST_LEVEL).clamp_min(torch.finfo(torch.float32).tiny)
    rounded = (groups / scale).round().clamp(-HIGHEST_LEVEL, HIGHEST_LEVEL) * scale
    return rounded.view(out_features, -1)[:, :in_features].to(matrix.dtype).contiguous()
