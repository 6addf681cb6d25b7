"""The integer transformer: its tables, its norm and kernels at their limits, oddness, and its plain twin."""

from __future__ import annotations

from decimal import Decimal
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models import integer_transformer as model_module
from paceline.models.integer_transformer import (
    INT8_LIMIT,
    PARAM_LIMIT,
    RESIDUAL_LIMIT,
    IntegerTransformer,
    LayerParams,
    TransformerShape,
    build_exp_table,
    build_wave_table,
    compute_norm,
    generate_params,
    multiply_float,
    multiply_int8,
    select_kernel,
)
from paceline.race.check import compute_outputs

SHAPE = TransformerShape(layers=2, heads=4, width=32, hidden=64, sequence=4)
CPU = torch.device("cpu")


def draw_embeddings(shape, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, shape.sequence, shape.width)
    return torch.randint(-INT8_LIMIT, INT8_LIMIT + 1, size, generator=generator, dtype=torch.int8)


def compute_plain(shape, params, embeddings):
    return torch.from_numpy(compute_outputs(shape, params, embeddings.numpy().astype(np.int64))).to(torch.int8)


@settings(max_examples=25)
@given(
    layers=st.integers(1, 3),
    head_width=st.sampled_from([4, 8, 24]),
    heads=st.sampled_from([2, 4]),
    hidden=st.sampled_from([8, 72, 2200]),
    sequence=st.integers(1, 6),
    seed=st.binary(min_size=32, max_size=32),
)
def test_fast_path_equals_plain_twin_for_any_shape(layers, head_width, heads, hidden, sequence, seed):
    shape = TransformerShape(layers=layers, heads=heads, width=heads * head_width, hidden=hidden, sequence=sequence)
    params = generate_params(shape, seed)
    embeddings = draw_embeddings(shape, 3, seed[0])
    assert torch.equal(IntegerTransformer(shape, params).forward(embeddings), compute_plain(shape, params, embeddings))


@pytest.mark.parametrize("value", [INT8_LIMIT, -INT8_LIMIT, 0, 1])
def test_fast_path_equals_plain_twin_at_the_limits(value):
    params = generate_params(SHAPE, hash_parts("limits"))
    extreme = [LayerParams(*((m > 0) * 2 * PARAM_LIMIT - PARAM_LIMIT for m in vars(p).values())) for p in params]
    extreme = [LayerParams(*(m.to(torch.int8) for m in vars(p).values())) for p in extreme]
    embeddings = torch.full((2, SHAPE.sequence, SHAPE.width), value, dtype=torch.int8)
    for chosen in (params, extreme):
        fast = IntegerTransformer(SHAPE, chosen).forward(embeddings)
        assert torch.equal(fast, compute_plain(SHAPE, chosen, embeddings))


def test_output_does_not_depend_on_batch_or_threads():
    model = IntegerTransformer(SHAPE, generate_params(SHAPE, hash_parts("batch")))
    embeddings = draw_embeddings(SHAPE, 50)
    together = model.forward(embeddings)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(model.forward(embeddings), together)
    finally:
        torch.set_num_threads(threads)
    for size in (1, 16, 17, 33):
        parts = [model.forward(part) for part in embeddings.split(size)]
        assert torch.equal(torch.cat(parts), together)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.forward(embeddings[order]), together[order])


def test_function_is_odd_so_symmetric_inputs_have_no_mean_output():
    model = IntegerTransformer(SHAPE, generate_params(SHAPE, hash_parts("odd")))
    embeddings = draw_embeddings(SHAPE, 64)
    assert torch.equal(model.forward(-embeddings), -model.forward(embeddings))


def test_attention_is_causal_and_reads_all_earlier_places():
    model = IntegerTransformer(SHAPE, generate_params(SHAPE, hash_parts("causal")))
    embeddings = draw_embeddings(SHAPE, 1)
    base = model.forward(embeddings)
    for place in range(SHAPE.sequence):
        changed = embeddings.clone()
        changed[0, place] = -changed[0, place]
        assert not torch.equal(model.forward(changed), base)
    # A sequence cut after its first place cannot see the rest, so later places never reach backwards.
    short = TransformerShape(layers=2, heads=4, width=32, hidden=64, sequence=1)
    lone = IntegerTransformer(short, generate_params(SHAPE, hash_parts("causal")))
    residual = embeddings.float()
    full = residual + 0
    full[:, 1:] = 0
    assert torch.equal(
        model._attend(residual, model._layers[0], 4)[:, :1], model._attend(full, model._layers[0], 4)[:, :1]
    )
    assert torch.equal(
        lone._attend(residual[:, :1], lone._layers[0], 1), model._attend(full, model._layers[0], 4)[:, :1]
    )


