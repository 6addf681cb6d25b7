"""The integer transformer: its tables, norm and rounding at their limits, its independence of batch and threads."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from math import isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import CounterKey
from paceline.models.integer_transformer import (
    RESIDUAL_LIMIT,
    IntegerTransformer,
    TransformerSize,
    build_exp_table,
    build_silu_table,
    compute_isqrt,
    compute_shift,
    multiply,
    normalise,
    requantise,
)

SIZE = TransformerSize(layers=2, heads=4, width=32, hidden=64, sequence=4)


@pytest.fixture(scope="module")
def model():
    return IntegerTransformer(SIZE, CounterKey.from_digest(hash_parts("test-model")))


def draw_embeddings(batch):
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(-127, 128, (batch, SIZE.sequence, SIZE.width), generator=generator, dtype=torch.int8)


def test_output_does_not_depend_on_batch_or_threads(model):
    embeddings = draw_embeddings(50)
    together = model.forward(embeddings)
    assert together.dtype is torch.int8
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(model.forward(embeddings), together)
    finally:
        torch.set_num_threads(threads)
    for size in (1, 16, 17, 33):
        assert torch.equal(torch.cat([model.forward(part) for part in embeddings.split(size)]), together)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.forward(embeddings[order]), together[order])


def test_every_place_of_the_sequence_counts(model):
    embeddings = draw_embeddings(1)
    for place in range(SIZE.sequence):
        changed = embeddings.clone()
        changed[0, place] = -changed[0, place]
        assert not torch.equal(model.forward(changed), model.forward(embeddings))


def test_another_key_is_another_network(model):
    other = IntegerTransformer(SIZE, CounterKey.from_digest(hash_parts("other-model")))
    assert not torch.equal(other.forward(draw_embeddings(3)), model.forward(draw_embeddings(3)))
    assert SIZE.parameters == 2 * (4 * 32 * 32 + 2 * 32 * 64)


def test_exp_table_follows_the_exponential():
    table = build_exp_table()
    assert len(table) == 256
    for place, value in enumerate(table):
        assert abs(value - (1 << 15) * (Decimal(-place) / 16).exp()) < 20
    assert table == sorted(table, reverse=True)


def test_silu_table_follows_the_function():
    table = build_silu_table()
    assert len(table) == 256
    for x, value in zip(range(-128, 128), table, strict=True):
        assert abs(value - x / (1 + (Decimal(-x) / 32).exp())) < Decimal("0.52")


@given(st.lists(st.integers(-RESIDUAL_LIMIT, RESIDUAL_LIMIT), min_size=16, max_size=16))
def test_norm_is_the_integer_definition(vector):
    divisor = max(1, isqrt(sum(value * value for value in vector) << 16))
    factor = 32 * isqrt(16 << 16)
    exact = [(Decimal(value * factor) / divisor + Decimal("0.5")).to_integral(ROUND_FLOOR) for value in vector]
    normed = normalise(torch.tensor([vector], dtype=torch.int32))[0].tolist()
    assert normed == [max(-127, min(127, int(value))) for value in exact]


@given(st.integers(0, 2**26))
def test_square_root_is_exact_around_squares(root):
    values = [value for value in (root * root - 1, root * root, root * root + 1) if value >= 0]
    assert compute_isqrt(torch.tensor(values)).tolist() == [isqrt(value) for value in values]


@pytest.mark.parametrize(
    ("total", "expected"), [(0, 0), (7, 0), (8, 1), (-8, 0), (-9, -1), (16 * 127 + 8, 127), (-(2**31), -127)]
)
def test_rounding_is_half_up_and_clamped(total, expected):
    assert int(requantise(torch.tensor([total], dtype=torch.int32), 4)) == expected


@pytest.mark.parametrize("inputs", [32, 128, 512, 8192])
def test_shift_brings_sums_back_to_one_unit(inputs):
    ratio = Decimal(5461 * inputs).sqrt() / 2 ** compute_shift(inputs)
    assert Decimal("0.7") < ratio < Decimal("1.42")


@pytest.mark.parametrize("value", [127, -127])
def test_products_are_exact_at_the_limits(value):
    left = torch.full((20, 512), 127, dtype=torch.int8)
    right = torch.full((512, 8), value, dtype=torch.int8)
    assert torch.equal(multiply(left, right), torch.full((20, 8), 127 * value * 512, dtype=torch.int32))
