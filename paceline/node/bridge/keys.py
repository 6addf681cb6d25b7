"""Keys of the other chain: they sign withdrawals as attesters, and transactions as payers.

The curve is another one than the ledger's. A file holds 64 hex digits and only its owner reads it, like every key of a home. Invariant: a file is never overwritten.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from coincurve import PrivateKey

from paceline.base.errors import ConfigError
from paceline.base.patricia import compute_keccak
from paceline.node.home import write_secret

SECRET_BYTES, ADDRESS_BYTES, SIGNATURE_BYTES = 32, 20, 65
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""The contract takes no s above it: anybody can make the second signature of a pair from the first."""
WALLET_PREFIX = b"\x19Ethereum Signed Message:\n32"


class EvmKey:
    """One key. Its address is what the other chain knows."""

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.address: bytes = compute_keccak(self._key.public_key.format(compressed=False)[1:])[-ADDRESS_BYTES:]

    def sign_hash(self, digest: bytes) -> bytes:
        """A signature over 32 bytes as they are: r, s and which of the two possible signers it is."""
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature

    def sign_message(self, digest: bytes) -> bytes:
        """A signature as wallets make it over 32 bytes that a person is asked to sign; never one of a transaction."""
        found = self.sign_hash(compute_wallet_hash(digest))
        return found[:-1] + bytes([27 + found[-1]])


def is_plain(signature: bytes) -> bool:
    """True for 65 bytes in the one form of a signature that the contract takes."""
    return len(signature) == SIGNATURE_BYTES and int.from_bytes(signature[32:64], "big") <= HALF_ORDER


def compute_wallet_hash(digest: bytes) -> bytes:
    """What a wallet signs when it is asked to sign 32 bytes."""
    return compute_keccak(WALLET_PREFIX + digest)


def load_evm_key(path: Path) -> EvmKey:
    """The key in a file. Errors: ConfigError when it is missing, damaged, or the library is."""
    return _read_key(path)[1]


def copy_evm_key(path: Path, to: Path) -> EvmKey:
    """Put the key of a file where a node looks for it. Errors: ConfigError also when another key is there."""
    secret, key = _read_key(path)
    if not to.exists():
        write_secret(to, secret.hex())
    elif load_evm_key(to).address != key.address:
        raise ConfigError(f"{to} holds another key, and keys are never overwritten: move it away first")
    return key


def make_evm_key(path: Path) -> EvmKey:
    """A new key in a new file. Errors: ConfigError when something is there, the disk refuses, or the library is missing."""
    if path.exists():
        raise ConfigError(f"{path} exists already, and keys are never overwritten")
    secret = secrets.token_bytes(SECRET_BYTES)
    key = EvmKey(secret)
    try:
        write_secret(path, secret.hex())
    except OSError as problem:
        raise ConfigError(f"{path} cannot be written: {problem.strerror}") from None
    return key


def parse_address(text: str, field: str) -> bytes:
    """20 bytes of an address. Errors: ConfigError naming the field, also when capitals are there and do not check."""
    digits = text.removeprefix("0x")
    try:
        address = bytes.fromhex(digits)
    except ValueError:
        address = b""
    if len(digits) != 2 * ADDRESS_BYTES or len(address) != ADDRESS_BYTES or not text.startswith("0x"):
        raise ConfigError(f"{field}: {text[:64]!r} is no address of the other chain: 0x and 40 hex digits")
    if digits not in {digits.lower(), digits.upper(), format_address(address)[2:]}:
        raise ConfigError(f"{field}: {text} has a wrong digit: its capitals do not check")
    return address


def format_address(address: bytes) -> str:
    """With the capitals by which wallets find slips. Source: EIP-55."""
    digits = address.hex()
    marks = compute_keccak(digits.encode("ascii")).hex()
    return "0x" + "".join(digit.upper() if mark > "7" else digit for digit, mark in zip(digits, marks, strict=False))


def _read_key(path: Path) -> tuple[bytes, EvmKey]:
    try:
        secret = _decode_secret(path.read_text("ascii").strip().removeprefix("0x"))
        return secret, EvmKey(secret)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: `paceline bridge key {path}` makes a new key") from None
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    except ValueError:
        # The library's own words would quote what it was given.
        raise ConfigError(f"{path} holds no key of the other chain: 64 hex digits are expected") from None


def _decode_secret(digits: str) -> bytes:
    """Errors: ValueError; the library itself would fill up what is too short."""
    if len(digits) != 2 * SECRET_BYTES:
        raise ValueError
    return bytes.fromhex(digits)
