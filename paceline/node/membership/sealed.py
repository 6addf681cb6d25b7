"""Secrets in a file under a passphrase: a head that says what one guess costs, and an authenticated box.

It knows nothing of what is sealed; its two users are the backup of a home and the file of one key. Invariant: a change of any
byte of the file is found, and a file of one kind or format never opens as another.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from paceline.base.errors import ConfigError, Invalid
from paceline.base.hashing import hash_parts
from paceline.node.home import write_whole
from paceline.protocol.codec import Record, decode, encode

MIN_PASSPHRASE_CHARACTERS = 12
SALT_BYTES = pwhash.argon2id.SALTBYTES

T = TypeVar("T")


class InvalidBackup(Invalid):
    """A file holds no sealed keys of its kind, or cannot be opened with this passphrase; nothing was changed."""


class KeyCost(Record, frozen=True):
    """What one guess of the passphrase costs: passes of argon2id over so much memory. The bounds keep a file from asking for more."""

    passes: Annotated[int, Meta(ge=1, le=16)] = pwhash.argon2id.OPSLIMIT_MODERATE
    memory_bytes: Annotated[int, Meta(ge=8192, le=1024**3)] = pwhash.argon2id.MEMLIMIT_MODERATE


USUAL_COST = KeyCost()


class SealedBackup(Record, frozen=True, kw_only=True):
    """What stands in the file after the magic of its kind."""

    format: int
    cost: KeyCost
    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    sealed: bytes


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """One kind of sealed file: how it begins, what binds its key to it, who writes it, how large it may be."""

    magic: bytes
    purpose: str
    written_by: str
    limit_bytes: int
    format: int = 1
    """Of what is written; what is read says itself which it has."""


def seal_value(kind: FileKind, value: Record, passphrase: str, cost: KeyCost) -> bytes:
    """The bytes of a file. Errors: ConfigError when the passphrase is too short."""
    salt = secrets.token_bytes(SALT_BYTES)
    box = _make_box(kind, kind.format, _require_passphrase(passphrase), salt, cost)
    return kind.magic + encode(
        SealedBackup(format=kind.format, cost=cost, salt=salt, sealed=bytes(box.encrypt(encode(value))))
    )


def require_sealed(kind: FileKind, path: Path, formats: Collection[int]) -> SealedBackup:
    """What stands in a file behind its magic, for whoever looks before a passphrase is asked for.

    Errors: InvalidBackup not-a-backup, too-large, malformed, non-canonical, unknown-format; ConfigError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(kind.limit_bytes + 1)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    if not data.startswith(kind.magic):
        raise InvalidBackup("not-a-backup", f"{path} was not written by `{kind.written_by}`")
    rest = data[len(kind.magic) :]
    sealed = decode(SealedBackup, rest, limit_bytes=kind.limit_bytes, error=InvalidBackup)
    if sealed.format not in formats:
        known = " and ".join(str(number) for number in sorted(formats))
        raise InvalidBackup("unknown-format", f"{path} has format {sealed.format}, this program reads {known}")
    return sealed


def open_value(kind: FileKind, path: Path, passphrase: str, wanted: Mapping[int, type[T]]) -> T:
    """The content of a file, by its format. Errors: as `require_sealed`, and InvalidBackup not-opened."""
    sealed = require_sealed(kind, path, wanted.keys())
    try:
        box = _make_box(kind, sealed.format, _normalise(passphrase), sealed.salt, sealed.cost)
        opened = box.decrypt(sealed.sealed)
    except (CryptoError, ValueError):
        raise InvalidBackup("not-opened", f"{path}: wrong passphrase, or the file is damaged") from None
    return decode(wanted[sealed.format], opened, limit_bytes=kind.limit_bytes, error=InvalidBackup)


def require_free(path: Path) -> None:
    """Errors: ConfigError when something is there, or its folder is not: secrets land nowhere that nobody has made."""
    if path.exists():
        raise ConfigError(f"{path} exists already: a backup overwrites nothing; name another file")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"{path}: its folder does not exist")


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read.

    Errors: as `require_free`, and ConfigError when the disk refuses.
    """
    require_free(path)
    try:
        write_whole(path, data, mode=0o600)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be written: {problem.strerror}") from None


def _require_passphrase(passphrase: str) -> str:
    normal = _normalise(passphrase)
    if len(normal) < MIN_PASSPHRASE_CHARACTERS:
        raise ConfigError(
            f"the passphrase has {len(normal)} characters, at least {MIN_PASSPHRASE_CHARACTERS} are needed"
        )
    return normal


def _normalise(passphrase: str) -> str:
    # Keyboards spell one letter in several ways; the same words must open the file on every machine.
    return unicodedata.normalize("NFKC", passphrase)


def _make_box(kind: FileKind, number: int, passphrase: str, salt: bytes, cost: KeyCost) -> SecretBox:
    # The whole head goes into the key, so that a change of any byte of the file is found.
    bound = hash_parts(kind.purpose, encode((number, cost, salt)))[:SALT_BYTES]
    secret = passphrase.encode("utf-8")
    return SecretBox(
        pwhash.argon2id.kdf(SecretBox.KEY_SIZE, secret, bound, opslimit=cost.passes, memlimit=cost.memory_bytes)
    )
