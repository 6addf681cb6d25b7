from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from codec_setup import DTYPES, flat, make_values, peaks_of, vectors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline.base.errors import ConfigError, InvalidClaim, WorkError
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.quantisers import Float4, Half, Int4, Int8, Raw

chunks = st.integers(1, 9)
any_vectors = st.sampled_from(DTYPES).flatmap(vectors)


def roundtrip(codec, values):
    return codec.decode(codec.encode(values, flat(values)), flat(values))


def edit(payload, place, value):
    changed = payload.clone()
    changed[place] = value
    return changed


def with_scale(payload, scale, place=0):
    changed = payload.clone()
    changed[4 * place : 4 * place + 4] = torch.tensor(list(struct.pack("<f", scale)), dtype=torch.uint8)
    return changed


def refuse(codec, payload, values):
    with pytest.raises(InvalidClaim, match=r"^payload: "):
        codec.decode(payload, flat(values))


@given(any_vectors)
def test_raw_is_exact(values):
    assert torch.equal(roundtrip(Raw(), values), values)


@given(vectors(limit=65000.0))
def test_fp16_rounds_to_eleven_digits(values):
    error = (roundtrip(Half(), values) - values).abs()
    assert bool((error <= torch.maximum(values.abs() * 2**-11, torch.tensor(2.0**-25))).all())


@given(vectors(limit=2.0**127))
def test_bf16_rounds_to_eight_digits(values):
    error = (roundtrip(Half("bf16"), values).double() - values.double()).abs()
    assert bool((error <= values.double().abs() * 2**-8 + 2.0**-133).all())


def test_invalid_overflow_of_half_precision_says_what_to_do():
    values = torch.tensor([0.0, 65520.0])
    with pytest.raises(WorkError, match="range of fp16: choose bf16"):
        Half().encode(values, flat(values))
    assert roundtrip(Half(), torch.tensor([65519.0])).item() == 65504.0
    largest = torch.tensor([torch.finfo(torch.float32).max])
    with pytest.raises(WorkError, match="range of bf16"):
        Half("bf16").encode(largest, flat(largest))
    beyond = torch.tensor([1e300], dtype=torch.float64)
    with pytest.raises(WorkError, match="range of bf16"):
        Half("bf16").encode(beyond, flat(beyond))


@pytest.mark.parametrize("codec", [Raw(), Half(), Half("bf16")], ids=repr)
def test_invalid_infinite_numbers_in_a_payload(codec):
    values = torch.ones(3)
    payload = codec.encode(values, flat(values))
    width = len(payload) // 3
    payload[-width:] = 0xFF
    refuse(codec, payload, values)


@pytest.mark.parametrize(("kind", "levels"), [(Int8, 127), (Int4, 7)])
@given(values=any_vectors, chunk=chunks)
@example(values=torch.tensor([torch.finfo(torch.float32).max, -1.0]), chunk=2)
@example(values=torch.tensor([1e-45, -1e-38, 1e-36]), chunk=1)
def test_whole_numbers_err_by_half_a_scale(kind, levels, values, chunk):
    codec = kind(chunk)
    error = (roundtrip(codec, values).double() - values.double()).abs()
    tiny = torch.finfo(values.dtype).tiny * levels
    assert bool((error <= peaks_of(values, chunk) / (2 * levels) * (1 + 2e-6) + tiny).all())


@given(values=any_vectors, chunk=chunks)
def test_powers_of_two_err_by_a_third_or_a_hundred_and_twenty_eighth_of_the_peak(values, chunk):
    error = (roundtrip(Float4(chunk), values).double() - values.double()).abs()
    bound = torch.maximum(values.double().abs() / 3, peaks_of(values, chunk) / 128)
    assert bool((error <= bound * (1 + 2e-6) + torch.finfo(values.dtype).tiny).all())


def test_powers_of_two_are_kept_and_halves_go_up():
    values = torch.tensor([1.0, -0.5, 2**-6, 2**-7, 2**-7.001, 0.75, 0.7499, -0.0])
    assert roundtrip(Float4(), values).tolist() == [1.0, -0.5, 2**-6, 2**-6, 0.0, 1.0, 0.5, 0.0]


@given(values=vectors(), chunk=chunks)
def test_int8_agrees_with_its_slow_twin(values, chunk):
    scales, codes = b"", b""
    numbers = [np.float32(value) for value in values.tolist()]
    info = np.finfo(np.float32)
    for start in range(0, len(numbers), chunk):
        part = numbers[start : start + chunk]
        scale = min(max(map(abs, part)), np.float32(float(info.max) * (1 - float(info.eps)))) / np.float32(127)
        scale = scale if scale >= info.tiny else np.float32(0)
        scales += struct.pack("<f", scale)
        codes += b"".join(struct.pack("<b", round(float(x / scale)) if scale else 0) for x in part)
    assert bytes(Int8(chunk).encode(values, flat(values)).numpy()) == scales + codes


@given(values=any_vectors)
def test_signs_alone(values):
    assert torch.equal(roundtrip(Sign(), values), torch.where(values >= 0, 1.0, -1.0).to(values.dtype))


@given(values=any_vectors, chunk=chunks)
def test_signs_with_the_mean_magnitude(values, chunk):
    decoded, tiny = roundtrip(Sign(chunk), values), torch.finfo(values.dtype).tiny
    for part, found in zip(values.split(chunk), decoded.split(chunk), strict=True):
        peak = max(map(abs, part.tolist()), default=0.0)
        mean = math.fsum(abs(x) / peak for x in part.tolist()) / len(part) * peak if peak >= tiny else 0.0
        assert found.tolist() == pytest.approx([mean if x >= 0 else -mean for x in part.tolist()], rel=1e-6, abs=tiny)


