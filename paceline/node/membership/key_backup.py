"""All keys of a home, or of one of its nodes, in one file under a passphrase; and the way back.

Beside the keys it carries what a new machine cannot make up: genesis, settings, contacts, joint accounts, and the mark up to
which each consensus key has signed. A home that holds no network is backed up, too. Chain state and half-done work are not in it: the network has the first, the second is worth one Race at most.
Invariant: a restore changes nothing before it has read and compared everything, adds files whole or not at all, overwrites
none, writes genesis last, and never lowers a mark; so it can be killed at any moment and repeated.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.keys import SECRET_BYTES
from paceline.engine.signed_mark import NOTHING_SIGNED, SignedMark, raise_signed_mark, read_signed_mark
from paceline.node.home import MAX_GENESIS_BYTES, USER, Home, write_secret, write_whole
from paceline.node.membership.account_backup import (
    AccountBackup,
    collect_accounts,
    compare_accounts,
    list_account_secrets,
    restore_accounts,
)
from paceline.node.membership.sealed import (
    USUAL_COST,
    FileKind,
    InvalidBackup,
    KeyCost,
    open_value,
    require_sealed,
    seal_value,
    write_sealed,
)
from paceline.node.settings import COMETBFT, NodeSettings, encode_settings, load_settings, parse_settings
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.genesis import Genesis

MAGIC = b"paceline-keys\n"
MAX_BACKUP_BYTES = MAX_GENESIS_BYTES + 16 * 1024 * 1024
BACKUP = FileKind(
    magic=MAGIC, purpose="key-backup", written_by="paceline keys backup", limit_bytes=MAX_BACKUP_BYTES, format=2
)
NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
AWAITS_STATE = (
    "This node's keys were restored. It orders no block before a state is imported (paceline state import).\n"
)

Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


class NodeBackup(Record, frozen=True, kw_only=True):
    """One node."""

    name: Annotated[str, Meta(pattern=NODE_NAME)]
    key: Secret
    consensus_key: Secret
    group_key: Secret
    settings: Annotated[str, Meta(max_length=1024 * 1024)]
    signed: SignedMark


class NetworkBackup(Record, frozen=True, kw_only=True):
    """Format 1: a network, without the accounts beside it."""

    genesis: bytes
    user: Secret | None
    token: Annotated[str, Meta(pattern=r"^[!-~]{1,512}\Z")] | None
    nodes: Annotated[tuple[NodeBackup, ...], Meta(min_length=1, max_length=1024)]


class Backup(Record, frozen=True, kw_only=True):
    """Format 2: a home. `genesis` is missing where no network lives, user key and token also when one node alone was backed up."""

    genesis: bytes | None
    user: Secret | None
    token: Annotated[str, Meta(pattern=r"^[!-~]{1,512}\Z")] | None
    nodes: Annotated[tuple[NodeBackup, ...], Meta(max_length=1024)]
    accounts: AccountBackup = AccountBackup()


FORMATS: Mapping[int, type[NetworkBackup | Backup]] = {1: NetworkBackup, BACKUP.format: Backup}


@dataclass(frozen=True, kw_only=True)
class RestoredNode:
    """What became of one node."""

    name: str
    engine: str
    awaits_state: bool
    """It orders blocks under the solo engine, and would begin a second chain without the state of the first."""
    signed: SignedMark


def collect_backup(home: Home, name: str | None = None) -> Backup:
    """Everything of a home that cannot be made again, or of one node.

    Errors: ConfigError when there is no such node or a file is missing or damaged; InvalidBackup when one holds what no
    backup can.
    """
    if not home.exists and name is None:
        return _require_restorable(_collect_accounts_alone(home))
    genesis = encode(home.load_genesis())
    names = home.node_names()
    if name is not None and name not in names:
        raise ConfigError(
            f"no node {name!r} in {home.path}; it holds {', '.join(names) or 'none'}. `paceline keys export` writes one "
            "account's key"
        )
    nodes = tuple(_collect_node(home, node) for node in names if name in {None, node})
    whole = name is None
    return _require_restorable(
        Backup(
            genesis=genesis,
            user=home.load_key("user").secret if whole else None,
            token=home.load_token() if whole else None,
            nodes=nodes,
            accounts=collect_accounts(home) if whole else AccountBackup(),
        )
    )


def seal_backup(backup: Backup, passphrase: str, cost: KeyCost | None = None) -> bytes:
    """The bytes of a backup file.

    Errors: ConfigError when the passphrase is too short.
    """
    return seal_value(BACKUP, backup, passphrase, USUAL_COST if cost is None else cost)


def write_backup(path: Path, data: bytes) -> None:
    """Write a backup file that only its owner can read.

    Errors: ConfigError when something is there already or the disk refuses.
    """
    write_sealed(path, data)


def open_backup(path: Path, passphrase: str) -> Backup:
    """The content of a backup file. Errors: as `open_value`."""
    found = open_value(BACKUP, path, passphrase, FORMATS)
    if isinstance(found, Backup):
        return found
    return Backup(genesis=found.genesis, user=found.user, token=found.token, nodes=found.nodes)


def require_backup_file(path: Path) -> None:
    """Errors: as `require_sealed`, before anybody types a passphrase."""
    require_sealed(BACKUP, path, FORMATS)


def signs_blocks(backup: Backup) -> bool:
    """True when a restored key may sign blocks that the former machine signed after the backup: it needs a mark then.

    Errors: InvalidBackup when settings in it do not hold.
    """
    return any(_read_settings(node).engine == COMETBFT for node in backup.nodes)


def restore_backup(home: Home, backup: Backup, signed_through: SignedMark = NOTHING_SIGNED) -> list[RestoredNode]:
    """Put the keys of a backup where a node looks for them; what is there already and equal stays.

    `signed_through` is a mark up to which no restored consensus key may sign, whatever the backup knows.

    Errors: ConfigError when the home runs, is of another network or holds other keys; nothing has changed then. InvalidBackup
    when settings or genesis of the backup do not hold.
    """
    if home.load_running() is not None:
        raise ConfigError(f"the network in {home.path} runs: stop it before keys are restored into it")
    settings = [_choose_settings(home, node) for node in backup.nodes]
    _compare_genesis(home, backup)
    for path, secret in _list_secrets(home, backup):
        _compare_secret(path, secret)
    compare_accounts(home, backup.accounts)
    for node in backup.nodes:
        read_signed_mark(_get_engine_folder(home, node.name))
    for node, chosen in zip(backup.nodes, settings, strict=True):
        _restore_node(home, node, chosen, signed_through)
    for path, secret in list_account_secrets(home, backup.accounts):
        _add_secret(path, secret)
    restore_accounts(home, backup.accounts)
    _restore_common(home, backup)
    return [_describe(home, chosen) for chosen in settings]


def _require_restorable(backup: Backup) -> Backup:
    """A file that a restore would refuse must not be written in the first place."""
    return decode(Backup, encode(backup), limit_bytes=MAX_BACKUP_BYTES, error=InvalidBackup)


def _collect_accounts_alone(home: Home) -> Backup:
    user = home.load_key(USER).secret if home.key_path(USER).exists() else None
    accounts = collect_accounts(home)
    if user is None and accounts == AccountBackup():
        raise ConfigError(f"{home.path} holds no network and no key: there is nothing to back up")
    return Backup(genesis=None, user=user, token=None, nodes=(), accounts=accounts)


def _collect_node(home: Home, name: str) -> NodeBackup:
    settings = load_settings(home.node_path(name) / "node.toml")
    return NodeBackup(
        name=name,
        key=home.load_key(name).secret,
        consensus_key=home.load_consensus_key(name).secret,
        group_key=home.load_group_secret(name),
        settings=encode_settings(settings),
        signed=read_signed_mark(_get_engine_folder(home, name)),
    )


def _restore_node(home: Home, node: NodeBackup, settings: NodeSettings, signed_through: SignedMark) -> None:
    # What holds a key back comes before the key, the settings last: without them the folder is no node yet.
    if settings.engine == COMETBFT:
        raise_signed_mark(_get_engine_folder(home, node.name), max(node.signed, signed_through))
    elif settings.sequencer == node.name and not (home.node_path(node.name) / "chain.sqlite").exists():
        write_whole(home.get_awaits_state_path(node.name), AWAITS_STATE.encode("utf-8"))
    for path, secret in _list_node_secrets(home, node):
        _add_secret(path, secret)
    path = home.node_path(node.name) / "node.toml"
    if not path.exists():
        write_whole(path, node.settings.encode("utf-8"))


def _restore_common(home: Home, backup: Backup) -> None:
    """User, token, and genesis, which makes the folder a home. What one node's backup lacks is made anew."""
    if backup.genesis is None:
        if backup.user is not None:
            _add_secret(home.key_path(USER), backup.user.hex())
        return
    _add_secret(home.path / "keys" / "user", (backup.user or secrets.token_bytes(SECRET_BYTES)).hex())
    _add_secret(home.path / "operator-token", backup.token or secrets.token_hex(32))
    if not home.exists:
        write_whole(home.path / "genesis.bin", backup.genesis)


