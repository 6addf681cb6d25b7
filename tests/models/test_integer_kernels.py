"""Exact products: all kernels give the same sums, and one that is wrong or missing is passed over."""

from __future__ import annotations

import pytest
import torch

from paceline.models.integer_kernels import (
    FLOAT_DEPTH,
    HALF_DEPTH,
    INT8_LIMIT,
    PARAM_LIMIT,
    choose_kernel,
    multiply_float,
    multiply_half,
    multiply_int8,
)

CPU = torch.device("cpu")


def draw(depth, columns=20):
    generator = torch.Generator().manual_seed(depth)
    matrix = torch.randint(-PARAM_LIMIT, PARAM_LIMIT, (24, depth), generator=generator, dtype=torch.int8)
    values = torch.randint(-INT8_LIMIT, INT8_LIMIT + 1, (depth, columns), generator=generator, dtype=torch.int8)
    matrix[0], values[:, 0] = -PARAM_LIMIT, INT8_LIMIT
    return matrix, values, (matrix.double() @ values.double()).to(torch.int32)


def multiply_wide(left, right, *, out_dtype):
    """What a GPU's half-precision product with fp32 outputs computes."""
    assert left.dtype == right.dtype == torch.float16
    assert left.shape[1] <= HALF_DEPTH
    return (left.float() @ right.float()).to(out_dtype)


@pytest.mark.parametrize("depth", [16, FLOAT_DEPTH // 8 * 8, FLOAT_DEPTH // 8 * 8 + 8, 8192])
def test_float_and_integer_kernels_agree_on_both_sides_of_fp32(depth):
    matrix, values, sums = draw(depth)
    assert int(sums[0, 0]) == -INT8_LIMIT * PARAM_LIMIT * depth
    assert torch.equal(multiply_int8(matrix, values), sums)
    assert torch.equal(multiply_float(matrix, values), sums)


@pytest.mark.parametrize("columns", [1, 16, 17, 40])
def test_operands_of_either_layout_and_given_memory_change_nothing(columns):
    matrix, values, sums = draw(64, columns)
    assert torch.equal(multiply_int8(matrix, values.t().contiguous().t()), sums)
    for kernel in (multiply_int8, multiply_float):
        space = torch.empty(24, columns, dtype=torch.int32)
        assert kernel(matrix, values, space).data_ptr() == space.data_ptr()
        assert torch.equal(space, sums)


@pytest.mark.parametrize("depth", [8, HALF_DEPTH, HALF_DEPTH + 8, 4096])
def test_half_kernel_adds_exact_pieces(depth, monkeypatch):
    monkeypatch.setattr(torch, "mm", multiply_wide)
    matrix, values, sums = draw(depth)
    assert torch.equal(multiply_half(matrix, values), sums)


def test_kernel_is_the_integer_unit_where_it_passes_the_trial():
    assert choose_kernel(CPU) is multiply_int8


def saturate(left, right):
    return (left.double() @ right.double()).clamp(-(2**20), 2**20).to(torch.int32)


def test_invalid_integer_unit_is_replaced_by_half_precision_where_that_is_exact(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", saturate)
    monkeypatch.setattr(torch, "mm", multiply_wide)
    assert choose_kernel(CPU) is multiply_half


def test_invalid_half_precision_is_replaced_by_floats(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", saturate)
    monkeypatch.setattr(torch, "mm", lambda left, right, **_: (left @ right).float())
    assert choose_kernel(CPU) is multiply_float


def test_missing_units_leave_floats(monkeypatch):
    monkeypatch.delattr(torch, "_int_mm")
    assert choose_kernel(CPU) is multiply_float
