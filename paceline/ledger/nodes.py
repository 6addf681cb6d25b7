"""Nodes: their names, race weight, voting power, reputation and standing. The weight of the last Race rules here.

Draws freeze the weights they use as a numbered snapshot, so that an order drawn once stays what it was.
"""

from __future__ import annotations

import msgspec

from paceline.base.bls import verify_possession
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import compute_address
from paceline.economy.voting import compute_updates, compute_voting_powers
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.genesis import Genesis, GenesisNode
from paceline.protocol.messages import RegisterGroupKey
from paceline.protocol.params import NetworkParams

KEPT_SNAPSHOTS = 3


class Node(Record, frozen=True):
    """One node as the ledger sees it."""

    name: str
    public_key: bytes
    consensus_key: bytes
    """ed25519 key that signs blocks; the account key never does."""
    group_key: bytes
    """BLS key that shares of the beacon's key are encrypted to."""
    weight: int
    voting_power: int
    serves: tuple[str, ...]
    reputation: int = 0
    """Honest epochs in a row."""
    guilty: int = -1
    """Last epoch in which it was found guilty of anything, -1 when never."""
    tasks: int = 0
    """Answers and accepted updates of the running epoch."""
    checks: int = 0
    """Verdicts given in the running epoch."""
    duties: int = 0
    """Publicly drawn checks of the running epoch."""
    fulfilled: int = 0
    """Drawn checks of the running epoch that it judged in time."""
    drawn: int = 0
    """Tasks of the running epoch that were its to answer."""
    answered: int = 0
    """Of these, the ones that it answered."""
    marks: int = 0
    """Late marks that it made as a relay in the running epoch, except those against who was away."""
    held: int = 0
    """Nicoin of the running epoch's receipts, which it loses when it is found guilty."""
    vesting: int = 0
    """Nicoin of earlier epochs that are not free yet, which it loses as well."""
    relayed: int = 0
    """Nicoin of the running epoch's receipts that it relayed, less what was refunded."""
    returned: int = 0
    """Of these, what came back for dummies."""
    dummies: int = 0
    """Its answers of the running epoch that were dummies, shown or marked: work without pay."""
    refunded: int = 0
    """Nicoin of the running epoch that went back to users because of its guilt."""
    earned: int = 0
    """Nicoin ever released to it."""
    forfeited: int = 0
    """Nicoin it ever lost."""
    next_group_key: bytes = b""
    next_group_key_from: int = 0
    """Epoch in which the next group key takes the place of the present one."""
    url: str = ""
    """Where peers reach it; empty for nodes that the others know without the ledger."""
    link: str = ""
    """id@host:port of its engine; empty like `url`."""
    sponsor: bytes = b""
    """Who gets the deposit back."""
    deposit: int = 0
    since: int = -1
    """Epoch in which it registered; its first Race is that of the next one."""
    serves_since: int = 0
    """Height at which it last changed what it serves; sessions drawn earlier leave it out."""
    leaves: int = -1
    """Epoch at whose end it is gone, -1 while it stays."""
    found: int = 0
    """Forced errors of the running epoch that it saw."""
    fooled: int = 0
    """Forced errors of the running epoch that it passed."""
    marked: int = -1
    """Number of its latest marked task, -1 before the first."""


