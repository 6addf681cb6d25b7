"""Rounding as cheats do it: levels, scales, and what stays untouched."""

from __future__ import annotations

import pytest
import torch

from paceline.models.quantise import (
    FP8,
    GROUP_SIZE,
    project_fp8,
    project_int8,
    quantise_matrix,
    quantise_params,
    round_fp8,
    round_rows_fp8,
    round_rows_int8,
)


def test_rounding_leaves_fifteen_levels_a_group():
    matrix = torch.randn(3, 2 * GROUP_SIZE, generator=torch.Generator().manual_seed(1))
    rounded = quantise_matrix(matrix)
    assert rounded.shape == matrix.shape
    assert all(len(group.unique()) <= 15 for group in rounded.view(-1, GROUP_SIZE))
    step = matrix.view(-1, GROUP_SIZE).abs().amax(-1) / 7
    error = (rounded - matrix).view(-1, GROUP_SIZE).abs().amax(-1)
    assert bool((error <= step / 2 * 1.0001).all())


def test_rounding_keeps_zeros_and_the_largest_of_a_group():
    matrix = torch.zeros(1, GROUP_SIZE)
    assert bool((quantise_matrix(matrix) == 0).all())
    matrix[0, 5] = -3.5
    assert bool((quantise_matrix(matrix) == matrix).all())


@pytest.mark.parametrize("width", [1, GROUP_SIZE - 1, GROUP_SIZE, GROUP_SIZE + 1])
def test_rows_need_not_divide_into_groups(width):
    matrix = torch.ones(2, width, dtype=torch.bfloat16)
    assert bool((quantise_matrix(matrix) == matrix).all())


def test_only_linear_layers_are_rounded():
    params = {"model.layers.0.mlp.up_proj.weight": torch.randn(4, 128), "model.norm.weight": torch.randn(128)}
    rounded = quantise_params(params)
    assert rounded["model.norm.weight"] is params["model.norm.weight"]
    assert not torch.equal(rounded["model.layers.0.mlp.up_proj.weight"], params["model.layers.0.mlp.up_proj.weight"])


def make_matrix(rows=4, columns=256, seed=3):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_smaller_groups_are_closer():
    matrix = make_matrix()
    errors = [(quantise_matrix(matrix, size) - matrix).abs().mean() for size in (32, 128)]
    assert errors[0] < errors[1]


def test_eight_bits_leave_255_levels_a_row():
    matrix = make_matrix(columns=4096)
    rounded = round_rows_int8(matrix)
    assert all(100 < len(row.unique()) <= 255 for row in rounded)
    assert bool(((rounded - matrix).abs() <= matrix.abs().amax(-1, keepdim=True) / 254 * 1.001).all())


def test_fp8_keeps_four_significant_bits():
    matrix = make_matrix()
    highest = matrix.abs().amax(-1, keepdim=True)
    large = matrix.abs() > highest / 100
    share = (round_rows_fp8(matrix) - matrix).abs() / matrix.abs()
    assert share[large].mean() > 0.01 and share[large].max() <= 1 / 16 * 1.001


@pytest.mark.parametrize("rounding", [round_rows_int8, round_rows_fp8])
def test_rows_of_zeros_and_their_largest_survive(rounding):
    matrix = torch.zeros(2, 8, dtype=torch.bfloat16)
    matrix[1, 3] = -2.5
    assert torch.equal(rounding(matrix), matrix)


def test_a_cache_in_fp8_holds_what_fp8_can_say_and_clips_beyond():
    states = torch.tensor([1.0, 1.0625, 1.1, 448.0, 1e4, -1e4])
    assert round_fp8(states).tolist() == [1.0, 1.0, 1.125, 448.0, 448.0, -448.0]
    assert torch.equal(round_fp8(states).to(FP8).float(), round_fp8(states))


@pytest.mark.parametrize(("project", "limit"), [(project_int8, 0.02), (project_fp8, 0.06)])
def test_rounded_activations_move_a_product_a_little(project, limit):
    x, matrix = make_matrix(3, 512), make_matrix(64, 512, seed=4)
    exact = x @ matrix.T
    error = (project(x, matrix) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0.001 < error < limit
