"""Forced errors: answers whose checkers are shown a wrong version on purpose, and what their executor shows afterwards.

Every receipt carries a seal over the true answer; whether a task is a forced error is drawn in secret by the executor's
group key. It refuses to know what a wrong version looks like. Invariant: before the showing, a receipt tells nobody but its
executor whether it is one.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.bls_sizes import G1_BYTES, PROOF_BYTES
from paceline.base.hashing import hash_parts
from paceline.protocol.codec import Record

HASH_BYTES = 32
NO_SEAL = bytes(HASH_BYTES)
"""Of receipts on a network without forced errors."""

_Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class Showing(Record, frozen=True, kw_only=True):
    """What an executor shows of one task: its key's lot with the proof, and the opened seal of its receipt."""

    task: _Hash
    point: Annotated[bytes, Meta(min_length=G1_BYTES, max_length=G1_BYTES)]
    proof: Annotated[bytes, Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]
    answer_hash: _Hash
    salt: _Hash


class ShowDraws(Record, frozen=True, tag="show-draws"):
    """An executor shows of checked tasks whether they were forced errors."""

    showings: Annotated[tuple[Showing, ...], Meta(min_length=1, max_length=64)]


def compute_seal(answer_hash: bytes, salt: bytes) -> bytes:
    """What a receipt carries: binds the executor to the payload of the true answer, and hides it."""
    return hash_parts("answer-seal", answer_hash, salt)


def compute_lot_message(chain_id: str, task: bytes) -> bytes:
    """What an executor's key draws a lot for."""
    return hash_parts("forced-error", chain_id.encode("ascii"), task)
