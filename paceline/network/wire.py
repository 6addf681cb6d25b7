"""The bytes between peers: signed requests, replies that refuse, and frames of a stream.

Knows nothing of sockets and holds no clock; the time comes in as an argument. A request opens only at the node, on
the path, on the chain and within the time that its sender signed for, and only once.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.base.keys import (
    ADDRESS_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    AccountKey,
    Address,
    PublicKey,
    compute_address,
    verify_signature,
)

WIRE_VERSION: Final = 1
SALT_BYTES: Final = 16
MAX_NAME_BYTES: Final = 128
# What an envelope adds to its body at most: fixed fields, chain id, path and msgpack headers.
ENVELOPE_OVERHEAD_BYTES: Final = 2 * MAX_NAME_BYTES + 256
MAX_LIFETIME_MILLISECONDS: Final = 120_000
# Room for clocks that differ: a request may be signed to expire this much later than the longest lifetime.
CLOCK_SKEW_MILLISECONDS: Final = 5_000
FRAME_HEAD_BYTES: Final = 5

FRAME_DATA: Final = 0
FRAME_END: Final = 1
FRAME_ERROR: Final = 2
FRAME_PULSE: Final = 3

REPLY_TYPE: Final = "application/octet-stream"
FRAMES_TYPE: Final = "application/x-paceline-frames"
REFUSAL_TYPE: Final = "application/x-paceline-refusal"


class Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A request as it travels."""

    version: int
    chain_id: str
    sender: bytes
    recipient: bytes
    path: str
    expiry_milliseconds: int
    salt: bytes
    body: bytes
    signature: bytes


