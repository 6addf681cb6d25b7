"""Transactions: the body that is signed, the envelopes around it, and how untrusted bytes become them.

A body of five fields is sent on behalf of another account; an envelope of four is a joint account's. Their lengths tell them
apart, so the bytes and hashes of a plain transaction of one key are the same whatever else there is. It verifies nothing.
Invariant: bytes decode to at most one value, and encode back to themselves.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record, decode
from paceline.protocol.fields import AddressBytes, Count, Height, KeyBytes, Name, SignatureBytes
from paceline.protocol.joint import JointTransaction
from paceline.protocol.messages import MAX_TRANSACTION_BYTES, Message

_FOUR_FIELDS, _FIVE_FIELDS = b"\x94", b"\x95"
"""How msgpack begins arrays of so many items."""


class TransactionBody(Record, frozen=True, kw_only=True):
    """What is signed. `sequence` orders an account's transactions; None means unordered until `expires_at`."""

    chain_id: Name
    sequence: Count | None
    expires_at: Height
    message: Message


class GrantedBody(TransactionBody, frozen=True, kw_only=True):
    """What is signed on behalf of another account; sequence and replay are those of the signer."""

    owner: AddressBytes
    """Whose message it is, by a grant to the signer."""


class Transaction(Record, frozen=True):
    """The envelope: the exact signed bytes, the key, the signature."""

    body: Annotated[bytes, Meta(max_length=MAX_TRANSACTION_BYTES)]
    public_key: KeyBytes
    signature: SignatureBytes


Envelope = Transaction | JointTransaction


def decode_transaction(data: bytes) -> tuple[Envelope, TransactionBody]:
    """Envelope and body of untrusted bytes.

    Errors: InvalidTransaction with code too-large, malformed or non-canonical.
    """
    kind: type[Envelope] = JointTransaction if data[:1] == _FOUR_FIELDS else Transaction
    envelope = decode(kind, data, limit_bytes=MAX_TRANSACTION_BYTES)
    return envelope, decode_body(envelope.body)


def decode_body(data: bytes) -> TransactionBody:
    """Errors: as `decode_transaction`."""
    kind = GrantedBody if data[:1] == _FIVE_FIELDS else TransactionBody
    return decode(kind, data, limit_bytes=MAX_TRANSACTION_BYTES)
