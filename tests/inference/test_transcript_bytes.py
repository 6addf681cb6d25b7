"""Transcript bytes: canonical, bounded, refused with a code."""

from __future__ import annotations

import msgspec
import pytest

from paceline.base.errors import InvalidClaim
from paceline.protocol.codec import encode
from paceline.protocol.transcripts import (
    MAX_BIAS_ENTRIES,
    MAX_BIAS_MILLINATS,
    MAX_CHOICES,
    MAX_GRAMMAR_BYTES,
    MAX_PENALTY_PPM,
    MAX_STOP_BYTES,
    MAX_TOKENS,
    MAX_TOP_K,
    MAX_TRANSCRIPT_BYTES,
    TRANSCRIPT_VERSION,
    GenerationRequest,
    GrammarSpec,
    SamplerSpec,
    Transcript,
    compute_payload_hash,
    compute_request_hash,
    compute_text_hash,
    decode_transcript,
    encode_transcript,
)

REQUEST = GenerationRequest(
    model_id="scripted",
    model_hash=bytes(32),
    engine="scripted-1",
    sampler=SamplerSpec(temperature_ppm=700_000, top_p_ppm=950_000, max_tokens=4, stop=("END",)),
    seed=bytes(range(32)),
    prompt_tokens=(1, 2, 3),
)
VALID = Transcript(
    version=TRANSCRIPT_VERSION,
    request=REQUEST,
    output_tokens=(5, 6),
    logprobs_micronats=(-1, 0),
    finish_reason="stop",
    text_hash=compute_text_hash("hi"),
)


def change(**changes):
    return msgspec.structs.replace(VALID, **changes)


def change_sampler(**changes):
    sampler = msgspec.structs.replace(REQUEST.sampler, **changes)
    return change(request=msgspec.structs.replace(REQUEST, sampler=sampler))


def change_request(**changes):
    return change(request=msgspec.structs.replace(REQUEST, **changes))


def refuse(transcript, code):
    with pytest.raises(InvalidClaim) as caught:
        decode_transcript(transcript if isinstance(transcript, bytes) else encode_transcript(transcript))
    assert caught.value.code == code


def test_a_transcript_survives_its_bytes():
    assert decode_transcript(encode_transcript(VALID)) == VALID


