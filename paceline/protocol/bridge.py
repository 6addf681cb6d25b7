"""Messages of the bridge: what nodes say about another chain's headers, deposits that came in there, dollars that go out.

It knows no tree and no votes. Invariant: every field is bounded where it is decoded.
Source: decision 039.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record
from paceline.protocol.fields import Amount, Count, Digest, Height

MAX_PROOF_NODES = 16
"""A key of a receipt has at most six nibbles; each node of its path takes one or more."""

_Foreign = Annotated[bytes, Meta(min_length=20, max_length=20)]
_Node = Annotated[bytes, Meta(max_length=64 * 1024)]


class AttestHeader(Record, frozen=True, tag="attest-header"):
    """A node saw this final header on the bridge's other chain."""

    chain: Height
    number: Height
    block_hash: Digest
    receipts_root: Digest


class ClaimDeposit(Record, frozen=True, tag="claim-deposit"):
    """A deposit's event: the place of its receipt in an attested block and of its log in the receipt, and the path to it.

    The path's last node holds the receipt itself.
    """

    number: Height
    transaction: Count
    log: Count
    proof: Annotated[tuple[_Node, ...], Meta(min_length=1, max_length=MAX_PROOF_NODES)]


class WithdrawAsset(Record, frozen=True, tag="withdraw-asset"):
    """Burn micro-dollars here, to be paid to an account of the other chain."""

    to: _Foreign
    amount: Amount
