"""Joint accounts: an account whose address is the hash of a policy, so many of these keys, and the envelope that they sign.

Whoever pays in needs the address only; the policy is shown with each transaction. It verifies no signature. Invariant: the
number of keys and signatures is bounded where they are decoded, and an address fits one policy.
Source: decision 041.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.hashing import hash_parts
from paceline.base.keys import ADDRESS_BYTES, Address
from paceline.protocol.codec import Record, encode
from paceline.protocol.fields import KeyBytes, SignatureBytes
from paceline.protocol.messages import MAX_TRANSACTION_BYTES

MAX_KEYS = 16


class Policy(Record, frozen=True):
    """So many signatures of these keys, which stand in rising order."""

    threshold: Annotated[int, Meta(ge=1, le=MAX_KEYS)]
    keys: Annotated[tuple[KeyBytes, ...], Meta(min_length=2, max_length=MAX_KEYS)]

    @property
    def address(self) -> Address:
        """20 bytes that name the account; its tag is not that of a single key's, so neither is ever the other."""
        return hash_parts("policy-address", encode(self))[:ADDRESS_BYTES]


class JointSignature(Record, frozen=True):
    """A signature, and which of the policy's keys made it."""

    place: Annotated[int, Meta(ge=0, le=MAX_KEYS - 1)]
    signature: SignatureBytes


class JointTransaction(Record, frozen=True, tag="joint"):
    """The envelope of a joint account: the exact signed bytes, the policy, as many signatures as it asks for."""

    body: Annotated[bytes, Meta(max_length=MAX_TRANSACTION_BYTES)]
    policy: Policy
    signatures: Annotated[tuple[JointSignature, ...], Meta(min_length=1, max_length=MAX_KEYS)]


def joint_signed_bytes(account: Address, body: bytes) -> bytes:
    """What each signature covers: the account too, so that no signature serves under another policy or as a key's own."""
    return b"paceline-joint-transaction" + account + body
