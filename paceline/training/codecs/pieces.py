"""How long vectors are walked: cache-sized pieces of whole chunks, large buffers, sums in one fixed order.

It refuses to know what a codec writes. Invariant: a piece starts at a multiple of eight numbers, so that its packed
codes start at a whole byte; every result here is the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paceline.base.errors import ConfigError, WorkError
from paceline.training.codecs.codec import CPU_PIECE_NUMBERS, Layout

_DEVICE_NUMBERS = 1 << 26
_ALIGNED_CHUNKS = 8
_LARGE_BYTES = 1 << 22


class Piece(NamedTuple):
    """A run of equal chunks: numbers `start` to `stop`, the first chunk's index, how many chunks of what width."""

    start: int
    stop: int
    first: int
    chunks: int
    width: int


def get_piece_numbers(device: torch.device) -> int:
    """Numbers worked on at once: what a core's second cache holds, or enough to keep an accelerator busy."""
    return CPU_PIECE_NUMBERS if device.type == "cpu" else _DEVICE_NUMBERS


def split_in_pieces(size: int, chunk: int, device: torch.device) -> Iterator[Piece]:
    """All whole chunks in order, several at a time, then the shorter last chunk if there is one."""
    whole = size // chunk
    step = max(1, get_piece_numbers(device) // (chunk * _ALIGNED_CHUNKS)) * _ALIGNED_CHUNKS
    for first in range(0, whole, step):
        chunks = min(step, whole - first)
        yield Piece(first * chunk, (first + chunks) * chunk, first, chunks, chunk)
    if size % chunk:
        yield Piece(whole * chunk, size, whole, 1, size % chunk)


def allocate(size: int, dtype: torch.dtype, device: torch.device, *, zero: bool = False) -> Tensor:
    """A new vector.

    Large ones on the CPU come from numpy, which asks the kernel for huge pages: first touches of small pages take
    several times as long as writing the numbers.
    """
    if device.type != "cpu" or size * dtype.itemsize < _LARGE_BYTES:
        return (torch.zeros if zero else torch.empty)(size, dtype=dtype, device=device)
    make = np.zeros if zero else np.empty
    return torch.from_numpy(make(size * dtype.itemsize, dtype=np.uint8)).view(dtype)


def require_values(values: Tensor, layout: Layout) -> Tensor:
    """The flat vector that a codec was given, contiguous.

    Errors: ConfigError when the layout is of a type that codecs do not write.
    """
    require_type(layout)
    assert values.shape == (layout.size,) and values.dtype == layout.dtype, "values and layout belong together"
    return values.detach().contiguous()


def require_type(layout: Layout) -> None:
    """Errors: ConfigError when the numbers are neither fp32 nor fp64."""
    if layout.dtype not in {torch.float32, torch.float64}:
        raise ConfigError(f"layout.dtype: codecs take float32 or float64, got {layout.dtype}; convert before encoding")


def compute_peaks(rows: Tensor) -> Tensor:
    """Largest magnitude of each row.

    Shapes: (r, n) in, (r,) out.
    Errors: WorkError when a row holds NaN or infinity; its owner withdraws it.
    """
    peaks = rows.abs().amax(1)
    if not bool(torch.isfinite(peaks).all()):
        raise WorkError("the vector holds NaN or infinity and cannot be encoded")
    return peaks


def divide(numbers: Tensor, divisor: int) -> Tensor:
    """Quotients rounded once. A plain number as divisor would not do: accelerators multiply by its rounded inverse."""
    return numbers / numbers.new_full((), divisor)


def compute_row_sums(rows: Tensor) -> Tensor:
    """Sum of each row in fp64, halves added to halves: a fixed tree, so that every device rounds alike.

    Shapes: (r, n) in, (r,) out; n at least 1. Effects: overwrites `rows`, which must be fp64.
    """
    width = rows.shape[1]
    while width > 1:
        half = (width + 1) // 2
        rows[:, : width - half] += rows[:, half:width]
        width = half
    return rows[:, 0].clone()
