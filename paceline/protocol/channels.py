"""Channels: an escrow for one executor, and what both sides sign while answers flow beside the ledger.

After every answer user and executor sign the same state: whose answers, how many, for how much in all, under which root. The ledger
sees the first message and the last. It refuses to know texts and tensors. Invariant: a leaf's bytes fix prompt, payload, price
and place of one answer; the payload's hash covers the transcript, and with it the root of the hidden states.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record, encode
from paceline.protocol.fields import MAX_SUPPLY, AddressBytes, Amount, Count, Digest, Height, Id, Name, SignatureBytes

MAX_OPENED_LEAVES = 256
MAX_LEAF_PATH = 32
OWNER, EXECUTOR = "owner", "executor"


class Leaf(Record, frozen=True, kw_only=True):
    """One answer of a channel."""

    index: Count
    prompt_hash: Digest
    payload_hash: Digest
    prompt_tokens: Count
    completion_tokens: Count
    cost: Amount
    total: Amount
    """Costs of all answers up to this one, added up."""

    def encode(self) -> bytes:
        """What stands in the tree."""
        return encode(self)


class ChannelState(Record, frozen=True, kw_only=True):
    """What user and executor agree on after `count` answers. `root`: over the leaves in their order."""

    channel: Id
    executor: AddressBytes
    """A channel that was passed on counts anew: without the name two honest states of one count would be a contradiction."""
    count: Count
    total: Amount
    root: Digest

    def signed_bytes(self, chain_id: str) -> bytes:
        """What both sides sign."""
        return b"paceline-channel" + encode((chain_id, self.channel, self.executor, self.count, self.total, self.root))


class SignedState(Record, frozen=True):
    """A state with both signatures: only such a one moves coins."""

    state: ChannelState
    owner_signature: SignatureBytes
    executor_signature: SignatureBytes


class Countersigned(Record, frozen=True):
    """User to executor: this is what I owe so far."""

    state: ChannelState
    signature: SignatureBytes


class OpenedLeaf(Record, frozen=True):
    """A leaf with the sibling digests up to the root, lowest first."""

    leaf: Leaf
    path: Annotated[tuple[Digest, ...], Meta(max_length=MAX_LEAF_PATH)]


class OpenChannel(Record, frozen=True, tag="open-channel"):
    """Put a deposit in escrow for answers of one model by the one executor that the beacon will draw."""

    relay: AddressBytes
    model: Name
    deposit: Amount
    blocks: Annotated[int, Meta(ge=1, le=2**32)]
    most_token_price: Amount = MAX_SUPPLY
    """Nicoin a token that the sender takes: the price of the block that opens it may be another than the one it saw."""


class PassChannel(Record, frozen=True, tag="pass-channel"):
    """The relay asks for the next drawn executor: the present one signed `busy`, or does not answer (`late`)."""

    channel: Id
    kind: Annotated[str, Meta(pattern=r"^(busy|late)\Z")]
    height: Height
    signature: SignatureBytes
    """Over the `Skip` of the executor at index 0 of the channel."""


class CloseChannel(Record, frozen=True, tag="close-channel"):
    """The owner ends a channel, by the last state or by none."""

    channel: Id
    signed: SignedState | None


class ClaimChannel(Record, frozen=True, tag="claim-channel"):
    """The executor ends a channel, or shows a later state than the owner did."""

    signed: SignedState


class ProveChannel(Record, frozen=True, tag="prove-channel"):
    """Two different states of one count with the channel's executor, both signed by the same side."""

    side: Annotated[str, Meta(pattern=r"^(owner|executor)\Z")]
    first: ChannelState
    first_signature: SignatureBytes
    second: ChannelState
    second_signature: SignatureBytes


class OpenLeaves(Record, frozen=True, tag="open-leaves"):
    """The executor opens the next drawn leaves, in their order; a large sample takes several messages."""

    channel: Id
    opened: Annotated[tuple[OpenedLeaf, ...], Meta(min_length=1, max_length=MAX_OPENED_LEAVES)]


ChannelMessage = OpenChannel | PassChannel | CloseChannel | ClaimChannel | ProveChannel | OpenLeaves
CHANNEL_DUTIES = (PassChannel, ClaimChannel, OpenLeaves)
