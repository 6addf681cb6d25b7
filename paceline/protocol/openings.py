"""Messages that put coins in escrow for work: a session of requests, a training run. Channels have a file of their own."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record
from paceline.protocol.fields import MAX_SUPPLY, AddressBytes, Amount, Digest, Name


class OpenSession(Record, frozen=True, tag="open-session"):
    """Put a deposit in escrow for tasks of one model through one relay."""

    relay: AddressBytes
    model: Name
    deposit: Amount
    dummies_root: Digest = bytes(32)
    """Root over the prompts of dummies that the relay may mix in; random bytes when it has none."""
    most_token_price: Amount = MAX_SUPPLY
    """Nicoin a token that the sender takes: the price of the block that opens it may be another than the one it saw."""


class OpenRun(Record, frozen=True, tag="open-run"):
    """Open a training run: what to train on which data, with whom, for how much."""

    plan: Annotated[bytes, Meta(max_length=4096)]
    data_hash: Digest
    state_hash: Digest
    rounds: Annotated[int, Meta(ge=1, le=10_000)]
    trainers: Annotated[int, Meta(ge=1, le=64)]
    segments: Annotated[int, Meta(ge=1, le=1_000)]
    budget: Amount