NODES: Table[Node] = Table("nodes/by-address", Node)
NAMES: Table[bytes] = Table("nodes/by-name", bytes)
DESCRIBED: Table[int] = Table("nodes/described", int)
"""Height at which a node last said where it is reached, for whoever keeps connections."""
SNAPSHOTS: Table[tuple[tuple[bytes, int], ...]] = Table("nodes/weights", tuple[tuple[bytes, int], ...])
VERSION: Table[int] = Table("nodes/version", int)
SENT: Table[tuple[tuple[bytes, int], ...]] = Table("nodes/sent", tuple[tuple[bytes, int], ...])


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Genesis weights rule until the first Race ends."""
    for node in genesis.nodes:
        address = compute_address(node.public_key)
        context = compute_possession_context(genesis.network, address)
        if not verify_possession(node.group_key, context, node.possession):
            raise InvalidTransaction("bad-genesis", f"{node.name} does not show that it holds its group key")
        NODES.put(state, address, _make_node(node))
        NAMES.put(state, node.name.encode("ascii"), address)
    set_weights(state, genesis.params, get_weights(state))


def get_weights(state: State) -> dict[bytes, int]:
    """Race weights that rule now, by address; nodes without weight are left out."""
    return {address: node.weight for address, node in NODES.items(state) if node.weight > 0}


def get_version(state: State) -> int:
    """Number of the current snapshot of weights."""
    return VERSION.get(state) or 0


def get_weights_at(state: State, version: int) -> dict[bytes, int]:
    """Weights of a kept snapshot; empty when it is too old."""
    return dict(SNAPSHOTS.get(state, version.to_bytes(8, "big")) or ())


def set_weights(state: State, params: NetworkParams, weights: dict[bytes, int]) -> list[tuple[bytes, int]]:
    """Install new race weights and the voting powers that follow; returns the validator updates by consensus key."""
    former = {address: node.voting_power for address, node in NODES.items(state) if node.voting_power > 0}
    powers = compute_voting_powers(
        weights,
        former,
        seats=params.seats,
        power_total=params.power_total,
        cap_ppm=params.power_cap_ppm,
        growth_ppm=params.power_growth_ppm,
    )
    desired: dict[bytes, int] = {}
    for address, node in NODES.items(state):
        power = powers.get(address, 0)
        NODES.put(state, address, msgspec.structs.replace(node, weight=weights.get(address, 0), voting_power=power))
        if power > 0:
            desired[node.consensus_key] = power
    version = get_version(state) + 1
    VERSION.put(state, b"", version)
    SNAPSHOTS.put(state, version.to_bytes(8, "big"), tuple(sorted(weights.items())))
    SNAPSHOTS.delete(state, max(0, version - KEPT_SNAPSHOTS).to_bytes(8, "big"))
    updates = compute_updates(dict(SENT.get(state) or ()), desired)
    SENT.put(state, b"", tuple(sorted(desired.items())))
    return updates


def find_address(state: State, name: str) -> bytes | None:
    """The node of a name."""
    return NAMES.get(state, name.encode("utf-8"))


def is_served(state: State, model: str) -> bool:
    """True when some node says that it serves a model."""
    return any(model in node.serves for _, node in NODES.items(state))


def get_group_key(state: State, address: bytes, epoch: int) -> bytes:
    """The key of a node that ceremonies of an epoch encrypt to; it was registered in an earlier one."""
    node = NODES.get(state, address)
    assert node is not None
    return node.next_group_key if node.next_group_key and node.next_group_key_from <= epoch else node.group_key


def apply_group_key(state: State, chain_id: str, sender: bytes, message: RegisterGroupKey, epoch: int) -> None:
    """A node changes its group key; ceremonies use it from the next epoch on.

    Errors: InvalidTransaction not-a-node, bad-possession.
    """
    node = NODES.get(state, sender)
    if node is None:
        raise InvalidTransaction("not-a-node", "only nodes have a group key")
    if not verify_possession(message.group_key, compute_possession_context(chain_id, sender), message.possession):
        raise InvalidTransaction("bad-possession", "the proof does not show that this node holds the key")
    present = get_group_key(state, sender, epoch)
    changed = msgspec.structs.replace(
        node, group_key=present, next_group_key=message.group_key, next_group_key_from=epoch + 1
    )
    NODES.put(state, sender, changed)


def compute_possession_context(chain_id: str, address: bytes) -> bytes:
    """What a proof of possession is bound to; genesis nodes name the network instead of the chain."""
    return hash_parts("group-key", chain_id.encode("ascii"), address)


def _make_node(node: GenesisNode) -> Node:
    return Node(node.name, node.public_key, node.consensus_key, node.group_key, node.weight, 0, node.serves)


def update_node(state: State, address: bytes, **changes: int) -> None:
    """Replace fields of a node's record."""
    node = NODES.get(state, address)
    assert node is not None
    NODES.put(state, address, msgspec.structs.replace(node, **changes))


def add_to_node(state: State, address: bytes, **amounts: int) -> None:
    """Add to counters of a node's record."""
    node = NODES.get(state, address)
    assert node is not None
    update_node(state, address, **{field: getattr(node, field) + amount for field, amount in amounts.items()})
