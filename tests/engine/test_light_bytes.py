"""Hashes and signed bytes against what CometBFT recorded, the protobuf library, and the definition of the tree."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from light_chain import load_recorded, load_vectors

from paceline.engine import protobuf
from paceline.engine.light_blocks import compute_tree_hash, compute_validators_hash
from paceline.engine.light_rpc import parse_time

FIELD = descriptor_pb2.FieldDescriptorProto
MESSAGES = {
    "Version": [("block", 1, FIELD.TYPE_UINT64), ("app", 2, FIELD.TYPE_UINT64)],
    "Timestamp": [("seconds", 1, FIELD.TYPE_INT64), ("nanos", 2, FIELD.TYPE_INT32)],
    "Parts": [("total", 1, FIELD.TYPE_UINT32), ("hash", 2, FIELD.TYPE_BYTES)],
    "BlockId": [("hash", 1, FIELD.TYPE_BYTES), ("parts", 2, "Parts")],
    "Key": [("ed25519", 1, FIELD.TYPE_BYTES)],
    "Validator": [("key", 1, "Key"), ("power", 2, FIELD.TYPE_INT64)],
    "Integer": [("value", 1, FIELD.TYPE_INT64)],
    "Bytes": [("value", 1, FIELD.TYPE_BYTES)],
    "Vote": [
        ("type", 1, FIELD.TYPE_INT32),
        ("height", 2, FIELD.TYPE_SFIXED64),
        ("round", 3, FIELD.TYPE_SFIXED64),
        ("block_id", 4, "BlockId"),
        ("timestamp", 5, "Timestamp"),
        ("chain_id", 6, FIELD.TYPE_STRING),
    ],
}
HASHES = st.one_of(st.just(b""), st.binary(min_size=32, max_size=32))
INTEGERS = st.integers(0, 2**63 - 1)
TIMES = st.integers(-(2**62), 2**63 - 1)


def build_twins():
    """The same messages as the protobuf library knows them."""
    file = descriptor_pb2.FileDescriptorProto(name="light_twin.proto", package="light_twin", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".light_twin.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"light_twin.{name}")) for name in MESSAGES
    }


TWINS = build_twins()


def serialize(message) -> bytes:
    return message.SerializeToString(deterministic=True)


def make_twin_time(unix_nanoseconds):
    seconds, nanoseconds = divmod(unix_nanoseconds, 10**9)
    return TWINS["Timestamp"](seconds=seconds, nanos=nanoseconds)


def make_twin_block_id(block_hash, total, parts_hash):
    return TWINS["BlockId"](hash=block_hash, parts=TWINS["Parts"](total=total, hash=parts_hash))


@given(INTEGERS, INTEGERS, HASHES, TIMES)
def test_small_messages_equal_the_library(first, second, chunk, time):
    assert protobuf.encode_version(first, second) == serialize(TWINS["Version"](block=first, app=second))
    assert protobuf.encode_integer_value(first) == serialize(TWINS["Integer"](value=first))
    assert protobuf.encode_bytes_value(chunk) == serialize(TWINS["Bytes"](value=chunk))
    assert protobuf.encode_timestamp(time) == serialize(make_twin_time(time))
    twin = TWINS["Validator"](key=TWINS["Key"](ed25519=chunk), power=first)
    assert protobuf.encode_validator(chunk, first) == serialize(twin)


@given(HASHES, st.integers(0, 2**32 - 1), HASHES)
def test_block_id_equals_the_library(block_hash, total, parts_hash):
    twin = make_twin_block_id(block_hash, total, parts_hash)
    assert protobuf.encode_block_id(block_hash, total, parts_hash) == serialize(twin)


@given(st.text(max_size=50), INTEGERS, st.integers(0, 2**31 - 1), st.booleans(), TIMES)
def test_vote_equals_the_library(chain_id, height, round_number, for_block, time):
    parts = (b"h" * 32, 300, b"p" * 32)
    twin = TWINS["Vote"](type=2, height=height, round=round_number, timestamp=make_twin_time(time), chain_id=chain_id)
    if for_block:
        twin.block_id.CopyFrom(make_twin_block_id(*parts))
    block_id = protobuf.encode_block_id(*parts) if for_block else b""
    body = serialize(twin)
    length = serialize(TWINS["Bytes"](value=body))[1 : -len(body)]
    assert protobuf.encode_precommit(chain_id, height, round_number, block_id, time) == length + body


def test_vote_without_a_time_is_the_engines_published_bytes():
    # The year 1, which stands for "no time" there; from the table of the engine's own test of signed votes.
    no_time = -62_135_596_800 * 10**9
    published = "2108021101000000000000001901000000000000002a0b088092b8c398feffffff01"
    assert protobuf.encode_precommit("", 1, 1, b"", no_time).hex() == published


def test_recorded_headers_and_sets_have_the_recorded_hashes():
    for block, answer in zip(load_recorded(), load_vectors(), strict=True):
        recorded = answer["commit"]["signed_header"]
        assert block.header.compute_hash().hex().upper() == recorded["commit"]["block_id"]["hash"]
        assert compute_validators_hash(block.validators).hex().upper() == recorded["header"]["validators_hash"]


def test_recorded_headers_chain_by_their_hashes():
    blocks = load_recorded()
    assert len(blocks) >= 8
    for earlier, later in pairwise(blocks):
        assert later.header.last_block_id.header_hash == earlier.header.compute_hash()
        assert later.header.last_block_id == earlier.commit.block_id


def compute_tree_hash_by_definition(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    parts = compute_tree_hash_by_definition(leaves[:split]) + compute_tree_hash_by_definition(leaves[split:])
    return hashlib.sha256(b"\x01" + parts).digest()


@pytest.mark.parametrize("count", range(36))
def test_tree_equals_its_definition(count):
    leaves = [bytes([index]) * (index % 5) for index in range(count)]
    assert compute_tree_hash(leaves) == compute_tree_hash_by_definition(leaves)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-21T08:12:51.631773291Z", 1_795_248_771_631_773_291),
        ("2024-02-29T23:59:59.000000001Z", 1_709_251_199_000_000_001),
    ],
)
def test_times_are_read_to_the_nanosecond(text, expected):
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1969-12-31T23:59:59Z",
        "2026-02-30T00:00:00Z",
        "2026-11-21T08:12:51+00:00",
        "2026-11-21T08:12:51.Z",
        "2026-11-21T08:12:51.1234567890Z",
        "2026-11-21T08:12:51Z\n",
        "２026-11-21T08:12:51Z",
    ],
)
def test_invalid_times_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
