from __future__ import annotations

import math

import pytest
import torch
from codec_setup import DTYPES, make_shaped, make_values

from paceline.base.errors import ConfigError, InvalidClaim, WorkError
from paceline.training.codecs import dct
from paceline.training.codecs.codec import Layout
from paceline.training.codecs.dct import Blocks, Dct, Group, find_divisor, make_basis, plan_blocks
from paceline.training.codecs.few_bits import Sign
from paceline.training.codecs.power_sgd import PowerSgd
from paceline.training.codecs.quantisers import Int8, Raw
from paceline.training.codecs.top_k import TopK

RAW = Dct(Raw(), 8)


def cosine(size, wave, place):
    return math.sqrt((1 if wave == 0 else 2) / size) * math.cos(math.pi * (place + 0.5) * wave / size)


def transform_slowly(matrix, height, width):
    """The slow twin: the sum that defines every coefficient, block by block, each block row by row."""
    found = []
    for top in range(0, len(matrix), height):
        for left in range(0, matrix.shape[1], width):
            block = matrix[top : top + height, left : left + width].double().tolist()
            found += [
                sum(
                    block[i][j] * cosine(height, p, i) * cosine(width, q, j)
                    for i in range(height)
                    for j in range(width)
                )
                for p in range(height)
                for q in range(width)
            ]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"), [(12, 8, 6, 8), (7, 10, 7, 5), (1, 11, 1, 1), (3, 1, 3, 1)]
)
def test_it_agrees_with_its_slow_twin(rows, columns, height, width, dtype):
    layout = Layout(((rows, columns),), dtype)
    values = make_values(layout.size, dtype)
    found = RAW.encode(values, layout).view(dtype)
    tolerance = {torch.float32: 2.0**-23, torch.float64: 2.0**-48}[dtype]
    expected = transform_slowly(values.view(rows, columns), height, width)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_the_basis_is_orthonormal():
    for size in (1, 2, 48, 64):
        basis = make_basis(size)
        torch.testing.assert_close(basis @ basis.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pieces", [1, 64, 1 << 20])
def test_it_comes_back_whatever_the_pieces_are(dtype, pieces, monkeypatch):
    monkeypatch.setattr(dct, "get_piece_numbers", lambda _: pieces)
    layout, values = make_shaped(dtype)
    decoded = RAW.decode(RAW.encode(values, layout), layout)
    torch.testing.assert_close(decoded, values, rtol=0, atol={torch.float32: 2.0**-21, torch.float64: 2.0**-48}[dtype])


def test_blocks_stand_by_size_and_then_by_tensor():
    shapes = ((12, 16), (7,), (0, 3), (5, 2, 3), (24, 8), ())
    plan = plan_blocks(shapes, 8)
    assert plan.groups == (
        Group(64, 0, 192),
        Group(48, 192, 192),
        Group(30, 384, 30),
        Group(7, 414, 7),
        Group(1, 421, 1),
    )
    assert plan.tensors == (
        Blocks(192 + 7 + 30, 0, 24, 8, 8, 8),
        Blocks(0, 192, 12, 16, 6, 8),
        Blocks(199, 384, 5, 6, 5, 6),
        Blocks(192, 414, 1, 7, 1, 7),
        Blocks(421, 421, 1, 1, 1, 1),
    )


def test_a_block_of_its_own_chunk_keeps_its_own_largest():
    layout = Layout(((16, 8), (6, 8)))
    values = make_values(layout.size)
    coefficients = Dct(Raw(), 8).encode(values, layout).view(torch.float32)
    sparse = Dct(TopK(8, 64), 8)
    _, sent = sparse.encode_with_sent(values, layout)
    kept = Dct(Raw(), 8).encode(sent, layout).view(torch.float32)
    for start, stop, count in ((0, 64, 8), (64, 128, 8), (128, 176, 6)):
        expected = coefficients[start:stop].abs().topk(count).indices.sort().values
        assert (kept[start:stop].abs() > 1e-6).nonzero().view(-1).tolist() == expected.tolist()
    assert sparse.count_bytes(layout) == 16 * (6 + 32) // 8 + 6 * (6 + 32) // 8 + 1


def test_distro_counts_one_bit_and_twelve_for_each_kept_coefficient():
    codec = Dct(TopK(32, 4096, Sign(), exact_feedback=True))
    assert codec.count_bytes(Layout(((128, 256),))) == 8 * 32 * 13 // 8


def test_a_smooth_matrix_needs_few_coefficients():
    ramp = torch.linspace(-1, 1, 64)
    values = (ramp[:, None] * ramp.cos()).reshape(-1)
    layout = Layout(((64, 64),))
    _, sent = Dct(TopK(16, 4096)).encode_with_sent(values, layout)
    _, plain = TopK(16, 4096).encode_with_sent(values, layout)
    assert (values - sent).norm() < 0.02 * values.norm() < (values - plain).norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_error_is_that_of_the_inner_codec(dtype):
    layout = Layout(((48, 32),), dtype)
    values = make_values(layout.size, dtype)
    coefficients = Dct(Raw()).encode(values, layout).view(dtype)
    inner = Int8(64)
    flat = Layout(((layout.size,),), dtype)
    expected = (inner.decode(inner.encode(coefficients, flat), flat) - coefficients).norm()
    found = (Dct(inner).decode(Dct(inner).encode(values, layout), layout) - values).norm()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("order", ["left first", "plain sums"])
def test_another_order_of_sums_changes_few_last_digits(order):
    values = make_values(64 * 64)
    block, basis = values.view(64, 64).double(), make_basis(64)
    if order == "left first":
        other = (block.T @ basis.T).T @ basis.T
    else:
        other = sum(basis[:, i : i + 1] * (block @ basis.T)[i] for i in range(63, -1, -1))
    found = Dct(Raw()).encode(values, Layout(((64, 64),))).view(torch.float32)
    other = other.float().reshape(-1)
    differing = found.view(torch.int32).long() - other.view(torch.int32).long()
    assert int((differing != 0).sum()) <= 4 and int(differing.abs().max()) <= 1


def test_invalid_overflow_of_a_coefficient_is_refused():
    values = torch.full((64,), 3e38)
    with pytest.raises(WorkError, match="NaN or infinity"):
        RAW.encode(values, Layout(((8, 8),)))
    with pytest.raises(InvalidClaim, match=r"^payload: "):
        RAW.decode(values.view(torch.uint8), Layout(((8, 8),)))


@pytest.mark.parametrize(("side", "divisor"), [(64, 64), (96, 48), (97, 1), (1, 1), (50257, 29), (65, 13)])
def test_the_sides_of_blocks(side, divisor):
    assert find_divisor(side, 64) == divisor


@pytest.mark.parametrize("inner", [PowerSgd(1), Dct(Raw()), "raw", None])
def test_invalid_inner_codecs_are_refused(inner):
    with pytest.raises(ConfigError, match=r"^codec: must be a codec of flat vectors"):
        Dct(inner)


@pytest.mark.parametrize("block", [0, 1025, 8.0, True])
def test_invalid_blocks_are_refused(block):
    with pytest.raises(ConfigError, match=r"^block: "):
        Dct(Raw(), block)
