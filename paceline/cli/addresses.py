"""What a person may write where an account is meant: its address, a contact, an account of this home, a node of the network.

Names of the own machine come first, so that no stranger who registers a node takes over a contact's name. Invariant: whoever
gets something is shown with the whole address.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.errors import ConfigError
from paceline.cli.signing import account_names, ask_account
from paceline.cli.standing import find_standing
from paceline.node.chains.accounts import build_account, parse_address
from paceline.node.home import Home
from paceline.node.membership.contacts import load_contacts


@dataclass(frozen=True)
class Account:
    """An address, and how this home calls it: a name with its kind, or nothing."""

    address: bytes
    told: str = ""

    def __str__(self) -> str:
        return f"{self.address.hex()}{f' ({self.told})' if self.told else ''}"


def find_account(home: Home, text: str, what: str) -> Account:
    """The account that is meant.

    Errors: ConfigError naming `what` was to be given; TransportError when the network runs but does not answer.
    """
    contacts = load_contacts(home)
    address = parse_address(text)
    if address is not None:
        return Account(address, describe_address(home, address))
    if text in contacts:
        return Account(contacts[text], f"contact {text}")
    if text in account_names(home):
        return Account(home.load_key(text).address, f"{text} of this home")
    node = _find_node(home, text) if home.exists else None
    if node is not None:
        return Account(node, f"node {text}")
    raise ConfigError(f"{what} must be 40 hex digits, a contact, an account of this home or a node; {text!r} is none")


def describe_address(home: Home, address: bytes) -> str:
    """How this home calls an address: its contact's name, else nothing."""
    return next((f"contact {name}" for name, found in load_contacts(home).items() if found == address), "")


def _find_node(home: Home, name: str) -> bytes | None:
    if not name.isascii() or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
        return None
    try:
        found = find_standing(home, lambda client: ask_account(client, name), lambda state: build_account(state, name))
    except ConfigError:
        return None
    return bytes.fromhex(found.address)
