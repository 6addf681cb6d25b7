"""The key by which a node's engine is known on its links to other engines, derived from the account key."""

from __future__ import annotations

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.cometbft import compute_node_id


def derive_link_key(key: AccountKey) -> AccountKey:
    """The key by which engines recognise each other on their links; it signs no block and holds no coins."""
    return AccountKey.from_secret(hash_parts("engine-link", key.secret))


def compute_engine_id(key: AccountKey) -> str:
    """How other engines name the engine of this node."""
    return compute_node_id(derive_link_key(key))
