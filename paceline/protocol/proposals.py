"""Proposals on the wire: what an account asks the network to decide, and how a node with weight votes on it.

An action is one of a closed union, bounded at decode. It refuses to know balances, weights and heights. Invariant: whatever a
name, a title or a text holds is printable ASCII, so that a listing of proposals never writes to a terminal what nobody sees.
Source: seed 001, Appendices J and K; decision 036.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record

MAX_MICRO_UNITS = 10**9
"""A thousand units of compute a token: no entry makes a token's price leave what amounts can hold."""

_Count = Annotated[int, Meta(ge=1, le=2**32 - 1)]
# Unlike `$`, `\Z` does not let a last newline pass.
Label = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
"""A `Name` of `messages`, which imports this module."""


class Memory(Record, frozen=True):
    """What a model needs at one precision."""

    precision: Label
    mib: _Count


class ModelEntry(Record, frozen=True, kw_only=True):
    """A model as the network knows it: what it is, what it needs, what a token of it costs in units of compute."""

    name: Label
    licence: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[ -~]+\Z")]
    context_tokens: _Count
    million_params: _Count
    """Parameters in millions, rounded up."""
    memory: Annotated[tuple[Memory, ...], Meta(min_length=1, max_length=16)]
    """One for each precision that it is offered in."""
    micro_units: Annotated[int, Meta(ge=1, le=MAX_MICRO_UNITS)]
    """Millionths of a unit of compute per token."""
