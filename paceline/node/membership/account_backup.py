"""What a home's backup holds besides its nodes: keys of accounts, contacts, and the policies of joint accounts.

It seals nothing and knows no network. Invariant: what is in the home already stays as it is; a name that means one thing there
and another in the backup is found before anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.keys import PUBLIC_KEY_BYTES, SECRET_BYTES
from paceline.node.home import USER, Home
from paceline.node.membership.contacts import MAX_CONTACTS, NAME, load_contacts, save_contacts
from paceline.node.membership.policies import load_policies, make_policy, save_policies
from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes
from paceline.protocol.joint import MAX_KEYS

MAX_KEPT = 10_000
AccountName = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
_Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
_PublicKey = Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]


class NamedKey(Record, frozen=True):
    """A key of an account that is no node's."""

    name: AccountName
    secret: _Secret


class NamedContact(Record, frozen=True):
    """One line of the address book."""

    name: AccountName
    address: AddressBytes


class NamedPolicy(Record, frozen=True):
    """A joint account."""

    name: AccountName
    threshold: Annotated[int, Meta(ge=1, le=MAX_KEYS)]
    keys: Annotated[tuple[_PublicKey, ...], Meta(min_length=2, max_length=MAX_KEYS)]


class AccountBackup(Record, frozen=True, kw_only=True):
    """All of it; empty where one node alone was backed up."""

    keys: Annotated[tuple[NamedKey, ...], Meta(max_length=MAX_KEPT)] = ()
    contacts: Annotated[tuple[NamedContact, ...], Meta(max_length=MAX_CONTACTS)] = ()
    policies: Annotated[tuple[NamedPolicy, ...], Meta(max_length=MAX_KEPT)] = ()


def collect_accounts(home: Home) -> AccountBackup:
    """What a home holds. Errors: ConfigError naming the file that is damaged."""
    return AccountBackup(
        keys=tuple(NamedKey(name, home.load_key(name).secret) for name in home.key_names() if name != USER),
        contacts=tuple(NamedContact(name, address) for name, address in load_contacts(home).items()),
        policies=tuple(
            NamedPolicy(name, found.threshold, found.keys) for name, found in sorted(load_policies(home).items())
        ),
    )


def list_account_secrets(home: Home, backup: AccountBackup) -> Iterator[tuple[Path, str]]:
    """Where each key belongs, and its text."""
    for key in backup.keys:
        yield home.key_path(key.name), key.secret.hex()


def compare_accounts(home: Home, backup: AccountBackup) -> None:
    """Errors: ConfigError for a name that means something else in this home; its keys are compared apart."""
    contacts, policies = load_contacts(home), load_policies(home)
    keys = [*home.key_names(), *(path.name for path in home.path.glob("nodes/*"))]
    for contact in backup.contacts:
        if contacts.get(contact.name, contact.address) != contact.address:
            raise _refuse(contact.name, f"another contact here; `paceline contacts remove {contact.name}` first")
        _require_other(contact.name, {"an account": keys, "a joint account": policies}, "a contact")
    for policy in backup.policies:
        if policies.get(policy.name, found := make_policy(policy.threshold, list(policy.keys))) != found:
            raise _refuse(policy.name, "another joint account here: none is ever overwritten")
        _require_other(policy.name, {"an account": keys, "a contact": contacts}, "a joint account")
    nodes = [name for name in keys if name not in home.key_names()]
    for key in backup.keys:
        _require_other(key.name, {"a node": nodes, "a contact": contacts, "a joint account": policies}, "an account")


def restore_accounts(home: Home, backup: AccountBackup) -> None:
    """Add contacts and policies that are not there yet, after `compare_accounts`; an address keeps the name that it has."""
    contacts, policies = load_contacts(home), load_policies(home)
    named = set(contacts.values())
    fresh = {contact.name: contact.address for contact in backup.contacts if contact.address not in named}
    if fresh:
        save_contacts(home, {**fresh, **contacts})
    found = {policy.name: make_policy(policy.threshold, list(policy.keys)) for policy in backup.policies}
    joint = {name: policy for name, policy in found.items() if policy not in policies.values()}
    if joint:
        save_policies(home, {**joint, **policies})


def _require_other(name: str, here: Mapping[str, Collection[str]], there: str) -> None:
    for kind, names in here.items():
        if name in names:
            raise _refuse(name, f"{kind} here and {there} of the backup; restore into another --home")


def _refuse(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name} is {why}")
