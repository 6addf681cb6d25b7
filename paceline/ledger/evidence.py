"""What the engine saw of its validators: who signed two blocks at one height, who did not sign at all.

A double signature costs the voting power until the next Race, the held pay of the epoch and the reputation. A missed
block costs its share of the epoch's pay. Consensus addresses are kept when a node loses its power, because evidence may
arrive long after.
Invariant: the last validator is never removed, so evidence alone cannot halt a chain.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from paceline.base.keys import ADDRESS_BYTES, compute_address
from paceline.ledger import nodes
from paceline.ledger.state import State, Table
from paceline.protocol.genesis import Genesis


@dataclass(frozen=True)
class Misbehaviour:
    """Proof, checked by the engine, that a validator broke the consensus rules at a height."""

    consensus_address: bytes
    height: int


@dataclass(frozen=True)
class BlockEvidence:
    """What a block says about validators. `absent` did not sign the block before this one."""

    absent: tuple[bytes, ...] = ()
    misbehaviours: tuple[Misbehaviour, ...] = ()


NO_EVIDENCE = BlockEvidence()

OWNERS: Table[bytes] = Table("evidence/owner", bytes)
PUNISHED: Table[int] = Table("evidence/punished", int)
MISSED: Table[int] = Table("evidence/missed", int)


def compute_consensus_address(consensus_key: bytes) -> bytes:
    """How the engine names a validator: the first 20 bytes of SHA-256 of its ed25519 key."""
    return hashlib.sha256(consensus_key).digest()[:ADDRESS_BYTES]


def apply_genesis(state: State, genesis: Genesis) -> None:
    """The owners of the first consensus keys."""
    for node in genesis.nodes:
        register_owner(state, node.consensus_key, compute_address(node.public_key))


def register_owner(state: State, consensus_key: bytes, address: bytes) -> None:
    """Remember for good which node a consensus key belongs to."""
    OWNERS.put(state, compute_consensus_address(consensus_key), address)


def get_owner(state: State, consensus_key: bytes) -> bytes | None:
    """The node that a consensus key belongs to, or once did."""
    return OWNERS.get(state, compute_consensus_address(consensus_key))


def apply_evidence(state: State, block: BlockEvidence, epoch: int) -> list[tuple[bytes, int]]:
    """Count absences, punish misbehaviour; returns the validator updates that follow."""
    for consensus_address in block.absent:
        address = OWNERS.get(state, consensus_address)
        if address is not None:
            MISSED.put(state, address, (MISSED.get(state, address) or 0) + 1)
    updates: list[tuple[bytes, int]] = []
    for misbehaviour in block.misbehaviours:
        updates += _punish(state, misbehaviour, epoch)
    return updates


def take_missed(state: State, address: bytes) -> int:
    """Blocks of this epoch that a node did not sign; counting starts anew."""
    missed = MISSED.get(state, address) or 0
    if missed:
        MISSED.delete(state, address)
    return missed


def _punish(state: State, misbehaviour: Misbehaviour, epoch: int) -> list[tuple[bytes, int]]:
    address = OWNERS.get(state, misbehaviour.consensus_address)
    # Keys are remembered longer than nodes: whoever has left has nothing more to lose here.
    if address is None or nodes.NODES.get(state, address) is None:
        return []
    offence = misbehaviour.height.to_bytes(8, "big") + address
    # The engine may hand over two proofs of one offence (two votes of one round, say); it is one offence.
    if PUNISHED.get(state, offence) is not None:
        return []
    PUNISHED.put(state, offence, state.height)
    nodes.update_node(state, address, guilty=epoch, reputation=0)
    state.emit("double-sign", node=address.hex(), at=misbehaviour.height)
    return _remove_power(state, address)


def _remove_power(state: State, address: bytes) -> list[tuple[bytes, int]]:
    node = nodes.NODES.get(state, address)
    assert node is not None
    sent = dict(nodes.SENT.get(state) or ())
    if node.consensus_key not in sent or len(sent) == 1:
        return []
    del sent[node.consensus_key]
    nodes.SENT.put(state, b"", tuple(sorted(sent.items())))
    nodes.NODES.put(state, address, msgspec.structs.replace(node, voting_power=0))
    return [(node.consensus_key, 0)]
