"""The address book of a home: names that its owner gives to accounts, so that nobody copies 40 digits by hand twice.

It lies in `contacts.json`, readable by its owner only: whom somebody pays is nobody's business. It knows no network. Invariant:
a name has one address and an address one name, and the file is either the old or the new one, also after a crash.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.ledger.accounts import POOLS
from paceline.node.chains.accounts import HEX_ADDRESS, parse_address
from paceline.node.home import Home, write_whole

MAX_CONTACTS = 10_000
MAX_FILE_BYTES = 2 * 1024 * 1024
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"

_Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
_Address = Annotated[str, Meta(pattern=rf"^{HEX_ADDRESS}\Z")]


def load_contacts(home: Home) -> dict[str, bytes]:
    """Addresses by name. Errors: ConfigError when the file is damaged."""
    path = home.path / "contacts.json"
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=dict[_Name, _Address])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as problem:
        raise ConfigError(f"{path} is damaged ({problem}); repair it or move it away") from None
    return {name: bytes.fromhex(address) for name, address in sorted(found.items())}


def add_contact(home: Home, name: str, text: str, taken: list[str]) -> bytes:
    """Give an address a name; returns the address. `taken` are names that mean an account of this home already.

    Errors: ConfigError for what is no name or no address, and for either of them twice.
    """
    require_name(name)
    address = parse_address(text)
    if address is None:
        raise ConfigError(f"{text!r} is no address: 40 hex digits are expected")
    if address in POOLS.values():
        raise ConfigError(f"{text} is a pool of the ledger: it takes nothing from accounts")
    contacts = load_contacts(home)
    if name in taken:
        raise ConfigError(f"{name} is an account of this home already")
    if name in contacts:
        raise ConfigError(f"{name} is {contacts[name].hex()} already; `paceline contacts remove {name}` first")
    former = next((other for other in contacts if contacts[other] == address), None)
    if former is not None:
        raise ConfigError(f"{text} is called {former} already")
    if len(contacts) >= MAX_CONTACTS:
        raise ConfigError(f"an address book holds {MAX_CONTACTS} names at most")
    save_contacts(home, {**contacts, name: address})
    return address


def remove_contact(home: Home, name: str) -> bytes:
    """Forget a name; returns its address. Errors: ConfigError when there is no such name."""
    contacts = load_contacts(home)
    if name not in contacts:
        raise ConfigError(f"no contact is called {name!r}")
    address = contacts.pop(name)
    save_contacts(home, contacts)
    return address


def require_name(name: str) -> None:
    """Errors: ConfigError for what cannot be the name of an account, or would be read as an address."""
    if not re.fullmatch(NAME, name) or parse_address(name) is not None:
        raise ConfigError(
            f"{name!r} is no name: up to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, and no address"
        )


def save_contacts(home: Home, contacts: dict[str, bytes]) -> None:
    """Write the whole book: for whoever has made sure of its names."""
    text = {name: contacts[name].hex() for name in sorted(contacts)}
    write_whole(home.path / "contacts.json", msgspec.json.format(msgspec.json.encode(text)) + b"\n", mode=0o600)
