"""Exact products of int8 matrices, each device with the fastest kernel that passes a trial.

A kernel that is wrong at the limits (older integer units saturate in silence, half-precision outputs round) is passed over
for a slower exact one. It knows nothing of what the matrices mean.
Invariant: every kernel returns the same int32 sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

INT8_LIMIT = 127
# Kernels without VNNI add two products of a byte and a parameter in 16 bits: 2 * 255 * 64 still fits, 2 * 255 * 127 would not.
PARAM_LIMIT = 64
EXACT_FP32 = 1 << 24
HALF_DEPTH = 1024
FLOAT_DEPTH = EXACT_FP32 // (INT8_LIMIT * PARAM_LIMIT)

Kernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def choose_kernel(device: torch.device) -> Kernel:
    """The fastest exact product on a device: integer units, else half-precision units with fp32 sums, else floats.

    A trial compares each candidate with fp64 on the CPU, at the limits and on mixed numbers.
    """
    for candidate in (multiply_int8, multiply_half):
        try:
            if all(torch.equal(candidate(m.to(device), v.to(device), None).cpu(), s) for m, v, s in _build_trials()):
                return candidate
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            # This build of torch has no such kernel for this device; the next candidate is slower and as exact.
            continue
    return multiply_float


def multiply_int8(matrix: Tensor, values: Tensor, space: Tensor | None = None) -> Tensor:
    """Product by the integer matrix units.

    Shapes: (out, in) int8, (in, R) int8 -> (out, R) int32, in `space` where that is given and serves.
    Errors: RuntimeError or AttributeError where torch has none for this device; `choose_kernel` goes on.
    """
    if values.is_contiguous() and matrix.device.type == "cpu":
        # torch has no public integer product.
        return torch._int_mm(matrix, values) if space is None else torch._int_mm(matrix, values, out=space)  # noqa: SLF001
    turned, rows = values.t().contiguous(), values.shape[1]
    # CUDA refuses 16 rows and fewer, and a second operand that does not run along the summed axis.
    padded = turned if rows > 16 else torch.nn.functional.pad(turned, (0, 0, 0, 17 - rows))
    return torch._int_mm(padded, matrix.t())[:rows].t()  # noqa: SLF001 — as above


def multiply_half(matrix: Tensor, values: Tensor, space: Tensor | None = None) -> Tensor:
    """Product by half-precision units in chunks whose fp32 sums are exact. Shapes, Errors: as `multiply_int8`."""
    turned = values.t()
    total = torch.zeros(values.shape[1], matrix.shape[0], dtype=torch.int32, device=matrix.device)
    for first in range(0, matrix.shape[1], HALF_DEPTH):
        left, right = (part[:, first : first + HALF_DEPTH].half() for part in (turned, matrix))
        # Without the wider output type the sums would be rounded to half precision.
        total += torch.mm(left, right.t(), out_dtype=torch.float32).to(torch.int32)
    return total.t() if space is None else space.copy_(total.t())


def multiply_float(matrix: Tensor, values: Tensor, space: Tensor | None = None) -> Tensor:
    """Product by floats: fp32 while every partial sum is below 2**24, else fp64. Shapes: as `multiply_int8`."""
    kind = torch.float32 if matrix.shape[1] < FLOAT_DEPTH else torch.float64
    sums = matrix.to(kind) @ values.to(kind)
    return sums.to(torch.int32) if space is None else space.copy_(sums)


def _build_trials() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Matrices, values and their exact products: all at the limits, and a spread of all numbers."""
    steps = torch.arange(2048 * 32).view(2048, 32)
    limits = torch.full((16, 2048), PARAM_LIMIT - 1)
    limits[::2] = -PARAM_LIMIT
    spread = (torch.arange(16 * 2048).view(16, 2048) * 37 % 128) - PARAM_LIMIT
    pairs = ((limits, torch.full((2048, 32), -INT8_LIMIT)), (spread, steps * 101 % 255 - INT8_LIMIT))
    return [(m.to(torch.int8), v.to(torch.int8), (m.double() @ v.double()).to(torch.int32)) for m, v in pairs]