@given(values=vectors(limit=2.0**100), chunk=chunks, sigmas=st.floats(0.5, 8))
@example(values=torch.tensor([1.0, -1.0, 5.0]), chunk=3, sigmas=4.0)
def test_two_bits_agree_with_their_slow_twin(values, chunk, sigmas):
    decoded = roundtrip(TwoBit(chunk, sigmas), values)
    for part, found in zip(values.split(chunk), decoded.split(chunk), strict=True):
        numbers = part.tolist()
        peak = max(map(abs, numbers), default=0.0)
        if peak < torch.finfo(torch.float32).tiny:
            assert found.tolist() == [0.0] * len(numbers)
            continue
        ratios = [abs(x) / peak for x in numbers]
        limit = math.sqrt(math.fsum(r * r for r in ratios) / len(ratios)) * sigmas / 4
        if any(math.isclose(r, limit, rel_tol=1e-12) for r in ratios):
            continue
        means = {
            outer: peak * math.fsum(chosen) / len(chosen)
            for outer in (False, True)
            if (chosen := [r for r in ratios if (r > limit) == outer])
        }
        expected = [math.copysign(means[r > limit], -1 if x < 0 else 1) for x, r in zip(numbers, ratios, strict=True)]
        assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-37)


def test_two_bits_split_at_a_quarter_of_the_range():
    values = torch.tensor([1.0, -1.0, 1.0, -1.2, 6.0, -8.0, 1.0, 1.0])
    assert roundtrip(TwoBit(8), values).tolist() == pytest.approx(
        [6.2 / 6, -6.2 / 6, 6.2 / 6, -6.2 / 6, 7.0, -7.0, 6.2 / 6, 6.2 / 6]
    )


@pytest.mark.parametrize(
    "codec", [Int8(4), Int4(4), Float4(4), TwoBit(4), Sign(4)], ids=lambda codec: type(codec).__name__
)
def test_invalid_scales_are_refused(codec):
    values = make_values(8)
    payload = codec.encode(values, flat(values))
    for bad in (float("nan"), float("inf"), -1.0, -0.0, 0.0):
        refuse(codec, with_scale(payload, bad, codec.scales_per_chunk), values)
    if not isinstance(codec, TwoBit | Sign):
        refuse(codec, with_scale(payload, 1e-45, 1), values)
    if codec.scales_per_chunk == 1 and not isinstance(codec, Float4 | Sign):
        refuse(codec, with_scale(payload, 3.4e38, 1), values)


def test_invalid_codes_are_refused():
    values = torch.tensor([1.0, -0.5, 0.25])
    int8, int4, float4 = (kind(4).encode(values, flat(values)) for kind in (Int8, Int4, Float4))
    refuse(Int8(4), edit(int8, 4, 0x80), values)
    refuse(Int8(4), edit(int8, 4, 100), values)
    refuse(Int4(4), edit(int4, 4, int(int4[4]) & 0xF0), values)
    refuse(Int4(4), edit(int4, 4, 0x88), values)
    refuse(Float4(4), edit(float4, 4, int(float4[4]) & 0x0F | 0x80), values)
    refuse(Float4(4), edit(float4, 4, 0x11), values)
    zeros = torch.zeros(3)
    for kind in (Int8, Int4, Float4, TwoBit, Sign):
        payload = kind(4).encode(zeros, flat(zeros))
        refuse(kind(4), edit(payload, -1, int(payload[-1]) ^ 1), zeros)


@pytest.mark.parametrize("codec", [Int4(4), Float4(4), TwoBit(4), Sign(), Sign(4)], ids=repr)
def test_invalid_bits_after_the_last_number_are_refused(codec):
    values = make_values(5)
    payload = codec.encode(values, flat(values))
    refuse(codec, edit(payload, -1, int(payload[-1]) | 0x80), values)


def test_invalid_two_bit_levels_are_refused():
    values = torch.tensor([1.0, 1.0, -1.0, 9.0])
    codec = TwoBit(4, 4.0)
    payload = codec.encode(values, flat(values))
    assert codec.decode(payload, flat(values)).tolist() == [1.0, 1.0, -1.0, 9.0]
    refuse(codec, with_scale(payload, 10.0), values)
    refuse(codec, with_scale(payload, 0.0, 1), values)


@pytest.mark.parametrize("kind", [Int8, Int4, Float4, TwoBit])
@pytest.mark.parametrize("chunk", [0, -1, True, 4.0, "8", 2**30 + 1])
def test_invalid_chunks_are_refused(kind, chunk):
    with pytest.raises(ConfigError, match=r"^chunk: must be a whole number between 1"):
        kind(chunk)


@pytest.mark.parametrize("sigmas", [0, -1.0, float("nan"), float("inf"), "6", True])
def test_invalid_other_settings_are_refused(sigmas):
    with pytest.raises(ConfigError, match=r"^range_sigmas: "):
        TwoBit(range_sigmas=sigmas)
    with pytest.raises(ConfigError, match=r"^chunk: must be a whole number between 0"):
        Sign(-1)
    with pytest.raises(ConfigError, match=r"^kind: must be one of fp16, bf16"):
        Half("fp8")


@settings(max_examples=20)
@given(st.integers(1, 300))
def test_one_large_chunk_is_as_good_as_many(size):
    values = make_values(size)
    assert torch.equal(Int8(2**30).encode(values, flat(values)), Int8(size).encode(values, flat(values)))
