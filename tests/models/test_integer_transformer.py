"""The integer transformer: its tables, its norm and kernels at their limits, oddness, and its plain twin."""

from __future__ import annotations

import dataclasses
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
from paceline.models.integer_kernels import INT8_LIMIT, multiply_float
from paceline.models.integer_transformer import (
    SUM_LIMIT,
    IntegerTransformer,
    LayerParams,
    TransformerShape,
    build_exp_table,
    fold,
    generate_params,
    join,
)
from paceline.race.check import compute_outputs

SHAPE = TransformerShape(layers=2, heads=4, width=32, hidden=64, sequence=4)


def draw_embeddings(shape, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, shape.sequence, shape.width)
    return torch.randint(-INT8_LIMIT, INT8_LIMIT + 1, size, generator=generator, dtype=torch.int8) | 1


def compute_plain(shape, params, embeddings):
    return torch.from_numpy(compute_outputs(shape, params, embeddings.numpy().astype(np.int32))).to(torch.int8)


@settings(max_examples=25)
@given(
    layers=st.integers(1, 3),
    head_width=st.sampled_from([4, 8, 24]),
    heads=st.sampled_from([2, 4]),
    hidden=st.sampled_from([8, 72, 2200, 4104]),
    sequence=st.integers(1, 6),
    seed=st.binary(min_size=32, max_size=32),
)
def test_fast_path_equals_plain_twin_for_any_shape(layers, head_width, heads, hidden, sequence, seed):
    shape = TransformerShape(layers=layers, heads=heads, width=heads * head_width, hidden=hidden, sequence=sequence)
    params = list(generate_params(shape, seed))
    embeddings = draw_embeddings(shape, 3, seed[0])
    assert torch.equal(IntegerTransformer(shape, params).forward(embeddings), compute_plain(shape, params, embeddings))


@pytest.mark.parametrize("value", [INT8_LIMIT, -INT8_LIMIT, 1, -1])
def test_fast_path_equals_plain_twin_at_the_limits(value):
    params = list(generate_params(SHAPE, hash_parts("limits")))
    extreme = [LayerParams(*((m > 0) * 126 - 63 for m in vars(p).values())) for p in params]
    extreme = [LayerParams(*(m.to(torch.int8) for m in vars(p).values())) for p in extreme]
    embeddings = torch.full((2, SHAPE.sequence, SHAPE.width), value, dtype=torch.int8)
    for chosen in (params, extreme):
        fast = IntegerTransformer(SHAPE, chosen).forward(embeddings)
        assert torch.equal(fast, compute_plain(SHAPE, chosen, embeddings))


@pytest.mark.parametrize("batch", [1, 5, 20])
def test_layout_of_a_gpu_gives_the_same_bits(batch):
    params = list(generate_params(SHAPE, hash_parts("layout")))
    embeddings = draw_embeddings(SHAPE, batch)
    model = IntegerTransformer(SHAPE, params)
    expected = model.forward(embeddings)
    model._features_last = True
    assert torch.equal(model.forward(embeddings), expected)


@pytest.mark.parametrize("sums", [1, 100, 250])
def test_hidden_layer_made_in_pieces_gives_the_same_bits(monkeypatch, sums):
    model = IntegerTransformer(SHAPE, list(generate_params(SHAPE, hash_parts("pieces"))))
    embeddings, calls = draw_embeddings(SHAPE, 5), []
    expected = model.forward(embeddings)
    kernel = model._kernel
    model._kernel = lambda *operands: calls.append(1) or kernel(*operands)
    monkeypatch.setattr(model_module, "CACHED_SUMS", sums)
    assert torch.equal(model.forward(embeddings), expected)
    # Nine products of two layers; fewer sums at once make more of them.
    assert len(calls) > 9


@pytest.mark.parametrize("wrong", [False, True])
def test_compiled_steps_are_believed_only_after_they_gave_the_same_bits(wrong):
    params = list(generate_params(SHAPE, hash_parts("fused")))
    embeddings = draw_embeddings(SHAPE, 20)
    expected = IntegerTransformer(SHAPE, params).forward(embeddings)
    model = IntegerTransformer(SHAPE, params)
    calls = []

    def stand_in(sums, shift):
        calls.append(shift)
        return fold(sums, shift + wrong)

    model._fused = dataclasses.replace(model_module.EAGER, fold=stand_in)
    assert torch.equal(model.forward(embeddings), expected)
    first = len(calls)
    assert first
    assert (model._fused is None) is wrong
    assert torch.equal(model.forward(embeddings), expected)
    assert (len(calls) > first) is not wrong
    used = len(calls)
    # Another batch size than the one that was compared runs as written.
    assert torch.equal(model.forward(embeddings[:7]), expected[:7])
    assert len(calls) == used


def test_products_alone_are_those_of_a_pass():
    model = IntegerTransformer(SHAPE, list(generate_params(SHAPE, hash_parts("alone"))))
    embeddings, sizes = draw_embeddings(SHAPE, 6), []

    def count(matrix, values, space):
        sizes.append(len(matrix) * matrix.shape[1] * values.shape[1])
        return kernel(matrix, values, space)

    kernel, model._kernel = model._kernel, count
    model.forward(embeddings)
    searched, sizes[:] = sorted(sizes), []
    model.prepare_products(embeddings)()
    assert sorted(sizes) == searched
    assert sum(sizes) == 6 * SHAPE.products


