"""What a person may write where an account is meant: its address, a contact, an account of this home, a node of the network.

Names of the own machine come first, so that no stranger who registers a node takes over a contact's name. Invariant: whoever
gets something is shown with the whole address.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.cli.signing import account_names, ask_account, load_signer, load_voter
from paceline.cli.standing import find_standing
from paceline.node.chains.accounts import build_account, parse_address
from paceline.node.home import USER, Home
from paceline.node.membership.contacts import load_contacts
from paceline.node.membership.policies import load_policies


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
    if text in (policies := load_policies(home)):
        return Account(policies[text].address, f"joint account {text}")
    node = _find_node(home, text) if home.exists else None
    if node is not None:
        return Account(node, f"node {text}")
    raise ConfigError(f"{what} must be 40 hex digits, a contact, an account of this home or a node; {text!r} is none")


def describe_address(home: Home, address: bytes) -> str:
    """How this home calls an address: an own key, a contact or a joint account, else nothing."""
    known = {home.load_key(name).address: f"{name} of this home" for name in account_names(home)}
    known |= {found: f"contact {name}" for name, found in load_contacts(home).items()}
    known.update({policy.address: f"joint account {name}" for name, policy in load_policies(home).items()})
    return known.get(address, "")


def load_actor(home: Home, name: str | None, owner: str | None) -> tuple[str, AccountKey, bytes | None]:
    """Who votes: a node of this home or, with an owner, any key of the home by a grant of that account.

    Errors: ConfigError when the home has no such key, or there is no such account.
    """
    if owner is None:
        voter, key = load_voter(home, name)
        return voter, key, None
    signer = name or USER
    key = load_signer(home, signer, "--name")
    return f"{signer} for {owner}", key, find_account(home, owner, "--for").address


def _find_node(home: Home, name: str) -> bytes | None:
    if not name.isascii() or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
        return None
    try:
        found = find_standing(home, lambda client: ask_account(client, name), lambda state: build_account(state, name))
    except ConfigError:
        return None
    return bytes.fromhex(found.address)
