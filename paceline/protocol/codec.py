"""Canonical bytes: msgpack arrays through msgspec, unknown fields refused, one encoding per value.

Decoding re-encodes and compares, because msgpack itself accepts longer spellings of the same number.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from paceline.base.errors import Invalid, InvalidTransaction

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that is encoded: frozen, positional, closed."""


def encode(value: Any) -> bytes:
    """The one encoding of a value."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes, *, limit_bytes: int, error: type[Invalid] = InvalidTransaction) -> T:
    """Decode untrusted bytes of at most `limit_bytes`.

    Errors: `error` with code too-large, malformed or non-canonical.
    """
    if len(data) > limit_bytes:
        raise error("too-large", f"{len(data)} bytes, at most {limit_bytes} are allowed")
    try:
        value = decode_own(kind, data)
    # A tag that is no UTF-8 escapes msgspec as the bare UnicodeDecodeError.
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as problem:
        raise error("malformed", f"{getattr(kind, '__name__', kind)}: {problem}") from None
    if encode(value) != data:
        raise error("non-canonical", "the bytes are not the canonical encoding of their value")
    return value


def decode_own(kind: type[T], data: bytes) -> T:
    """Decode bytes that this node encoded itself (state values, own files); no canonicality check."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    value: T = decoder.decode(data)
    return value