def test_output_does_not_depend_on_batch_or_threads():
    model = IntegerTransformer(SHAPE, list(generate_params(SHAPE, hash_parts("batch"))))
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
    model = IntegerTransformer(SHAPE, list(generate_params(SHAPE, hash_parts("odd"))))
    embeddings = draw_embeddings(SHAPE, 64)
    assert torch.equal(model.forward(-embeddings), -model.forward(embeddings))


@torch.inference_mode()
def test_attention_is_causal_and_reads_all_earlier_places():
    model = IntegerTransformer(SHAPE, list(generate_params(SHAPE, hash_parts("causal"))))
    embeddings = draw_embeddings(SHAPE, 1)
    base = model.forward(embeddings)
    for place in range(SHAPE.sequence):
        changed = embeddings.clone()
        changed[0, place] = -changed[0, place]
        assert not torch.equal(model.forward(changed), base)
    # A sequence cut after its first place cannot see the rest, so later places never reach backwards.
    state = model._lay_out(embeddings)
    first = model._layers[0]
    eager = model_module.EAGER
    assert torch.equal(
        model._attend(state, state, first, eager)[:, :1],
        model._attend(state[:, :1].contiguous(), state[:, :1].contiguous(), first, eager),
    )


def test_exp_table_is_the_exponential_and_ends_masked():
    table = build_exp_table()
    for place, value in enumerate(table[:256]):
        exact = Decimal(1 << 14) * (Decimal(-place) / 16).exp()
        assert abs(value - exact) <= Decimal("0.5001")
    assert len(table) == 257
    assert table[256] == 0


@given(st.integers(-(2**29), 2**29).map(lambda value: 2 * value + 1), st.integers(1, 20))
def test_fold_of_odd_sums_is_odd_and_the_definition(total, shift):
    folded, opposite = (int(fold(torch.tensor([value], dtype=torch.int32), shift)[0]) for value in (total, -total))
    assert folded == -opposite
    assert folded % 2 == 1
    assert (folded - (total // 2**shift | 1)) % 256 == 0
    assert -INT8_LIMIT <= folded <= INT8_LIMIT


@given(
    st.lists(st.integers(-(2**25), 2**25).map(lambda value: 2 * value + 1), min_size=16, max_size=16),
    st.lists(st.integers(-64, 63).map(lambda value: 2 * value + 1), min_size=16, max_size=16),
)
def test_join_is_the_integer_definition(sums, state):
    shape = (16, 1, 1)
    result = join(torch.tensor(sums, dtype=torch.int32).view(shape), torch.tensor(state).to(torch.int8).view(shape), 10)
    joined = [max(-SUM_LIMIT, min(SUM_LIMIT, (a // 1024 + b) | 1)) for a, b in zip(sums, state, strict=True)]
    factor = (64 << 12) // isqrt(sum(value * value for value in joined) // 16) | 1
    expected = [((value * factor >> 12 | 1) + 128) % 256 - 128 for value in joined]
    assert result.flatten().tolist() == expected


def test_missing_integer_unit_gives_the_same_bits(monkeypatch):
    params = list(generate_params(SHAPE, hash_parts("fallback")))
    embeddings = draw_embeddings(SHAPE, 20)
    expected = IntegerTransformer(SHAPE, params).forward(embeddings)
    monkeypatch.delattr(torch, "_int_mm")
    fallback = IntegerTransformer(SHAPE, params)
    assert fallback._kernel is multiply_float
    assert torch.equal(fallback.forward(embeddings), expected)


def test_params_are_odd_but_one_a_row_and_hang_on_the_seed():
    shape = TransformerShape(layers=1, heads=4, width=256, hidden=1024, sequence=4)
    first, second = (next(generate_params(shape, hash_parts("params", name))) for name in (b"a", b"b"))
    for matrix, other in zip(vars(first).values(), vars(second).values(), strict=True):
        assert int(matrix[:, 1:].abs().max()) == 63
        assert abs(float(matrix.float().mean())) < 0.5
        assert 36 < float(matrix.float().std()) < 38
        assert (matrix & 1).sum(dim=1).unique().tolist() == [matrix.shape[1] - 1]
        assert not torch.equal(matrix, other)


def test_params_do_not_depend_on_how_many_rows_are_made_at_once(monkeypatch):
    whole = list(generate_params(SHAPE, hash_parts("rows")))
    monkeypatch.setitem(model_module.DRAWN_BYTES, "cpu", 100)
    for once, pieces in zip(whole, generate_params(SHAPE, hash_parts("rows")), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(once).values(), vars(pieces).values(), strict=True))


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
        model_module.IntegerTransformer(SHAPE, list(generate_params(SHAPE, bytes(32))))
        .forward(draw_embeddings(SHAPE, 1))
        .dtype
        is torch.int8
    )
