from __future__ import annotations

import pytest
import torch
from codec_setup import DTYPES, make_values

from paceline.base.errors import ConfigError, InvalidClaim, WorkError
from paceline.training.codecs import power_sgd
from paceline.training.codecs.codec import Layout
from paceline.training.codecs.power_sgd import PowerSgd

LAYOUT = Layout(((20, 30),))


def roundtrip(codec, values, layout, key=b"key"):
    return codec.decode(codec.encode(values, layout, key), layout, key)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_matrix_of_the_rank_comes_back(dtype):
    left, right = make_values(40, dtype).view(20, 2), make_values(60, dtype, b"right").view(2, 30)
    values = (left @ right).reshape(-1)
    decoded = roundtrip(PowerSgd(2), values, Layout(((20, 30),), dtype))
    torch.testing.assert_close(decoded, values, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_error_is_close_to_the_best_of_the_rank(rank):
    values = make_values(600)
    best = torch.linalg.svdvals(values.view(20, 30).double())[rank:].norm()
    found = (roundtrip(PowerSgd(rank, 16), values, LAYOUT).double() - values.double()).norm()
    first = (roundtrip(PowerSgd(rank, 1), values, LAYOUT).double() - values.double()).norm()
    assert best * (1 - 1e-6) <= found <= best * 1.02 and found <= first < values.double().norm()


def test_only_matrices_with_fewer_factors_are_factored():
    layout = Layout(((20, 30), (7,), (2, 3, 4), (2, 2), (0, 9), (4, 4)))
    codec = PowerSgd(2)
    assert codec.count_bytes(layout) == 4 * (100 + 7 + 24 + 4 + 0 + 16)
    values = make_values(layout.size)
    decoded = roundtrip(codec, values, layout)
    assert torch.equal(decoded[600:], values[600:]) and not torch.equal(decoded[:600], values[:600])


def test_the_key_draws_the_start():
    values = make_values(600)
    codec = PowerSgd(1, 1)
    first, second = (codec.encode(values, LAYOUT, key) for key in (b"a", b"b"))
    assert not torch.equal(first, second) and torch.equal(first, codec.encode(values, LAYOUT, b"a"))


def test_zeros_stay_zeros():
    assert torch.equal(roundtrip(PowerSgd(2), torch.zeros(600), LAYOUT), torch.zeros(600))


def test_pieces_of_rows_change_last_digits_at_most(monkeypatch):
    values = make_values(600)
    whole = roundtrip(PowerSgd(2), values, LAYOUT)
    monkeypatch.setattr(power_sgd, "get_piece_numbers", lambda _: 70)
    torch.testing.assert_close(roundtrip(PowerSgd(2), values, LAYOUT), whole, rtol=0, atol=1e-6)


def test_invalid_factors_are_refused():
    values = make_values(600)
    payload = PowerSgd(1).encode(values, LAYOUT)
    for place, value in ((0, float("nan")), (-1, float("inf"))):
        numbers = payload.clone().view(torch.float32)
        numbers[place] = value
        with pytest.raises(InvalidClaim, match=r"^payload: "):
            PowerSgd(1).decode(numbers.view(torch.uint8), LAYOUT)
    with pytest.raises(InvalidClaim, match=r"^payload: "):
        PowerSgd(1).decode(torch.full((50,), 3e38).view(torch.uint8), LAYOUT)


def test_invalid_overflow_of_a_factor_is_refused():
    with pytest.raises(WorkError, match="range of the layout's type"):
        PowerSgd(1).encode(torch.full((600,), 3e38), LAYOUT)


@pytest.mark.parametrize(
    ("settings", "field"), [((0,), "rank"), ((1.5,), "rank"), ((1, 0), "iterations"), ((1, 17), "iterations")]
)
def test_invalid_settings_name_their_field(settings, field):
    with pytest.raises(ConfigError, match=f"^{field}: "):
        PowerSgd(*settings)
