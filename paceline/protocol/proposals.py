"""Proposals on the wire: what an account asks the network to decide, and how a node with weight votes on it.

An action is one of a closed union, bounded at decode. It refuses to know balances, weights and heights. Invariant: whatever a
name, a title or a text holds is printable ASCII, so that a listing of proposals never writes to a terminal what nobody sees.
Source: seed 001, Appendices J and K; decision 036.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes, Amount, Digest, Name

MAX_MICRO_UNITS = 10**9
"""A thousand units of compute a token: no entry makes a token's price leave what amounts can hold."""
MAX_UPDATE_UNITS = 10**15
"""A billion units of compute an update."""
MAX_TITLE, MAX_TEXT, MAX_PLAN_BYTES = 100, 2_000, 4_096
YES, NO, ABSTAIN, VETO = "yes", "no", "abstain", "veto"

_Count = Annotated[int, Meta(ge=1, le=2**32 - 1)]
_Paid = Annotated[int, Meta(ge=1, le=10**18)]


class Memory(Record, frozen=True):
    """What a model needs at one precision."""

    precision: Name
    mib: _Count


class ModelEntry(Record, frozen=True, kw_only=True):
    """A model as the network knows it: what it is, what it needs, what a token of it costs in units of compute."""

    name: Name
    licence: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[ -~]+\Z")]
    context_tokens: _Count
    million_params: _Count
    """Parameters in millions, rounded up."""
    memory: Annotated[tuple[Memory, ...], Meta(min_length=1, max_length=16)]
    """One for each precision that it is offered in."""
    micro_units: Annotated[int, Meta(ge=1, le=MAX_MICRO_UNITS)]
    """Millionths of a unit of compute per token."""
    run: Annotated[bytes, Meta(max_length=16)] = b""
    """The run whose shares split a part of its fees, empty for a model without shares."""


class ChangeParameter(Record, frozen=True, tag="parameter"):
    """One of the network's numbers changes with the first height of an epoch."""

    name: Name
    value: Amount


class EnterModel(Record, frozen=True, tag="model"):
    """A model enters the registry, or its entry is replaced, with the first height of an epoch."""

    entry: ModelEntry


class PayGrant(Record, frozen=True, tag="grant"):
    """Coins of the training fund go to an account."""

    to: AddressBytes
    amount: _Paid


class ApproveMethod(Record, frozen=True, tag="method"):
    """A way of training, as code: the hash fixes it, the locator says where to read it."""

    code_hash: Digest
    locator: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[!-~]+\Z")]


class FundExperiment(Record, frozen=True, tag="experiment"):
    """A training run by an approved method of the same account, paid from the training fund."""

    method: _Count
    """Number of the proposal that approved the method."""
    data_hash: Digest
    plan: Annotated[bytes, Meta(min_length=1, max_length=MAX_PLAN_BYTES)]
    budget: _Paid
    micro_units: Annotated[int, Meta(ge=1, le=MAX_UPDATE_UNITS)] = 1_000_000
    """Millionths of a unit of compute that one trainer's work in one round stands for: what is paid for, at the price of the opening."""


class SetUpgrade(Record, frozen=True, tag="upgrade"):
    """New rules of a name from a height on."""

    name: Name
    height: Annotated[int, Meta(ge=1, le=2**48)]


class Statement(Record, frozen=True, tag="text"):
    """Nothing but the text of the proposal, put on record."""


Action = ChangeParameter | EnterModel | PayGrant | ApproveMethod | FundExperiment | SetUpgrade | Statement


class SubmitProposal(Record, frozen=True, tag="submit-proposal"):
    """An account asks the network to decide, and puts a deposit down."""

    title: Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, pattern=r"^[!-~]([ -~]*[!-~])?\Z")]
    text: Annotated[str, Meta(max_length=MAX_TEXT, pattern=r"^[ -~\n]*\Z")]
    """The reasons. What is longer is published elsewhere, and named here with its hash."""
    action: Action


class VoteProposal(Record, frozen=True, tag="vote-proposal"):
    """A node with weight votes, once for each proposal."""

    proposal: _Count
    choice: Annotated[str, Meta(pattern=r"^(yes|no|abstain|veto)\Z")]
