"""Frames: whatever the cuts, the same messages come out; whatever the announcement, no more than the limit is held."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import InvalidBlock
from paceline.engine.abci.client import make_request
from paceline.engine.abci.framing import FrameReader, encode_frame, encode_length
from paceline.engine.abci.schema import Request, Response


@given(texts=st.lists(st.text(max_size=300), max_size=6), cuts=st.lists(st.integers(0, 3_000), max_size=8))
def test_messages_survive_every_cut(texts, cuts):
    stream = b"".join(encode_frame(make_request("echo", {"message": text})) for text in texts)
    reader = FrameReader(Request, 10_000)
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = [message for a, b in pairwise(borders) for message in reader.feed(stream[a:b])]
    assert [message.echo.message for message in found] == texts


@pytest.mark.parametrize(("length", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_lengths_are_unsigned_varints(length, encoded):
    assert encode_length(length) == encoded


def test_a_message_of_exactly_the_limit_passes():
    frame = encode_frame(make_request("echo", {"message": "x" * 50}))
    size = len(frame) - 1
    assert FrameReader(Request, size).feed(frame)
    with pytest.raises(InvalidBlock, match="too-large"):
        FrameReader(Request, size - 1).feed(frame)


def test_invalid_length_is_refused_before_anything_is_held():
    with pytest.raises(InvalidBlock, match="too-large"):
        FrameReader(Request, 1_000).feed(encode_length(2**34))
    with pytest.raises(InvalidBlock, match="bad-length"):
        FrameReader(Request, 1_000).feed(b"\xff" * 5)


def test_invalid_protobuf_is_refused():
    with pytest.raises(InvalidBlock, match="malformed"):
        FrameReader(Request, 1_000).feed(encode_length(3) + b"\x0a\xff\xff")


@given(data=st.binary(max_size=400))
def test_random_bytes_raise_the_typed_error_or_nothing(data):
    code = "none"
    try:
        FrameReader(Request, 1_000).feed(data)
    except InvalidBlock as problem:
        code = problem.code
    assert code in {"none", "too-large", "bad-length", "malformed"}


def test_verbs_have_the_tags_of_abci_2():
    tags = {field.name: field.number for field in Request.DESCRIPTOR.fields}
    assert tags["info"] == 3 and tags["check_tx"] == 8 and tags["finalize_block"] == 20
    answers = {field.name: field.number for field in Response.DESCRIPTOR.fields}
    assert {name: answers[name] - tags[name] for name in tags} == dict.fromkeys(tags, 1)
