"""The first page of a chain: who votes until the first Race ends, who holds which coins, which numbers rule.

Its hash is part of the chain id, so two networks that differ in anything never accept each other's transactions.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.hashing import hash_parts
from paceline.protocol.assets import QuotedName
from paceline.protocol.codec import Record, encode
from paceline.protocol.fields import AddressBytes, Amount, Digest, GroupKeyBytes, KeyBytes, Name, ProofBytes
from paceline.protocol.params import NetworkParams


class GenesisNode(Record, frozen=True):
    """A node that votes and works from the first block, with the weight it keeps until the first Race ends."""

    name: Name
    public_key: KeyBytes
    consensus_key: KeyBytes
    group_key: GroupKeyBytes
    """BLS key that shares of the beacon's key are encrypted to."""
    possession: ProofBytes
    """Shows that the node holds the group key's secret."""
    weight: Annotated[int, Meta(ge=1, le=2**40)]
    serves: tuple[Name, ...]


class GenesisAccount(Record, frozen=True):
    """Coins that are already out; they come from the founders' share."""

    address: AddressBytes
    amount: Amount


class GenesisDollars(Record, frozen=True):
    """Micro-dollars of the stable test asset that an account starts with."""

    address: AddressBytes
    amount: Amount


class GenesisAsset(Record, frozen=True):
    """Units of a quoted test asset that an account starts with."""

    address: AddressBytes
    amount: Amount
    asset: QuotedName


class GenesisQuote(Record, frozen=True):
    """Micro-dollars that one whole of a test asset counts for until hosts have voted."""

    asset: QuotedName
    quote: Amount


class Genesis(Record, frozen=True, kw_only=True):
    """Everything the first state is made from."""

    network: Name
    params: NetworkParams
    nodes: tuple[GenesisNode, ...]
    accounts: tuple[GenesisAccount, ...]
    sequencer: KeyBytes
    """The key that orders blocks under the solo engine."""
    beacon: Digest
    """Bootstrap value that stands for the beacon before its first one."""
    dealings: tuple[bytes, ...]
    """The recorded ceremony of the first group: one dealing from each of its members, in their order."""
    beneficiary: AddressBytes | None = None
    """Account that the founders' share vests to; without one that share stays locked."""
    test_dollars: tuple[GenesisDollars, ...] = ()
    """Balances of the stable test asset, for networks without a bridge."""
    test_assets: tuple[GenesisAsset, ...] = ()
    """Balances of the quoted test assets, for networks without a bridge."""
    quotes: tuple[GenesisQuote, ...] = ()
    """At most one of each asset; one without a quote is not taken until hosts have voted."""


def compute_chain_id(genesis: Genesis) -> str:
    """`<network>-<12 hex digits of the genesis hash>`."""
    return f"{genesis.network}-{hash_parts('genesis', encode(genesis)).hex()[:12]}"