class Refusal(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Why a peer did not do what it was asked."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RequestTarget:
    """Where a request is bound to: one node, one path, one chain."""

    recipient: Address
    path: str
    chain_id: str


@dataclass(frozen=True, kw_only=True)
class PeerRequest:
    """A request whose signature, target, time and freshness have been verified."""

    sender: PublicKey
    sender_address: Address
    path: str
    body: bytes
    traceparent: str = ""
    """What the sender calls this request in its traces: unsigned, and nothing but displays may rest on it."""


class ReplayGuard:
    """Remembers what was opened for as long as it could be opened again. Belongs to one thread.

    A restarted node has forgotten; what must never happen twice needs its own sequence.
    """

    def __init__(self, *, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._seen: set[bytes] = set()
        self._by_second: dict[int, list[bytes]] = {}
        self._swept_second = 0

    def admit(self, mark: bytes, expiry_milliseconds: int, now_milliseconds: int) -> None:
        """Let a mark pass once.

        Errors: Invalid "envelope-replay" when it passed before; WorkError when too many are remembered.
        """
        self._forget(now_milliseconds // 1000)
        if mark in self._seen:
            raise Invalid("envelope-replay", "this request was received before")
        if len(self._seen) >= self._capacity:
            raise WorkError(f"{self._capacity} requests are remembered already: try again in a moment")
        self._seen.add(mark)
        self._by_second.setdefault(expiry_milliseconds // 1000 + 1, []).append(mark)

    def _forget(self, now_second: int) -> None:
        """Drop whole seconds that are over; at most once a second, for there are as many lists as seconds."""
        if now_second == self._swept_second:
            return
        self._swept_second = now_second
        for second in [second for second in self._by_second if second <= now_second]:
            self._seen.difference_update(self._by_second.pop(second))


_LONGEST_MILLISECONDS: Final = MAX_LIFETIME_MILLISECONDS + CLOCK_SKEW_MILLISECONDS
_ENCODER: Final = msgspec.msgpack.Encoder()
_ENVELOPES: Final = msgspec.msgpack.Decoder(Envelope)
_REFUSALS: Final = msgspec.msgpack.Decoder(Refusal)


def seal_request(key: AccountKey, target: RequestTarget, body: bytes, *, expiry_milliseconds: int) -> bytes:
    """Sign a request for one target, with fresh salt."""
    salt = secrets.token_bytes(SALT_BYTES)
    unsigned = Envelope(
        version=WIRE_VERSION,
        chain_id=target.chain_id,
        sender=key.public_key,
        recipient=target.recipient,
        path=target.path,
        expiry_milliseconds=expiry_milliseconds,
        salt=salt,
        body=body,
        signature=b"",
    )
    signature = key.sign(_hash_envelope(unsigned))
    return _ENCODER.encode(msgspec.structs.replace(unsigned, signature=signature))


def open_request(
    data: bytes, target: RequestTarget, *, now_milliseconds: int, seen: ReplayGuard, max_body_bytes: int
) -> PeerRequest:
    """Verify a request that came in for `target`.

    Errors: Invalid with a code "envelope-…"; the sender must act. WorkError when the guard is full.
    """
    if len(data) > max_body_bytes + ENVELOPE_OVERHEAD_BYTES:
        raise Invalid("envelope-size", f"{len(data)} bytes, at most {max_body_bytes + ENVELOPE_OVERHEAD_BYTES}")
    envelope = _decode_envelope(data)
    _check_target(envelope, target, max_body_bytes)
    _check_time(envelope, now_milliseconds)
    if not verify_signature(envelope.sender, _hash_envelope(envelope), envelope.signature):
        raise Invalid("envelope-signature", "the signature does not fit")
    seen.admit(envelope.sender + envelope.salt, envelope.expiry_milliseconds, now_milliseconds)
    return PeerRequest(
        sender=envelope.sender,
        sender_address=compute_address(envelope.sender),
        path=envelope.path,
        body=envelope.body,
    )


def encode_refusal(code: str, message: str) -> bytes:
    """The body of a reply, or of an error frame, that refuses."""
    return _ENCODER.encode(Refusal(code, message))


def decode_refusal(data: bytes) -> Refusal:
    """What a peer said when it refused; unreadable words become the code "unreadable"."""
    try:
        return _REFUSALS.decode(data)
    except msgspec.MsgspecError:
        return Refusal("unreadable", f"{len(data)} bytes that are no refusal")


def encode_frame(kind: int, data: bytes = b"") -> bytes:
    """One frame: kind, length (4 bytes, little endian), bytes."""
    return bytes([kind]) + len(data).to_bytes(FRAME_HEAD_BYTES - 1, "little") + data


class FrameReader:
    """Cuts a stream of bytes back into frames."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames (kind, bytes) that are complete now.

        Errors: TransportError when a frame announces more than the limit or an unknown kind.
        """
        self._buffer += data
        while len(self._buffer) >= FRAME_HEAD_BYTES:
            kind, size = self._buffer[0], int.from_bytes(self._buffer[1:FRAME_HEAD_BYTES], "little")
            if kind > FRAME_PULSE or size > self._max_frame_bytes:
                raise TransportError(f"frame of kind {kind} and {size} bytes (at most {self._max_frame_bytes})")
            end = FRAME_HEAD_BYTES + size
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[FRAME_HEAD_BYTES:end])
            del self._buffer[:end]
            yield kind, frame


def _hash_envelope(envelope: Envelope) -> bytes:
    return hash_parts(
        "peer-request",
        envelope.version.to_bytes(4, "little"),
        envelope.chain_id.encode(),
        envelope.sender,
        envelope.recipient,
        envelope.path.encode(),
        envelope.expiry_milliseconds.to_bytes(8, "little"),
        envelope.salt,
        hash_blob(envelope.body),
    )


def _decode_envelope(data: bytes) -> Envelope:
    try:
        envelope = _ENVELOPES.decode(data)
    except msgspec.MsgspecError as error:
        raise Invalid("envelope-format", str(error)) from error
    if envelope.version != WIRE_VERSION:
        raise Invalid("envelope-version", f"version {envelope.version}, this node speaks {WIRE_VERSION}")
    if _ENCODER.encode(envelope) != data:
        raise Invalid("envelope-format", "not the canonical encoding")
    lengths = (len(envelope.sender), len(envelope.recipient), len(envelope.salt), len(envelope.signature))
    if lengths != (PUBLIC_KEY_BYTES, ADDRESS_BYTES, SALT_BYTES, SIGNATURE_BYTES):
        raise Invalid("envelope-format", f"sender, recipient, salt and signature have {lengths} bytes")
    return envelope


def _check_target(envelope: Envelope, target: RequestTarget, max_body_bytes: int) -> None:
    if envelope.chain_id != target.chain_id:
        raise Invalid(
            "envelope-chain", f"for chain {envelope.chain_id[:MAX_NAME_BYTES]!r}, this is {target.chain_id!r}"
        )
    if envelope.recipient != target.recipient:
        raise Invalid("envelope-recipient", f"for node {envelope.recipient.hex()}, this is {target.recipient.hex()}")
    if envelope.path != target.path:
        raise Invalid("envelope-path", f"signed for {envelope.path[:MAX_NAME_BYTES]!r}, sent to {target.path!r}")
    if len(envelope.body) > max_body_bytes:
        raise Invalid("envelope-size", f"body of {len(envelope.body)} bytes, at most {max_body_bytes}")


def _check_time(envelope: Envelope, now_milliseconds: int) -> None:
    left = envelope.expiry_milliseconds - now_milliseconds
    if left <= 0:
        raise Invalid("envelope-expired", f"expired {-left} milliseconds ago")
    if left > _LONGEST_MILLISECONDS:
        raise Invalid("envelope-lifetime", f"valid for {left} milliseconds, at most {_LONGEST_MILLISECONDS}")