def _describe(home: Home, settings: NodeSettings) -> RestoredNode:
    return RestoredNode(
        name=settings.name,
        engine=settings.engine,
        awaits_state=home.get_awaits_state_path(settings.name).exists(),
        signed=read_signed_mark(_get_engine_folder(home, settings.name)),
    )


def _read_settings(node: NodeBackup) -> NodeSettings:
    try:
        return parse_settings(node.settings)
    except (ConfigError, ValueError) as problem:
        raise InvalidBackup("bad-settings", f"settings of {node.name}: {problem}") from None


def _choose_settings(home: Home, node: NodeBackup) -> NodeSettings:
    """Those of the backup, or those that are there already: ports and addresses are a matter of the machine."""
    settings = _read_settings(node)
    if settings.name != node.name:
        raise InvalidBackup("bad-settings", f"settings of {node.name} are those of {settings.name}")
    path = home.node_path(node.name) / "node.toml"
    return load_settings(path) if path.exists() else settings


def _compare_genesis(home: Home, backup: Backup) -> None:
    if backup.genesis is None:
        return
    decode(Genesis, backup.genesis, limit_bytes=MAX_GENESIS_BYTES, error=InvalidBackup)
    if home.exists and encode(home.load_genesis()) != backup.genesis:
        raise ConfigError(f"{home.path} holds another network than the backup: restore into another --home")


def _list_secrets(home: Home, backup: Backup) -> Iterator[tuple[Path, str]]:
    if backup.user is not None:
        yield home.path / "keys" / "user", backup.user.hex()
    if backup.token is not None:
        yield home.path / "operator-token", backup.token
    yield from list_account_secrets(home, backup.accounts)
    for node in backup.nodes:
        yield from _list_node_secrets(home, node)


def _list_node_secrets(home: Home, node: NodeBackup) -> Iterator[tuple[Path, str]]:
    folder = home.node_path(node.name)
    yield folder / "key", node.key.hex()
    yield folder / "consensus-key", node.consensus_key.hex()
    yield folder / "group-key", node.group_key.hex()


def _compare_secret(path: Path, secret: str) -> None:
    if path.exists() and path.read_bytes().strip() != secret.encode("utf-8"):
        raise ConfigError(
            f"{path} is there and differs from the backup: keys are never overwritten; move it away first"
        )


def _add_secret(path: Path, secret: str) -> None:
    if not path.exists():
        write_secret(path, secret)


def _get_engine_folder(home: Home, name: str) -> Path:
    return home.node_path(name) / "engine"
