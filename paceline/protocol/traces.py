"""What an executor opens of the hidden states it committed to with an answer.

A sketch of every position's state, and for the few drawn positions the committed states themselves with their paths to the
root. Nothing here knows a tensor or a draw. Invariant: a decoded opening is bounded and canonical.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.errors import InvalidClaim
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Count, Digest
from paceline.protocol.transcripts import MAX_TOKENS

SKETCH_VALUES = 16
SKETCH_BYTES = 2 * SKETCH_VALUES
"""Of one position: fp16, little-endian."""
MAX_OPENED = 8
MAX_STATE_BYTES = 2 * 2**15
MAX_PATH = 32
MAX_OPENING_BYTES = 2 * 1024 * 1024


class OpenedState(Record, frozen=True):
    """One committed state. `values`: bf16, little-endian; `path`: sibling digests, lowest first."""

    position: Count
    values: Annotated[bytes, Meta(max_length=MAX_STATE_BYTES)]
    path: Annotated[tuple[Digest, ...], Meta(max_length=MAX_PATH)]


class Opening(Record, frozen=True):
    """The drawn layer of an answer: `sketch` holds `SKETCH_BYTES` for each output token, in order."""

    sketch: Annotated[bytes, Meta(max_length=SKETCH_BYTES * MAX_TOKENS)]
    states: Annotated[tuple[OpenedState, ...], Meta(max_length=MAX_OPENED)]


def encode_opening(opening: Opening) -> bytes:
    """The canonical bytes, which the executor sends to whoever checks."""
    return encode(opening)


def decode_opening(data: bytes) -> Opening:
    """Decode an opening that an executor sent.

    Errors: InvalidClaim with code too-large, malformed or non-canonical.
    """
    return decode(Opening, data, limit_bytes=MAX_OPENING_BYTES, error=InvalidClaim)
