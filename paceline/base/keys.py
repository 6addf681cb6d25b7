"""Account keys: ed25519 through libsodium, the one verifier that consensus uses.

Another library may accept signatures that this one refuses (small-order keys), so nothing else may verify.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from paceline.base.hashing import hash_parts

ADDRESS_BYTES = 20
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SECRET_BYTES = 32

Address = bytes
PublicKey = bytes


@dataclass(frozen=True)
class AccountKey:
    """A signing key with its public half and address. Never printed: `repr` shows the address only."""

    secret: bytes
    public_key: PublicKey
    address: Address

    @staticmethod
    def from_secret(secret: bytes) -> AccountKey:
        """The key of a 32-byte secret."""
        assert len(secret) == SECRET_BYTES
        public_key = SigningKey(secret).verify_key.encode()
        return AccountKey(secret, public_key, compute_address(public_key))

    def sign(self, message: bytes) -> bytes:
        """64-byte detached signature."""
        return SigningKey(self.secret).sign(message).signature

    def __repr__(self) -> str:
        return f"AccountKey({self.address.hex()})"


def compute_address(public_key: PublicKey) -> Address:
    """20 bytes that name an account."""
    return hash_parts("address", public_key)[:ADDRESS_BYTES]


def verify_signature(public_key: PublicKey, message: bytes, signature: bytes) -> bool:
    """True when libsodium accepts the signature. Wrong lengths are simply false."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError:
        return False
    return True
