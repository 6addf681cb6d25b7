"""What a node says of itself to the ledger: its registration, made of all three of its keys, and where it moved.

It holds no socket; `roles/member` sends, and whoever sponsors a node reads a registration from it first.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.keys import SIGNATURE_BYTES, AccountKey
from paceline.ledger.registration import compute_consensus_statement
from paceline.node.ceremony import CeremonyKey
from paceline.protocol.messages import Registration


@dataclass(frozen=True)
class NodeKeys:
    """The three keys of a node: money and work, blocks, the beacon."""

    account: AccountKey
    consensus: AccountKey
    ceremony: CeremonyKey


@dataclass(frozen=True, kw_only=True)
class Description:
    """Where a node is reached and what it serves; empty `link` without an engine of its own."""

    name: str
    url: str
    link: str
    serves: tuple[str, ...]


def make_registration(keys: NodeKeys, description: Description, chain_id: str, expires_at: int) -> Registration:
    """A registration that any sponsor may hand in until it expires."""
    address = keys.account.address
    unsigned = Registration(
        public_key=keys.account.public_key,
        name=description.name,
        consensus_key=keys.consensus.public_key,
        consensus_proof=keys.consensus.sign(compute_consensus_statement(chain_id, address)),
        group_key=keys.ceremony.public_key,
        possession=keys.ceremony.prove_possession(chain_id),
        serves=description.serves,
        url=description.url,
        link=description.link,
        expires_at=expires_at,
        signature=bytes(SIGNATURE_BYTES),
    )
    return msgspec.structs.replace(unsigned, signature=keys.account.sign(unsigned.signed_bytes(chain_id)))
