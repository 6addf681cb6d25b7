"""Records between relay and executor: what a request and a frame may hold, at the bounds and beyond."""

from __future__ import annotations

import msgspec
import pytest

from paceline.base.errors import Invalid
from paceline.protocol.answers import (
    MAX_ORDER_BYTES,
    MAX_TOP_LOGPROBS,
    AnswerRequest,
    ChatPrompt,
    EmbedRequest,
    Payload,
    TextFrame,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Turn,
    VectorFrame,
    decode_frame,
)
from paceline.protocol.codec import decode, encode
from paceline.protocol.transcripts import MAX_CHOICES, MAX_GRAMMAR_BYTES, MAX_TOKENS, MAX_VECTOR_BYTES, GrammarSpec

REQUEST = AnswerRequest(
    model="scripted",
    prompt=ChatPrompt((Turn("user", "hi"),)),
    temperature_ppm=0,
    top_p_ppm=1_000_000,
    max_tokens=8,
    stop=(),
    user_seed=None,
)
TOKEN = TokenLogprob(3, b"\xc3", -5, ((3, b"\xc3", -5),))


def pack(request):
    return decode(Payload, encode(Payload(request, b"")), limit_bytes=MAX_ORDER_BYTES, error=Invalid).request


def change(**changes):
    return msgspec.structs.replace(REQUEST, **changes)


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        change(prompt=TextPrompt("x")),
        change(prompt=TokenPrompt((2**31 - 1,) * MAX_TOKENS)),
        change(choice=MAX_CHOICES - 1, top_logprobs=MAX_TOP_LOGPROBS, user_seed=-(2**63)),
        change(grammar=GrammarSpec("json_schema", "x" * MAX_GRAMMAR_BYTES, "e-1"), bias=((1, -5), (2, 5))),
        EmbedRequest("scripted", TextPrompt("x")),
        EmbedRequest("scripted", TokenPrompt((1,))),
    ],
)
def test_requests_survive_their_bytes(request_):
    assert pack(request_) == request_


@pytest.mark.parametrize(
    "request_",
    [
        change(prompt=TextPrompt("")),
        change(prompt=TokenPrompt(())),
        change(prompt=TokenPrompt((-1,))),
        change(prompt=TokenPrompt((1,) * (MAX_TOKENS + 1))),
        change(prompt=ChatPrompt(())),
        change(prompt=ChatPrompt((Turn("tool", "x"),))),
        change(choice=MAX_CHOICES),
        change(choice=-1),
        change(top_logprobs=MAX_TOP_LOGPROBS + 1),
        change(top_k=-1),
        change(presence_ppm=10_000_001),
        change(grammar=GrammarSpec("json_schema", "x" * (MAX_GRAMMAR_BYTES + 1), "e-1")),
        EmbedRequest("scripted", ChatPrompt((Turn("user", "x"),))),
    ],
)
def test_invalid_request(request_):
    with pytest.raises(Invalid) as caught:
        pack(request_)
    assert caught.value.code == "malformed"


def test_every_field_is_part_of_the_hash():
    requests = [
        REQUEST,
        change(top_k=1),
        change(presence_ppm=1),
        change(frequency_ppm=1),
        change(bias=((1, 1),)),
        change(grammar=GrammarSpec("json_object", "", "e-1")),
        change(choice=1),
        change(top_logprobs=0),
        change(prompt=TextPrompt("hi")),
        EmbedRequest("scripted", TextPrompt("hi")),
    ]
    assert len({request.compute_hash() for request in requests}) == len(requests)


def test_an_embedding_pays_for_no_written_tokens():
    assert EmbedRequest("scripted", TextPrompt("x")).max_tokens == 0


@pytest.mark.parametrize(
    "frame",
    [
        TextFrame("a"),
        TextFrame("", (TOKEN,)),
        TextFrame("a", (TOKEN, TokenLogprob(1, b"", 0, ((1, b"", 0),) * MAX_TOP_LOGPROBS))),
        VectorFrame(bytes(4)),
        VectorFrame(bytes(MAX_VECTOR_BYTES)),
    ],
)
def test_frames_survive_their_bytes(frame):
    assert decode_frame(encode(frame)) == frame


@pytest.mark.parametrize(
    "frame",
    [
        TextFrame("a", (TokenLogprob(1, b"", 1, ()),)),
        TextFrame("a", (TokenLogprob(1, b"", 0, ((1, b"", 0),) * (MAX_TOP_LOGPROBS + 1)),)),
        VectorFrame(bytes(3)),
        VectorFrame(bytes(MAX_VECTOR_BYTES + 1)),
    ],
)
def test_invalid_frame(frame):
    with pytest.raises(Invalid) as caught:
        decode_frame(encode(frame))
    assert caught.value.code == "malformed"


def test_invalid_frame_that_leaves_a_field_out_is_no_second_spelling():
    short = encode(["text", "a"])
    with pytest.raises(Invalid) as caught:
        decode_frame(short)
    assert caught.value.code == "non-canonical"
