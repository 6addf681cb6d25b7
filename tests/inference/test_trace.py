"""Sketches are exact, openings prove what they claim, draws are of the answer and bounded."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from paceline.base.errors import InvalidClaim, WorkError
from paceline.base.merkle import EMPTY_ROOT
from paceline.inference.trace import (
    LARGEST_DISTANCE,
    LEAST_DISTANCE,
    StateRecord,
    Trace,
    compute_distances,
    compute_sketch,
    derive_draw,
    verify_opening,
)
from paceline.protocol.traces import (
    MAX_OPENED,
    MAX_OPENING_BYTES,
    SKETCH_BYTES,
    SKETCH_VALUES,
    decode_opening,
    encode_opening,
)

TOKENS, LAYERS, WIDTH = 12, 3, 40
SIZES = {"tokens": TOKENS, "layers": LAYERS, "width": WIDTH}
SEED = bytes(range(32))


def make_trace(number=1, tokens=TOKENS):
    generator = torch.Generator().manual_seed(number)
    return Trace.join(StateRecord(torch.randn(tokens, LAYERS, WIDTH, generator=generator).bfloat16()))


@pytest.fixture
def trace():
    return make_trace()


@pytest.fixture
def draw():
    return derive_draw(SEED, TOKENS, LAYERS)


def test_an_honest_opening_verifies_for_every_layer(trace, draw):
    for layer in range(LAYERS):
        drawn = dataclasses.replace(draw, layer=layer)
        assert verify_opening(trace.open(drawn), trace.compute_root(), drawn, **SIZES)


def test_invalid_openings_are_refused(trace, draw):
    root, opening = trace.compute_root(), trace.open(draw)
    first = opening.states[0]
    flipped = bytes([first.values[0] ^ 1]) + first.values[1:]
    at = draw.positions[0] * SKETCH_BYTES
    sketch = bytearray(opening.sketch)
    sketch[at] ^= 1
    wrong = [
        msgspec.structs.replace(opening, sketch=bytes(sketch)),
        msgspec.structs.replace(opening, sketch=opening.sketch[:-SKETCH_BYTES]),
        msgspec.structs.replace(opening, states=opening.states[1:]),
        msgspec.structs.replace(opening, states=(*opening.states[1:], first)),
        msgspec.structs.replace(opening, states=(msgspec.structs.replace(first, values=flipped), *opening.states[1:])),
        msgspec.structs.replace(
            opening, states=(msgspec.structs.replace(first, values=first.values[:-2]), *opening.states[1:])
        ),
        msgspec.structs.replace(
            opening, states=(msgspec.structs.replace(first, path=first.path[:-1]), *opening.states[1:])
        ),
        trace.open(dataclasses.replace(draw, layer=(draw.layer + 1) % LAYERS)),
        make_trace(2).open(draw),
    ]
    assert not any(verify_opening(opening, root, draw, **SIZES) for opening in wrong)
    assert not verify_opening(opening, make_trace(2).compute_root(), draw, **SIZES)


def test_a_root_binds_the_number_of_tokens(trace, draw):
    opening = trace.open(draw)
    assert not verify_opening(opening, trace.compute_root(), draw, tokens=TOKENS + 1, layers=LAYERS, width=WIDTH)


def test_a_draw_opens_at_most_eight_and_never_more_than_there_are():
    for tokens in (1, MAX_OPENED, MAX_OPENED + 1, 500):
        draw = derive_draw(SEED, tokens, LAYERS)
        assert len(draw.positions) == min(tokens, MAX_OPENED) == len(set(draw.positions))
        assert all(0 <= position < tokens for position in draw.positions)
        assert 0 <= draw.layer < LAYERS
    seeds = [bytes([number]) * 32 for number in range(60)]
    assert {derive_draw(seed, 9, LAYERS).layer for seed in seeds} == {0, 1, 2}


def test_a_sketch_is_the_same_for_one_state_and_for_many(trace):
    states = trace.states[:, 0]
    together = compute_sketch(states, SEED)
    assert together == b"".join(compute_sketch(states[place : place + 1], SEED) for place in range(TOKENS))
    assert compute_sketch(states, bytes(32)) != together


def test_a_sketch_is_exact_whatever_the_order_of_the_sums():
    # Big and tiny values side by side: sums in fp32 would depend on their order.
    values = torch.tensor([2.0**13, 2.0**-20, -(2.0**13), 2.0**-24] * 64).bfloat16()
    bits = values.view(torch.uint16).numpy()[None]
    signs = np.frombuffer(compute_sketch(bits, SEED), "<f2")
    plain = [0] * SKETCH_VALUES
    one = np.zeros_like(bits)
    for place in range(bits.shape[1]):
        one[:] = 0
        one[0, place] = torch.tensor([1024.0]).bfloat16().view(torch.uint16).numpy()[0]
        for value, sign in enumerate(np.frombuffer(compute_sketch(one, SEED), "<f2")):
            plain[value] += (1 if sign > 0 else -1) * int(float(values[place]) * 2**24)
    assert [float(value) for value in signs] == [float(np.float16(total / 2**24 / 2**5)) for total in plain]


def test_values_that_are_no_numbers_do_not_spoil_a_sketch():
    values = torch.tensor([[float("nan"), float("inf"), -float("inf"), 3e38]]).bfloat16()
    sketch = np.frombuffer(compute_sketch(values.view(torch.uint16).numpy(), SEED), "<f2")
    assert np.isfinite(sketch).all()


def test_distances_are_zero_for_equal_sketches_and_bounded_for_any(trace):
    own = compute_sketch(trace.states[:, 0], SEED)
    highest = round(np.log(LARGEST_DISTANCE / LEAST_DISTANCE) * 1e6)
    assert compute_distances(own, own) == [0] * TOKENS
    for sent in (b"\xff" * len(own), b"\x00\x7c" * (len(own) // 2)):
        assert compute_distances(sent, own) == [highest] * TOKENS
    half = (np.frombuffer(own, "<f2") * 0.5).astype("<f2").tobytes()
    assert compute_distances(half, own) == pytest.approx([np.log(0.5 / LEAST_DISTANCE) * 1e6] * TOKENS, rel=1e-3)


def test_a_trace_survives_the_disk(trace):
    again = Trace.decode(trace.encode())
    assert np.array_equal(again.states, trace.states)
    assert again.compute_root() == trace.compute_root()


def test_invalid_trace_on_disk_is_named(trace):
    for data in (b"", trace.encode()[:-1], trace.encode() + b"x", trace.encode()[:5]):
        with pytest.raises(WorkError, match="damaged"):
            Trace.decode(data)


def test_an_answer_without_tokens_has_a_root_of_nothing():
    assert Trace.join([]).compute_root() == EMPTY_ROOT


def test_openings_go_through_bytes(trace, draw):
    opening = trace.open(draw)
    assert decode_opening(encode_opening(opening)) == opening


def test_invalid_opening_bytes(trace, draw):
    data = encode_opening(trace.open(draw))
    for bad, code in (
        (data[:-1], "malformed"),
        (b"\x00" * (MAX_OPENING_BYTES + 1), "too-large"),
        (encode_opening(msgspec.structs.replace(trace.open(draw), states=trace.open(draw).states * 2)), "malformed"),
    ):
        with pytest.raises(InvalidClaim) as caught:
            decode_opening(bad)
        assert caught.value.code == code
