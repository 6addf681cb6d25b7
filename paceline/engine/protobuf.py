"""Exact protobuf bytes of the few messages that CometBFT hashes or signs; everything else goes through the library.

Knows no meaning and decodes nothing. One value has one encoding: fields in order of their numbers, zero values left
out, except for embedded messages that CometBFT always writes (a vote's timestamp, the part set header of a block id).
Source: CometBFT 0.38, types/canonical.go, types/block.go, types/validator.go.
"""

from __future__ import annotations

from typing import Final

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_WORD: Final = 2**64
_PRECOMMIT = 2
_NANOSECONDS = 1_000_000_000


def encode_version(block: int, app: int) -> bytes:
    """Version of the block protocol and of the application."""
    return _integer(1, block) + _integer(2, app)


def encode_timestamp(unix_nanoseconds: int) -> bytes:
    """A google Timestamp; the nanoseconds of a time before 1970 count upwards too."""
    seconds, nanoseconds = divmod(unix_nanoseconds, _NANOSECONDS)
    return _integer(1, seconds) + _integer(2, nanoseconds)


def encode_block_id(block_hash: bytes, parts_total: int, parts_hash: bytes) -> bytes:
    """A block id; the canonical form of votes has the same bytes."""
    parts = _integer(1, parts_total) + _chunk(2, parts_hash)
    return _chunk(1, block_hash) + _message(2, parts)


def encode_integer_value(value: int) -> bytes:
    """A lone integer, as header fields are hashed; zero is no bytes at all."""
    return _integer(1, value)


def encode_bytes_value(value: bytes) -> bytes:
    """Lone bytes or UTF-8 text, as header fields are hashed; empty is no bytes at all."""
    return _chunk(1, value)


def encode_validator(public_key: bytes, power: int) -> bytes:
    """What a validator adds to the hash of its set."""
    return _message(1, _chunk(1, public_key)) + _integer(2, power)


def encode_precommit(chain_id: str, height: int, round_number: int, block_id: bytes, unix_nanoseconds: int) -> bytes:
    """What a validator signs for a block, or for none (`block_id` empty), with its length in front."""
    parts = (
        _integer(1, _PRECOMMIT),
        _fixed(2, height),
        _fixed(3, round_number),
        _chunk(4, block_id),
        _message(5, encode_timestamp(unix_nanoseconds)),
        _chunk(6, chain_id.encode()),
    )
    vote = b"".join(parts)
    return _varint(len(vote)) + vote


def _integer(number: int, value: int) -> bytes:
    """A varint field. Negative numbers take ten bytes, as protobuf's int64 does."""
    return _tag(number, _VARINT) + _varint(value % _WORD) if value else b""


def _fixed(number: int, value: int) -> bytes:
    return _tag(number, _FIXED64) + value.to_bytes(8, "little", signed=True) if value else b""


def _chunk(number: int, value: bytes) -> bytes:
    return _message(number, value) if value else b""


def _message(number: int, value: bytes) -> bytes:
    """A length-delimited field that is written also when empty."""
    return _tag(number, _BYTES) + _varint(len(value)) + value


def _tag(number: int, kind: int) -> bytes:
    return bytes([number << 3 | kind])


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
