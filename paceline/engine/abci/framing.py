"""Messages on a stream: an unsigned varint length, then that many bytes of protobuf.

It knows nothing of what the messages mean.
Invariant: at most `limit_bytes` of one message are ever held, whatever the peer announces.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError, Message

from paceline.base.errors import InvalidBlock

MAX_LENGTH_BYTES = 5
"""Bytes of a length prefix: 35 bits are more than any limit here."""


def encode_frame(message: Message) -> bytes:
    """One message with its length in front."""
    data = message.SerializeToString()
    return encode_length(len(data)) + data


def encode_length(length: int) -> bytes:
    """An unsigned varint."""
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


class FrameReader:
    """Cuts a stream into messages of one kind, however the bytes arrive."""

    def __init__(self, kind: Any, limit_bytes: int) -> None:
        self._kind = kind
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> list[Any]:
        """All messages that are complete with these bytes, in order.

        Errors: InvalidBlock bad-length, too-large or malformed; the stream cannot be followed any further then.
        """
        self._buffer += data
        found: list[Any] = []
        while (frame := self._take_frame()) is not None:
            try:
                found.append(self._kind.FromString(frame))
            except DecodeError as problem:
                raise InvalidBlock("malformed", f"ABCI message: {problem}") from None
        # Dropped once a batch: cutting the front off for every message would copy the rest each time.
        del self._buffer[: self._at]
        self._at = 0
        return found

    def _take_frame(self) -> bytes | None:
        length, shift, at = 0, 0, self._at
        while True:
            if at >= len(self._buffer):
                return None
            byte = self._buffer[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if at - self._at >= MAX_LENGTH_BYTES:
                raise InvalidBlock("bad-length", f"the length of an ABCI message has over {MAX_LENGTH_BYTES} bytes")
        if length > self._limit:
            raise InvalidBlock("too-large", f"an ABCI message of {length} bytes, at most {self._limit} are allowed")
        if len(self._buffer) - at < length:
            return None
        self._at = at + length
        return bytes(self._buffer[at : self._at])
