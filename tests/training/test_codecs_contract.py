"""What every codec promises, whatever it writes."""

from __future__ import annotations

from itertools import product

import blake3
import pytest
import torch
from codec_setup import ALL, DTYPES, EXACT_BYTES, flat, make_shaped, make_values
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import ConfigError, InvalidClaim, WorkError
from paceline.training.codecs import codec as codec_module
from paceline.training.codecs import pieces, quantisers
from paceline.training.codecs.codec import Layout, make_flat_layout
from paceline.training.codecs.few_bits import TwoBit
from paceline.training.codecs.quantisers import Int8, Raw
from paceline.training.codecs.top_k import TopK

every = pytest.mark.parametrize("codec", ALL, ids=repr)
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@both
@every
def test_bytes_are_as_many_as_counted_and_decode_to_the_layout(codec, dtype):
    layout, values = make_shaped(dtype)
    before = values.clone()
    payload = codec.encode(values, layout, b"key")
    assert payload.dtype == torch.uint8 and payload.shape == (codec.count_bytes(layout),)
    decoded = codec.decode(payload, layout, b"key")
    assert decoded.dtype == dtype and decoded.shape == values.shape
    assert bool(torch.isfinite(decoded).all()) and torch.equal(values, before)


@every
def test_the_same_vector_gives_the_same_bytes_and_what_was_sent(codec):
    layout, values = make_shaped()
    payload, sent = codec.encode_with_sent(values, layout, b"key")
    assert torch.equal(payload, codec.encode(values.clone(), layout, b"key"))
    assert sent.shape == values.shape and sent.dtype == values.dtype
    if "exact_feedback=True" not in repr(codec):
        assert torch.equal(sent, codec.decode(payload, layout, b"key"))


@both
@every
def test_an_empty_vector_is_no_bytes(codec, dtype):
    for shapes in ((), ((0,),), ((0, 4), (3, 0))):
        layout = Layout(shapes, dtype)
        payload, sent = codec.encode_with_sent(torch.empty(0, dtype=dtype), layout)
        assert payload.shape == (0,) and codec.count_bytes(layout) == 0
        assert codec.decode(payload, layout).shape == sent.shape == (0,)


@both
@every
def test_one_number_keeps_its_sign_and_size(codec, dtype):
    for value, shape in product((0.0, -0.0, 3.0, -0.25), ((1,), (), (1, 1))):
        layout = Layout((shape,), dtype)
        payload = codec.encode(torch.tensor([value], dtype=dtype), layout)
        assert len(payload) == codec.count_bytes(layout)
        expected = (1.0 if value >= 0 else -1.0) if "Sign(chunk=0)" in repr(codec) else value
        assert codec.decode(payload, layout).item() == pytest.approx(expected, rel=1e-6)


@every
def test_sizes_that_no_chunk_divides(codec):
    for size in (1, 2, 3, 7, 8, 9, 41, 63, 64, 65):
        values = make_values(size)
        payload = codec.encode(values, flat(values))
        assert len(payload) == codec.count_bytes(flat(values))
        assert codec.decode(payload, flat(values)).shape == (size,)


@every
def test_invalid_nan_and_infinity_are_refused(codec):
    layout, values = make_shaped()
    for place, bad in product((0, 100, -1), (float("nan"), float("inf"), -float("inf"))):
        wrong = values.clone()
        wrong[place] = bad
        with pytest.raises(WorkError, match="NaN or infinity"):
            codec.encode(wrong, layout)


@every
def test_invalid_lengths_and_types_are_refused(codec):
    layout, values = make_shaped()
    payload = codec.encode(values, layout)
    for wrong in (payload[:-1], torch.cat([payload, payload[:1]]), payload[:0], payload.to(torch.int16)):
        with pytest.raises(InvalidClaim, match=r"^payload: "):
            codec.decode(wrong, layout)


@every
def test_invalid_types_of_numbers_are_refused(codec):
    values = torch.zeros(4, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"layout\.dtype"):
        codec.encode(values, flat(values))
    with pytest.raises(ConfigError, match=r"layout\.dtype"):
        codec.decode(torch.zeros(codec.count_bytes(flat(values)), dtype=torch.uint8), flat(values))


@every
@given(data=st.data())
@settings(max_examples=30)
def test_any_bytes_decode_to_finite_numbers_or_are_refused(codec, data):
    layout = make_flat_layout(data.draw(st.integers(1, 20)), data.draw(st.sampled_from(DTYPES)))
    count = codec.count_bytes(layout)
    payload = torch.tensor(list(data.draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
    try:
        values = codec.decode(payload, layout)
    except InvalidClaim:
        return
    assert bool(torch.isfinite(values).all())


@every
def test_a_payload_may_start_at_any_byte_of_a_buffer(codec):
    layout, values = make_shaped()
    payload = codec.encode(values, layout)
    inside = torch.cat([payload[:1], payload, payload[:1]])[1:-1]
    assert torch.equal(codec.decode(inside, layout), codec.decode(payload, layout))


@every
def test_values_may_be_any_view(codec):
    layout, values = make_shaped()
    wide = torch.stack([values, -values], 1)
    assert torch.equal(codec.encode(wide[:, 0], layout), codec.encode(values, layout))


@pytest.mark.parametrize("codec", EXACT_BYTES, ids=repr)
def test_bytes_do_not_depend_on_the_size_of_the_pieces(codec, monkeypatch):
    values = make_values(10_007)
    values[500:900] = 0.25
    expected = codec.encode(values, flat(values))
    decoded = codec.decode(expected, flat(values))
    for numbers in (64, 4096, 1 << 26):
        for module in (pieces, quantisers):
            monkeypatch.setattr(module, "get_piece_numbers", lambda _, numbers=numbers: numbers)
        monkeypatch.setattr(codec_module, "CPU_PIECE_NUMBERS", numbers)
        assert torch.equal(codec.encode(values, flat(values)), expected)
        assert torch.equal(codec.decode(expected, flat(values)), decoded)


def test_the_bytes_are_pinned_on_every_machine():
    values = make_values(10_007)
    values[500:900] = 0.25
    digest = blake3.blake3()
    for codec in EXACT_BYTES:
        for dtype in DTYPES:
            digest.update(bytes(codec.encode(values.to(dtype), make_flat_layout(10_007, dtype)).numpy()))
    assert digest.hexdigest()[:16] == "cad19a68f4dda6d0"


def test_a_layout_splits_its_vector_into_views():
    layout, values = make_shaped()
    parts = layout.split(values)
    assert [tuple(part.shape) for part in parts] == list(layout.shapes)
    assert layout.size == sum(layout.sizes) == len(values)
    parts[0].zero_()
    assert not values[: layout.sizes[0]].any()


def test_large_vectors_decode_as_their_halves_do():
    values = make_values(1 << 21)
    halves = values.view(2, -1)
    for codec in (Raw(), Int8(), TopK(64, 4096, TwoBit())):
        decoded = codec.decode(codec.encode(values, flat(values)), flat(values))
        expected = [codec.decode(codec.encode(half, flat(half)), flat(half)) for half in halves]
        assert torch.equal(decoded, torch.cat(expected))
