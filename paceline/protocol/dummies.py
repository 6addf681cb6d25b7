"""Dummy tasks on the ledger: how a relay shows which of its tasks were its own tests, and an idle node its marked ones.

What a leaf and a draw are is fixed here, so that relay and ledger cannot differ. It refuses to know prompts. Invariant: a
session's root covers exactly `LEAVES` leaves whatever the relay means to do, so that no size tells anything.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.hashing import hash_parts
from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes, Count, Digest, Id
from paceline.protocol.traps import NO_SEAL

LEAVES = 64
"""Candidates that every session commits to."""
PATH_DIGESTS = 6
MAX_ENTRIES = 16
LEAST_PAYOUTS, MAX_PAYOUTS = 2, 16


class DummyEntry(Record, frozen=True, kw_only=True):
    """One dummy task of a session: where its prompt stands under the root, and that its index was drawn."""

    index: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    place: Annotated[int, Meta(ge=0, lt=LEAVES)]
    salt: Digest
    path: Annotated[tuple[Digest, ...], Meta(min_length=PATH_DIGESTS, max_length=PATH_DIGESTS)]
    point: Annotated[bytes, Meta(min_length=48, max_length=48)]
    proof: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Payout(Record, frozen=True):
    """A part of what comes back, and the new account that it goes to."""

    to: AddressBytes
    amount: Annotated[int, Meta(ge=1, le=10**18)]


class RevealDummies(Record, frozen=True, tag="reveal-dummies"):
    """A relay shows which tasks of a session were dummies; their pay is undone and goes to accounts that nobody knows."""

    session: Id
    entries: Annotated[tuple[DummyEntry, ...], Meta(min_length=1, max_length=MAX_ENTRIES)]
    payouts: Annotated[tuple[Payout, ...], Meta(min_length=LEAST_PAYOUTS, max_length=MAX_PAYOUTS)]


class SubmitMarked(Record, frozen=True, tag="submit-marked"):
    """An idle node answered the marked task of this number; fields as in a receipt, and no voucher, as nobody asked."""

    number: Count
    payload_hash: Digest
    prompt_tokens: Count
    completion_tokens: Count
    seal: Digest = NO_SEAL


def compute_leaf(prompt_hash: bytes, salt: bytes) -> bytes:
    """What a session's root commits to for one prompt."""
    return hash_parts("dummy-leaf", prompt_hash, salt)


def compute_draw_message(chain_id: str, session: bytes, seed: bytes, index: int) -> bytes:
    """What the relay's private draw of an index is made over: the seed is younger than its key and its prompts."""
    return hash_parts("dummy-draw", chain_id.encode("ascii"), session, seed, index.to_bytes(8, "big"))