def test_the_largest_transcript_fits_its_limit():
    largest = change(
        request=msgspec.structs.replace(
            REQUEST,
            sampler=SamplerSpec(
                temperature_ppm=2_000_000,
                top_k=MAX_TOP_K,
                top_p_ppm=1_000_000,
                presence_ppm=-MAX_PENALTY_PPM,
                frequency_ppm=-MAX_PENALTY_PPM,
                bias=tuple((2**31 - 1 - index, -MAX_BIAS_MILLINATS) for index in reversed(range(MAX_BIAS_ENTRIES))),
                max_tokens=MAX_TOKENS,
                stop=("é" * (MAX_STOP_BYTES // 2),) * 4,
                grammar=GrammarSpec("json_schema", "é" * (MAX_GRAMMAR_BYTES // 2), "e" * 64),
            ),
            prompt_tokens=(2**31 - 1,) * MAX_TOKENS,
            choice=MAX_CHOICES - 1,
        ),
        output_tokens=(2**31 - 1,) * MAX_TOKENS,
        logprobs_micronats=(-1_000_000_000,) * MAX_TOKENS,
        finish_reason="cancelled",
    )
    assert len(encode_transcript(largest)) <= MAX_TRANSCRIPT_BYTES
    assert decode_transcript(encode_transcript(largest)) == largest


def test_an_answer_cancelled_before_its_first_token():
    decode_transcript(encode_transcript(change(output_tokens=(), logprobs_micronats=(), finish_reason="cancelled")))


@pytest.mark.parametrize(
    "transcript",
    [
        change(version=1),
        change(version=3),
        change(finish_reason="tired"),
        change(text_hash=bytes(31)),
        change(output_tokens=(-1, 6)),
        change(output_tokens=(2**31, 6)),
        change(logprobs_micronats=(1, 0)),
        change(logprobs_micronats=(-1_000_000_001, 0)),
        change_request(prompt_tokens=()),
        change_request(seed=bytes(33)),
        change_request(model_hash=b""),
        change_request(model_id="UPPER"),
        change_sampler(temperature_ppm=-1),
        change_sampler(temperature_ppm=2_000_001),
        change_sampler(top_p_ppm=0),
        change_sampler(top_p_ppm=1_000_001),
        change_sampler(max_tokens=0),
        change_sampler(max_tokens=MAX_TOKENS + 1),
        change_sampler(stop=("",)),
        change_sampler(top_k=-1),
        change_sampler(top_k=MAX_TOP_K + 1),
        change_sampler(presence_ppm=MAX_PENALTY_PPM + 1),
        change_sampler(frequency_ppm=-MAX_PENALTY_PPM - 1),
        change_sampler(bias=((1, MAX_BIAS_MILLINATS + 1),)),
        change_sampler(bias=((-1, 0),)),
        change_sampler(bias=tuple((token, 0) for token in range(MAX_BIAS_ENTRIES + 1))),
        change_sampler(grammar=GrammarSpec("lark", "", "e-1")),
        change_sampler(grammar=GrammarSpec("regex", "x" * (MAX_GRAMMAR_BYTES + 1), "e-1")),
        change_request(choice=MAX_CHOICES),
        change_request(choice=-1),
        change(trace_root=bytes(31)),
        change_sampler(stop=("x",) * 5),
        change_request(prompt_tokens=(1,) * (MAX_TOKENS + 1)),
    ],
)
def test_invalid_field(transcript):
    refuse(transcript, "malformed")


def test_invalid_counts():
    refuse(change(logprobs_micronats=(0,)), "uneven-transcript")
    refuse(change(output_tokens=(1,) * 5, logprobs_micronats=(0,) * 5), "over-max-tokens")
    refuse(change(output_tokens=(), logprobs_micronats=()), "empty-answer")
    refuse(change_sampler(stop=("x" * (MAX_STOP_BYTES + 1),)), "stop-too-long")
    refuse(change_sampler(bias=((2, 1), (1, 1))), "unsorted-bias")
    refuse(change_sampler(bias=((1, 1), (1, 2))), "unsorted-bias")
    refuse(change_sampler(grammar=GrammarSpec("regex", "é" * (MAX_GRAMMAR_BYTES // 2 + 1), "e-1")), "grammar-too-long")


def test_invalid_bytes():
    data = encode_transcript(VALID)
    refuse(data[:-1], "malformed")
    refuse(data + b"\x00", "malformed")
    refuse(b"", "malformed")
    refuse(bytes(MAX_TRANSCRIPT_BYTES + 1), "too-large")
    refuse(encode([*msgspec.msgpack.decode(data), 1]), "malformed")
    # The version written in two bytes instead of one: the same value, other bytes.
    assert data[1:2] == b"\x02"
    refuse(data[:1] + b"\xcc\x02" + data[2:], "non-canonical")


def test_hashes_bind_every_field():
    assert compute_payload_hash(VALID) != compute_payload_hash(change(finish_reason="length"))
    hashes = {
        compute_request_hash(item.request)
        for item in (
            VALID,
            change_request(seed=bytes(32)),
            change_request(prompt_tokens=(1, 2, 4)),
            change_sampler(temperature_ppm=0),
            change_sampler(stop=()),
            change_sampler(top_k=1),
            change_sampler(presence_ppm=1),
            change_sampler(frequency_ppm=1),
            change_sampler(bias=((1, 1),)),
            change_sampler(grammar=GrammarSpec("json_object", "", "e-1")),
            change_sampler(grammar=GrammarSpec("json_object", "", "e-2")),
            change_request(choice=1),
            change_request(engine="scripted-2"),
        )
    }
    assert len(hashes) == 13
    assert compute_text_hash("a") != compute_text_hash("b")
