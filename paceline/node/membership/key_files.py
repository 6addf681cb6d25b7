"""Keys of accounts in a home: made from words, brought back from them, and carried in one sealed file each.

A key lies in `keys/NAME`, readable by its owner only. It knows no network: a machine that never runs a node may hold keys that
only sign. Invariant: a key is never overwritten, and no name means two accounts of a home.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.keys import SECRET_BYTES, AccountKey
from paceline.node.home import Home, write_secret
from paceline.node.membership.policies import require_new_name
from paceline.node.membership.sealed import (
    USUAL_COST,
    FileKind,
    KeyCost,
    open_value,
    require_sealed,
    seal_value,
    write_sealed,
)
from paceline.protocol.codec import Record

KEY_FILE = FileKind(
    magic=b"paceline-key\n", purpose="key-file", written_by="paceline keys export", limit_bytes=64 * 1024
)


class KeyFile(Record, frozen=True, kw_only=True):
    """One account's key, and what it was called."""

    name: Annotated[str, Meta(max_length=64)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


FORMATS = {KEY_FILE.format: KeyFile}


def add_key(home: Home, name: str, secret: bytes) -> AccountKey:
    """Put a key into a home. Errors: as `require_new_name`, and ConfigError when the disk refuses."""
    require_new_name(home, name)
    try:
        write_secret(home.key_path(name), secret.hex())
    except OSError as problem:
        raise ConfigError(f"{home.key_path(name)} cannot be written: {problem.strerror}") from None
    return AccountKey.from_secret(secret)


def export_key(path: Path, name: str, key: AccountKey, passphrase: str, cost: KeyCost | None = None) -> None:
    """Write one key to a sealed file. Errors: ConfigError when something is there, or the passphrase is too short."""
    content = KeyFile(name=name, secret=key.secret)
    write_sealed(path, seal_value(KEY_FILE, content, passphrase, USUAL_COST if cost is None else cost))


def open_key(path: Path, passphrase: str) -> KeyFile:
    """What a sealed file of one key holds. Errors: as `open_value`."""
    return open_value(KEY_FILE, path, passphrase, FORMATS)


def require_key_file(path: Path) -> None:
    """Errors: as `require_sealed`, before anybody types a passphrase."""
    require_sealed(KEY_FILE, path, FORMATS)
