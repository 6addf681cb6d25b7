from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.base.keys import AccountKey
from paceline.network.wire import (
    CLOCK_SKEW_MILLISECONDS,
    ENVELOPE_OVERHEAD_BYTES,
    FRAME_DATA,
    FRAME_END,
    MAX_LIFETIME_MILLISECONDS,
    MAX_NAME_BYTES,
    FrameReader,
    ReplayGuard,
    RequestTarget,
    decode_refusal,
    encode_frame,
    encode_refusal,
    open_request,
    seal_request,
)

SENDER, OWN = AccountKey.from_secret(b"a" * 32), AccountKey.from_secret(b"b" * 32)
TARGET = RequestTarget(recipient=OWN.address, path="tasks/run", chain_id="test-chain")
NOW = 1_700_000_000_000
LONGEST = MAX_LIFETIME_MILLISECONDS + CLOCK_SKEW_MILLISECONDS


def seal(body=b"hello", target=TARGET, expiry=NOW + 1000):
    return seal_request(SENDER, target, body, expiry_milliseconds=expiry)


def unseal(data, *, target=TARGET, now=NOW, seen=None, max_body_bytes=1000):
    return open_request(data, target, now_milliseconds=now, seen=seen or ReplayGuard(), max_body_bytes=max_body_bytes)


def refused(data, **changes):
    with pytest.raises(Invalid) as caught:
        unseal(data, **changes)
    return caught.value.code


def rewrite(data, position, value):
    fields = msgspec.msgpack.decode(data)
    fields[position] = value
    return msgspec.msgpack.encode(fields)


def test_sealed_request_opens_at_its_target():
    request = unseal(seal())
    assert (request.sender, request.sender_address) == (SENDER.public_key, SENDER.address)
    assert (request.path, request.body) == ("tasks/run", b"hello")


def test_two_seals_of_the_same_body_differ():
    seen = ReplayGuard()
    assert unseal(seal(), seen=seen).body == unseal(seal(), seen=seen).body


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"recipient": SENDER.address}, "envelope-recipient"),
        ({"path": "tasks/other"}, "envelope-path"),
        ({"chain_id": "other-chain"}, "envelope-chain"),
    ],
)
def test_invalid_target(change, code):
    assert refused(seal(target=_retarget(change))) == code


def _retarget(change):
    fields = {"recipient": TARGET.recipient, "path": TARGET.path, "chain_id": TARGET.chain_id}
    return RequestTarget(**(fields | change))


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, "test-chain"), (2, OWN.public_key), (5, NOW + 999), (6, bytes(16)), (7, b"hellp"), (8, bytes(64))],
)
def test_invalid_signature_once_any_field_changes(position, value):
    data = rewrite(seal(), position, value)
    if position == 1:
        assert unseal(data).body == b"hello"  # an unchanged field: the rewriting itself is not what is refused
    else:
        assert refused(data) == "envelope-signature"


def test_invalid_moment():
    assert refused(seal(expiry=NOW - 1)) == "envelope-expired"
    assert refused(seal(expiry=NOW)) == "envelope-expired"
    assert refused(seal(expiry=-1 + 2**63)) == "envelope-lifetime"
    assert refused(seal(expiry=NOW + LONGEST + 1)) == "envelope-lifetime"


def test_boundary_of_the_lifetime():
    assert unseal(seal(expiry=NOW + 1)).body == unseal(seal(expiry=NOW + LONGEST)).body == b"hello"


def test_invalid_replay():
    seen, data = ReplayGuard(), seal(expiry=NOW + 1000)
    unseal(data, seen=seen)
    for now in (NOW, NOW + 500, NOW + 999):
        assert refused(data, seen=seen, now=now) == "envelope-replay"
    assert refused(data, seen=seen, now=NOW + 1000) == "envelope-expired"


def test_replay_would_pass_without_the_guard():
    data = seal()
    assert unseal(data).body == unseal(data).body


def test_guard_forgets_only_what_has_expired_and_stays_bounded():
    seen = ReplayGuard(capacity=2)
    seen.admit(b"a", NOW + 1000, NOW)
    seen.admit(b"b", NOW + 60_000, NOW)
    with pytest.raises(WorkError, match="remembered"):
        seen.admit(b"c", NOW + 1000, NOW)
    seen.admit(b"c", NOW + 5000, NOW + 2001)
    with pytest.raises(Invalid):
        seen.admit(b"b", NOW + 60_000, NOW + 2001)


def test_refused_requests_leave_no_mark():
    seen, data = ReplayGuard(), seal()
    forged = rewrite(data, 7, b"other")
    assert refused(forged, seen=seen) == "envelope-signature"
    assert unseal(data, seen=seen).body == b"hello"


def test_boundary_of_the_size():
    assert len(unseal(seal(bytes(1000))).body) == 1000
    assert refused(seal(bytes(1001))) == "envelope-size"
    assert refused(bytes(1001 + ENVELOPE_OVERHEAD_BYTES)) == "envelope-size"
    longest = RequestTarget(recipient=OWN.address, path="p" * MAX_NAME_BYTES, chain_id="c" * MAX_NAME_BYTES)
    sealed = seal_request(SENDER, longest, bytes(100_000), expiry_milliseconds=2**63 - 1)
    assert len(sealed) <= 100_000 + ENVELOPE_OVERHEAD_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        seal()[:-1],
        seal() + b"\x00",
        rewrite(seal(), 2, b"short"),
        rewrite(seal(), 6, bytes(15)),
        rewrite(seal(), 8, bytes(65)),
        rewrite(seal(), 5, "soon"),
        msgspec.msgpack.encode([*msgspec.msgpack.decode(seal()), 1]),
        b"\xdc\x00\x09" + seal()[1:],  # the same array with a longer header than needed
    ],
)
def test_invalid_bytes(data):
    assert refused(data) == "envelope-format"


def test_invalid_version():
    assert refused(rewrite(seal(), 0, 2)) == "envelope-version"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_invalid_random_bytes_raise_nothing_else(data):
    assert refused(data).startswith("envelope-")


def test_refusals_are_read_back_and_garbage_has_a_code():
    refusal = decode_refusal(encode_refusal("some-code", "words"))
    assert (refusal.code, refusal.message) == ("some-code", "words")
    assert decode_refusal(b"<html>").code == "unreadable"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(min_value=1, max_value=60))
def test_frames_survive_any_cut(frames, cut):
    stream = b"".join(encode_frame(FRAME_DATA, data) for data in frames) + encode_frame(FRAME_END)
    reader, got = FrameReader(40), []
    for start in range(0, len(stream), cut):
        got += reader.feed(stream[start : start + cut])
    assert got == [(FRAME_DATA, data) for data in frames] + [(FRAME_END, b"")]


def test_invalid_frames():
    assert list(FrameReader(10).feed(encode_frame(FRAME_DATA, bytes(10)))) == [(FRAME_DATA, bytes(10))]
    for head in (encode_frame(FRAME_DATA, bytes(11))[:5], encode_frame(4)):
        with pytest.raises(TransportError, match="frame of kind"):
            list(FrameReader(10).feed(head))
