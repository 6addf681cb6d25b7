from __future__ import annotations

import math

import pytest
import torch
from codec_setup import DTYPES, flat, make_values, vectors
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import ConfigError, InvalidClaim
from paceline.training.codecs.codec import make_flat_layout
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.packing import count_packed_bytes, pack_codes, pack_indices, unpack_codes, unpack_indices
from paceline.training.codecs.quantisers import Int8, Raw
from paceline.training.codecs.top_k import TopK, _find_limits, _find_limits_on_device


def list_chunks(codec, size):
    """First number, width and how many are kept of every chunk, one by one."""
    for start in range(0, size, codec.chunk):
        width = min(codec.chunk, size - start)
        yield start, width, max(1, codec.k * width // codec.chunk)


def encode_slowly(codec, values):
    """The slow twin: a sort of every chunk and one long integer of indices."""
    places, numbers = [], values.tolist()
    for start, width, kept in list_chunks(codec, len(numbers)):
        order = sorted(range(width), key=lambda place: (-abs(numbers[start + place]), place))
        places += [start + place for place in sorted(order[:kept])]
    bits = math.ceil(math.log2(codec.chunk))
    stream = sum((place % codec.chunk) << (bits * order) for order, place in enumerate(places))
    picked = values[places]
    indices = stream.to_bytes(-(-len(places) * bits // 8), "little")
    return indices + bytes(codec.values.encode(picked, flat(picked)).numpy()), places


shapes = st.integers(1, 17).flatmap(lambda chunk: st.tuples(st.integers(1, chunk), st.just(chunk)))


@given(
    values=st.sampled_from(DTYPES).flatmap(vectors), shape=shapes, inner=st.sampled_from([Raw(), Int8(3), TwoBit(4)])
)
def test_it_agrees_with_its_slow_twin(values, shape, inner):
    codec = TopK(*shape, inner)
    expected, places = encode_slowly(codec, values)
    payload, sent = codec.encode_with_sent(values, flat(values))
    assert bytes(payload.numpy()) == expected
    decoded = codec.decode(payload, flat(values))
    picked = values[places]
    assert torch.equal(decoded[places], inner.decode(inner.encode(picked, flat(picked)), flat(picked)))
    assert decoded.count_nonzero() <= len(places) and torch.equal(decoded, sent)


def test_a_long_vector_agrees_with_its_slow_twin():
    values = make_values(20_003)
    values[7000:16_000] = 0.0
    codec = TopK(5, 256, TwoBit())
    assert bytes(codec.encode(values, flat(values)).numpy()) == encode_slowly(codec, values)[0]


@given(values=st.sampled_from(DTYPES).flatmap(vectors), shape=shapes)
def test_what_is_not_sent_is_no_larger_than_what_is(values, shape):
    codec = TopK(*shape)
    error = (codec.decode(codec.encode(values, flat(values)), flat(values)) - values).abs()
    for start, width, kept in list_chunks(codec, len(values)):
        largest = values[start : start + width].abs().sort(descending=True).values
        assert error[start : start + width].max() <= (largest[kept] if kept < width else 0)


def test_ties_go_to_the_lower_place():
    values = torch.tensor([1.0, -2.0, 1.0, 2.0, -1.0, 1.0, 0.0, -0.0, 0.0, 0.0])
    codec = TopK(3, 5)
    decoded = codec.decode(codec.encode(values, flat(values)), flat(values))
    assert decoded.tolist() == [1.0, -2.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    zeros = TopK(2, 4).encode(torch.zeros(4), flat(torch.zeros(4)))
    assert bytes(zeros.numpy()) == bytes([0b0100]) + bytes(8)


@given(values=vectors(max_size=24), kept=st.integers(1, 4))
def test_both_ways_to_find_the_limit_agree(values, kept):
    rows = values[: len(values) // 4 * 4].view(-1, 4).abs()
    assert torch.equal(_find_limits(rows, kept), _find_limits_on_device(rows, kept)) or not rows.numel()


def test_sparse_loco_takes_14_bits_for_64_of_4096():
    layout = make_flat_layout(4096 * 4096, torch.float32)
    codec = TopK(64, 4096, TwoBit(chunk=2**30))
    assert codec.count_bytes(layout) == 4096 * 64 * 14 // 8 + 8


@pytest.mark.parametrize(("size", "kept"), [(4096, 64), (4095, 63), (64, 1), (1, 1), (4097, 65), (4096 + 128, 66)])
def test_a_shorter_last_chunk_sends_its_share_and_at_least_one(size, kept):
    values = make_values(size) + 2
    codec = TopK(64, 4096)
    assert codec.decode(codec.encode(values, flat(values)), flat(values)).count_nonzero() == kept
    assert codec.count_bytes(flat(values)) == kept * 4 + -(-kept * 12 // 8)


def test_everything_kept_is_the_vector():
    values = make_values(100)
    assert torch.equal(TopK(7, 7).decode(TopK(7, 7).encode(values, flat(values)), flat(values)), values)


def test_exact_feedback_counts_the_unrounded_values_as_sent():
    values = make_values(40)
    exact, rounded = TopK(2, 8, Sign(), exact_feedback=True), TopK(2, 8, Sign())
    payload, sent = exact.encode_with_sent(values, flat(values))
    decoded = exact.decode(payload, flat(values))
    assert torch.equal(sent, torch.where(decoded != 0, values, 0))
    assert set(decoded.tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(rounded.encode_with_sent(values, flat(values))[1], decoded)


@pytest.mark.parametrize(
    ("block", "k", "chunk"), [(4096, 64, 4096), (2304, 36, 2304), (1024, 64, 4096), (48, 63, 4080), (5000, 64, 4096)]
)
def test_chunks_hold_as_many_whole_blocks_as_fit(block, k, chunk):
    fitted = TopK(64, 4096, Sign(), exact_feedback=True).fit_to_blocks(block)
    assert fitted == TopK(k, chunk, Sign(), exact_feedback=True)


@pytest.mark.parametrize("indices", [(3, 3), (5, 2), (0, 6), (7, 7)])
def test_invalid_indices_are_refused(indices):
    values = make_values(6)
    codec = TopK(2, 6)
    payload = codec.encode(values, flat(values))
    first, second = indices
    payload[0] = first | second << 3
    with pytest.raises(InvalidClaim, match="do not ascend or point past"):
        codec.decode(payload, flat(values))


def test_invalid_indices_of_a_shorter_last_chunk_are_refused():
    values = make_values(7)
    codec = TopK(1, 4)
    payload = codec.encode(values, flat(values))
    payload[0] = 0b1100
    with pytest.raises(InvalidClaim, match="point past"):
        codec.decode(payload, flat(values))


def test_invalid_bits_after_the_last_index_are_refused():
    values = make_values(4)
    payload = TopK(1, 4).encode(values, flat(values))
    payload[0] |= 0b100
    with pytest.raises(InvalidClaim, match="bits after the last number"):
        TopK(1, 4).decode(payload, flat(values))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 9, "chunk": 8}, "k"),
        ({"k": 1.0}, "k"),
        ({"k": 1, "chunk": 0}, "chunk"),
        ({"k": 1, "values": TopK(1)}, "values"),
        ({"k": 1, "values": Dct(Raw())}, "values"),
        ({"k": 1, "values": "int8"}, "values"),
        ({"k": 1, "exact_feedback": 1}, "exact_feedback"),
    ],
)
def test_invalid_settings_name_their_field(settings, field):
    with pytest.raises(ConfigError, match=f"^{field}: "):
        TopK(**settings)


@given(st.data())
def test_packed_indices_come_back(data):
    width = data.draw(st.integers(0, 30))
    numbers = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=20))
    packed = pack_indices(torch.tensor(numbers, dtype=torch.int64), width)
    stream = sum(number << (width * place) for place, number in enumerate(numbers))
    assert bytes(packed.numpy()) == stream.to_bytes(count_packed_bytes(len(numbers), width), "little")
    assert unpack_indices(packed, width, len(numbers)).tolist() == numbers


@given(st.data())
def test_packed_codes_come_back(data):
    bits = data.draw(st.sampled_from([1, 2, 4, 8]))
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack_codes(torch.tensor(codes, dtype=torch.uint8), bits)
    stream = sum(code << (bits * place) for place, code in enumerate(codes))
    assert bytes(packed.numpy()) == stream.to_bytes(count_packed_bytes(len(codes), bits), "little")
    start = data.draw(st.integers(0, len(codes)))
    assert unpack_codes(packed, bits, start, len(codes)).tolist() == codes[start:]
