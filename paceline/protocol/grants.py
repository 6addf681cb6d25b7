"""Messages on grants: an account lets another key send some kinds of messages on its behalf, for so long and so much.

Which kinds may be granted is the ledger's matter. Invariant: every field is bounded where it is decoded.
Source: decision 041.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes, Amount, Height

MAX_KINDS = 16

_Kind = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z][a-z-]*\Z")]


class GrantScope(Record, frozen=True, tag="grant-scope"):
    """Let the account of another key send messages of these kinds (in rising order) up to a height, and spend so much."""

    to: AddressBytes
    kinds: Annotated[tuple[_Kind, ...], Meta(min_length=1, max_length=MAX_KINDS)]
    until: Height
    limit: Amount
    """Nicoin that fees and messages may take from the account, all together."""


class RevokeScope(Record, frozen=True, tag="revoke-scope"):
    """End a grant at once."""

    to: AddressBytes


GrantMessage = GrantScope | RevokeScope
