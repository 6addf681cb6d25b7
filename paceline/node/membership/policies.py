"""Joint accounts that a home knows by name: how many signatures of which keys. It holds no secret and knows no network.

Policies lie in `policies.json`; the ledger knows only the address that follows from one, so whoever loses its policy loses the
account's coins. Invariant: a name means one account of the home, and the file is either the old or the new one.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError, InvalidTransaction
from paceline.base.keys import PUBLIC_KEY_BYTES
from paceline.ledger.joint import require_policy
from paceline.node.home import USER, Home, write_whole
from paceline.node.membership.contacts import load_contacts, require_name
from paceline.protocol.joint import MAX_KEYS, Policy

MAX_FILE_BYTES = 1024 * 1024
_Key = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{{2 * PUBLIC_KEY_BYTES}}}\Z")]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    threshold: int
    keys: list[_Key]


def load_policies(home: Home) -> dict[str, Policy]:
    """Policies by name. Errors: ConfigError when the file is damaged."""
    path = home.path / "policies.json"
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=dict[str, _Entry])
        return {
            name: make_policy(entry.threshold, [bytes.fromhex(key) for key in entry.keys])
            for name, entry in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, ConfigError) as problem:
        raise ConfigError(f"{path} is damaged ({problem}); repair it or move it away") from None


def make_policy(threshold: int, keys: list[bytes]) -> Policy:
    """The policy of these keys, in whatever order they are named. Errors: ConfigError when there is none."""
    if not 2 <= len(keys) <= MAX_KEYS or not 1 <= threshold <= len(keys):
        raise ConfigError(f"{threshold} of {len(keys)} keys: 2 to {MAX_KEYS} keys, and at most as many signatures")
    policy = Policy(threshold, tuple(sorted(keys)))
    try:
        require_policy(policy)
    except InvalidTransaction as problem:
        raise ConfigError(f"{problem.message}: one key is named twice") from None
    return policy


def require_new_name(home: Home, name: str) -> None:
    """Errors: ConfigError for what is no name, or means an account or a contact here already."""
    require_name(name)
    if name == USER or name in home.key_names() or home.node_path(name).exists() or name in load_policies(home):
        raise ConfigError(f"{name} is an account of this home already: none is ever overwritten")
    if name in load_contacts(home):
        raise ConfigError(f"{name} is a contact of this home; `paceline contacts remove {name}` first")


def add_policy(home: Home, name: str, policy: Policy) -> None:
    """Keep a policy under a name. Errors: ConfigError for a name that means something else, or a policy that has one."""
    require_new_name(home, name)
    policies = load_policies(home)
    former = next((other for other in policies if policies[other] == policy), None)
    if former is not None:
        raise ConfigError(f"this policy is called {former} already")
    save_policies(home, {**policies, name: policy})


def save_policies(home: Home, policies: dict[str, Policy]) -> None:
    """Write all of them: for whoever has made sure of their names."""
    entries = {
        known: _Entry(found.threshold, [key.hex() for key in found.keys]) for known, found in sorted(policies.items())
    }
    write_whole(home.path / "policies.json", msgspec.json.format(msgspec.json.encode(entries)) + b"\n", mode=0o600)