def test_exp_table_is_the_exponential_and_ends_masked():
    table = build_exp_table()
    for place, value in enumerate(table[:256]):
        exact = Decimal(1 << 14) * (Decimal(-place) / 16).exp()
        assert abs(value - exact) <= Decimal("0.5001")
    assert len(table) == 257
    assert table[256] == 0


def test_wave_table_is_odd_and_turns_every_32():
    table = build_wave_table()
    assert len(table) == 255
    assert [-value for value in reversed(table)] == table
    wave = dict(zip(range(-127, 128), table, strict=True))
    assert (wave[0], wave[16], wave[32], wave[48], wave[64], wave[80]) == (0, 127, 0, -127, 0, 127)


@given(st.lists(st.integers(-RESIDUAL_LIMIT, RESIDUAL_LIMIT), min_size=16, max_size=16))
def test_norm_is_the_integer_definition(vector):
    normed = compute_norm(torch.tensor([vector], dtype=torch.float32))[0].tolist()
    factor = (32 << 12) // max(1, isqrt(sum(value * value for value in vector) // 16))
    for value, result in zip(vector, normed, strict=True):
        assert result == max(-127, min(127, round(Decimal(value * factor) / 4096)))


@pytest.mark.parametrize("depth", [16, 2096, 2104, 8192])
def test_float_kernel_equals_integer_kernel_on_both_sides_of_fp32(depth):
    generator = torch.Generator().manual_seed(depth)
    values = torch.randint(-127, 128, (20, depth), generator=generator, dtype=torch.int8)
    matrix = torch.randint(-PARAM_LIMIT, PARAM_LIMIT + 1, (24, depth), generator=generator, dtype=torch.int8)
    values[0], matrix[0] = INT8_LIMIT, PARAM_LIMIT
    sums = multiply_int8(values, matrix)
    assert int(sums[0, 0]) == INT8_LIMIT * PARAM_LIMIT * depth
    assert torch.equal(multiply_float(values, matrix).double(), sums.double())


def test_kernel_is_the_integer_unit_where_it_passes_the_trial():
    assert select_kernel(CPU) is multiply_int8


def test_invalid_integer_unit_is_replaced_by_floats(monkeypatch):
    def saturating(left, right):
        products = left.int()[:, :, None] * right.int()[None]
        return products.clamp(-2000, 2000).sum(dim=1, dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert select_kernel(CPU) is multiply_float


def test_missing_integer_unit_gives_the_same_bits(monkeypatch):
    params = generate_params(SHAPE, hash_parts("fallback"))
    embeddings = draw_embeddings(SHAPE, 20)
    expected = IntegerTransformer(SHAPE, params).forward(embeddings)
    monkeypatch.delattr(torch, "_int_mm")
    fallback = IntegerTransformer(SHAPE, params)
    assert fallback._kernel is multiply_float
    assert torch.equal(fallback.forward(embeddings), expected)


def test_params_are_symmetric_within_the_limit_and_hang_on_the_seed():
    shape = TransformerShape(layers=1, heads=4, width=256, hidden=1024, sequence=4)
    first, second = (generate_params(shape, hash_parts("params", name))[0] for name in (b"a", b"b"))
    for matrix, other in zip(vars(first).values(), vars(second).values(), strict=True):
        assert int(matrix.abs().max()) == PARAM_LIMIT
        assert abs(float(matrix.float().mean())) < 0.5
        assert 36 < float(matrix.float().std()) < 38
        assert not torch.equal(matrix, other)


VALID = {"layers": 1, "heads": 4, "width": 4096, "hidden": 65536, "sequence": 512}


def test_shape_at_the_bounds():
    assert TransformerShape(**VALID).head_width == 1024


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"heads": 3},
        {"heads": 2},
        {"width": 4104},
        {"width": 36},
        {"hidden": 12},
        {"hidden": 65544},
        {"sequence": 513},
        {"sequence": 0},
    ],
)
def test_invalid_shapes_are_refused(change):
    with pytest.raises(ConfigError):
        TransformerShape(**{**VALID, **change})


def test_no_float_leaves_the_model():
    assert (
        model_module.IntegerTransformer(SHAPE, generate_params(SHAPE, bytes(32)))
        .forward(draw_embeddings(SHAPE, 1))
        .dtype
        is torch.int8
    )
