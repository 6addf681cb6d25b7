"""The API keys of a home: `api-keys.json` holds names, limits and hashes, never a key.

Refuses to know: requests. Invariant: a key is told once, when it is made; it is 256 random bits, so that its plain hash
tells nothing. The file appears whole and is read again as soon as it changed, so that a revoked key is refused at once.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.node.views import KeyLimits

FILE_NAME = "api-keys.json"
PREFIX = "sk-paceline-"
SHOWN_CHARS = 4
MAX_FILE_BYTES = 16 << 20


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as it is kept. Units: created in Unix seconds. `ending` helps people to tell keys apart."""

    key_id: str
    name: str
    digest: str
    ending: str
    created: int
    revoked: bool = False
    limits: KeyLimits = KeyLimits()


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...] = ()


class KeyRing:
    """The keys of one home."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE_NAME
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def list_keys(self) -> tuple[ApiKey, ...]:
        """All keys, revoked ones too, oldest first.

        Errors: ConfigError when the file is damaged.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, ()
            return ()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._keys = _read(self._path)
            self._stamp = stamp
        return self._keys

    def find(self, key: str) -> ApiKey | None:
        """Return the good key that hashes to what is kept."""
        digest = compute_key_digest(key)
        found = [kept for kept in self.list_keys() if hmac.compare_digest(kept.digest, digest)]
        return found[0] if found and not found[0].revoked else None

    def find_by_id(self, key_id: str) -> ApiKey | None:
        """Return the good key of this id."""
        found = [kept for kept in self.list_keys() if kept.key_id == key_id and not kept.revoked]
        return found[0] if found else None

    def add(self, name: str, limits: KeyLimits, now: int) -> tuple[str, ApiKey]:
        """Make a key; it is told here and never again.

        Errors: ConfigError when the name is taken.
        """
        keys = self.list_keys()
        if any(kept.name == name and not kept.revoked for kept in keys):
            raise ConfigError(f"an API key is called {name!r} already: revoke it first, or choose another name")
        secret = PREFIX + secrets.token_urlsafe(32)
        made = ApiKey(
            key_id=f"key_{secrets.token_hex(8)}",
            name=name,
            digest=compute_key_digest(secret),
            ending=secret[-SHOWN_CHARS:],
            created=now,
            limits=limits,
        )
        _write(self._path, (*keys, made))
        return secret, made

    def revoke(self, name: str) -> ApiKey:
        """Make a key useless, by its name or id. Errors: ConfigError when no good key is called so."""
        keys = self.list_keys()
        good = [kept for kept in keys if name in (kept.name, kept.key_id) and not kept.revoked]
        if not good:
            raise ConfigError(f"no API key is called {name!r}; `paceline api-key list` shows them")
        revoked = msgspec.structs.replace(good[0], revoked=True)
        _write(self._path, tuple(revoked if kept.key_id == revoked.key_id else kept for kept in keys))
        return revoked


def compute_key_digest(key: str) -> str:
    """What is kept of a key."""
    return hash_parts("api-key", key.encode()).hex()


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=_KeyFile).keys
    except msgspec.DecodeError as problem:
        raise ConfigError(f"{path} is damaged: {problem}") from None


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    aside = path.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(_KeyFile(keys))))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
