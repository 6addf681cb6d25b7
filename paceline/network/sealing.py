"""Bytes that one node alone can read: sealed to a peer's account key on the way, locked under the own key at rest.

Knows nothing of what is inside. The ed25519 account key gives the X25519 key, so that a peer needs no second key for it.
Invariant: what does not open was made for somebody else or was changed, and nothing of it is handed out.
"""

from __future__ import annotations

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.secret import SecretBox
from nacl.signing import SigningKey, VerifyKey

from paceline.base.errors import Invalid, WorkError
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey, PublicKey


def seal(recipient: PublicKey, data: bytes) -> bytes:
    """Bytes that only the holder of this account key opens. The sender is not named: a signature inside must do that.

    Errors: Invalid bad-key when it is no point of the curve.
    """
    try:
        return SealedBox(VerifyKey(recipient).to_curve25519_public_key()).encrypt(data)
    except (RuntimeError, CryptoError, ValueError) as problem:
        raise Invalid("bad-key", f"nothing can be sealed to this key ({type(problem).__name__})") from None


def unseal(key: AccountKey, data: bytes) -> bytes:
    """What was sealed to this key.

    Errors: Invalid bad-seal.
    """
    try:
        return SealedBox(SigningKey(key.secret).to_curve25519_private_key()).decrypt(data)
    except (CryptoError, ValueError):
        raise Invalid("bad-seal", f"{len(data)} bytes that were not sealed to this key, or were changed") from None


class Lock:
    """Keeps bytes unreadable on disk for whoever lacks the node's key."""

    def __init__(self, key: AccountKey, purpose: str) -> None:
        self._box = SecretBox(hash_parts("at-rest", purpose.encode(), key.secret))

    def close(self, data: bytes) -> bytes:
        """Locked bytes, different each time."""
        return bytes(self._box.encrypt(data))

    def open(self, data: bytes) -> bytes:
        """Errors: WorkError when they were damaged, or locked under another key."""
        try:
            return self._box.decrypt(data)
        except (CryptoError, ValueError):
            raise WorkError(f"{len(data)} locked bytes do not open: damaged, or of another key") from None
