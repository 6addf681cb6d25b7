"""Named values of the state, as questions that a `light_reader.StateReader` asks.

Knows which records of the ledger answer a person's question, nothing of proofs. A question bears a state in which
nothing is known yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from paceline.base.keys import ADDRESS_BYTES
from paceline.ledger import groups, nodes
from paceline.ledger.accounts import Account, get_account
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.state import State

_ADDRESS: Final = re.compile(rf"[0-9a-fA-F]{{{2 * ADDRESS_BYTES}}}", re.ASCII)


class NamedNode(NamedTuple):
    """A node and where its record stands."""

    address: bytes
    node: Node


class GroupKey(NamedTuple):
    """A group of the beacon and the key that its signatures verify against."""

    number: int
    key: bytes


def ask_value(key: bytes) -> Callable[[State], bytes | None]:
    """The bytes at a key of the store."""
    return lambda state: state.get(key)


def ask_account(address: bytes) -> Callable[[State], Account]:
    """An account; an empty one where nobody ever paid into it."""
    return lambda state: get_account(state, address)


def ask_node(name_or_address: str) -> Callable[[State], NamedNode | None]:
    """A node by its address in hex, or by its name; None when there is none."""
    address = read_address(name_or_address)
    if address is None:
        return lambda state: _find_by_name(state, name_or_address)
    return lambda state: _find_by_address(state, address)


def ask_current_group(state: State) -> GroupKey | None:
    """The group that signs now; every network has one."""
    number = groups.CURRENT.get(state)
    return None if number is None else ask_group(number)(state)


def ask_group(number: int) -> Callable[[State], GroupKey | None]:
    """A group by its number, also one that signs no more; None when there never was one."""

    def find(state: State) -> GroupKey | None:
        key = groups.get_group_key(state, number)
        return None if key is None else GroupKey(number, key)

    return find


def read_address(text: str) -> bytes | None:
    """The address that a text spells in hex, None when it spells none."""
    return bytes.fromhex(text) if _ADDRESS.fullmatch(text) else None


def _find_by_address(state: State, address: bytes) -> NamedNode | None:
    node = NODES.get(state, address)
    return None if node is None else NamedNode(address, node)


def _find_by_name(state: State, name: str) -> NamedNode | None:
    address = nodes.find_address(state, name)
    return None if address is None else _find_by_address(state, address)
