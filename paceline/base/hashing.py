"""Tagged hashes. Every digest says what it is for, so a digest made for one purpose never fits another."""

from __future__ import annotations

import hashlib

from blake3 import blake3

DIGEST_BYTES = 32


def hash_parts(purpose: str, *parts: bytes) -> bytes:
    """SHA-256 over a purpose tag and length-prefixed parts.

    Units: 32 bytes out; each length prefix is 8 bytes, little endian, so parts cannot slide into each other.
    """
    digest = hashlib.sha256()
    tag = purpose.encode("ascii")
    digest.update(len(tag).to_bytes(8, "little") + tag)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def hash_blob(data: bytes | memoryview) -> bytes:
    """BLAKE3 of a blob: its address in every node's blob store (3 GB/s a thread, against 0.3 for SHA-256)."""
    return blake3(data).digest()
