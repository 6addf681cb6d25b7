"""BLS12-381: points, scalars, signatures with exactly one valid form, and the keys that shares are encrypted to.

Signatures and encryption keys lie in G1 (48 bytes), keys of groups in G2 (96 bytes). It knows no group of signers and
no ledger. Invariant: a point enters through a checked decompression only, so it lies in the right subgroup and is not
the point at infinity; whatever does not is refused with the code `bad-point`, a scalar that is not below the group
order with `bad-scalar`. The arithmetic does not run in constant time: who can time a node's processor to the
nanosecond may learn its secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from paceline.base.bls_sizes import SCALAR_BYTES
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import SECRET_BYTES

ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
# The ciphersuite of RFC 9380 and the BLS draft, so that any other BLS library verifies our signatures.
SIGNATURE_DOMAIN = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
# Lists of points kept open. The newer ones stay when it is full: a ceremony's 64 dealings and their 63 sums fit in those.
_MOST_OPEN_LISTS = 192
_KEPT_OPEN_LISTS = 128


@dataclass(frozen=True)
class EncryptionKey:
    """A secret scalar with its public point in G1. Never printed: `repr` shows the public half only."""

    scalar: int
    public_key: bytes

    @staticmethod
    def from_secret(secret: bytes) -> EncryptionKey:
        """The key of a 32-byte secret."""
        assert len(secret) == SECRET_BYTES
        scalar = hash_to_scalar("bls-key", secret)
        return EncryptionKey(scalar, (G1Point() * Scalar(scalar)).to_compressed_bytes())

    def prove_possession(self, context: bytes) -> bytes:
        """64 bytes which show that the maker knows this key's secret, good for this context alone.

        Source: Schnorr's proof of knowledge, the nonce a hash of secret and context.
        """
        nonce = hash_to_scalar("bls-possession-nonce", encode_scalar(self.scalar), context)
        announced = (G1Point() * Scalar(nonce)).to_compressed_bytes()
        challenge = _compute_possession_challenge(self.public_key, context, announced)
        return encode_scalar(challenge) + encode_scalar(nonce + challenge * self.scalar)

    def compute_shared_point(self, point: G1Point) -> G1Point:
        """The Diffie-Hellman point with another key."""
        return point * Scalar(self.scalar)

    def __repr__(self) -> str:
        return f"EncryptionKey({self.public_key.hex()})"


def verify_possession(public_key: bytes, context: bytes, proof: bytes) -> bool:
    """True when the proof shows knowledge of the key's secret for this context. Malformed bytes are simply false."""
    try:
        key = decode_g1(public_key)
        challenge, response = decode_proof(proof)
    except InvalidTransaction:
        return False
    announced = (G1Point() * Scalar(response) - key * Scalar(challenge)).to_compressed_bytes()
    return challenge == _compute_possession_challenge(public_key, context, announced)


def sign(scalar: int, message: bytes) -> bytes:
    """The only signature of this secret on this message, 48 bytes."""
    return (hash_message(message) * Scalar(scalar)).to_compressed_bytes()


def verify_point_signature(public_key: G2Point, message: bytes, signature: bytes) -> bool:
    """True when the signature fits key and message. Malformed bytes are simply false."""
    try:
        point = decode_g1(signature)
    except InvalidTransaction:
        return False
    return GT.pairing_check([point, -hash_message(message)], [G2Point(), public_key])


@lru_cache(maxsize=256)
def hash_message(message: bytes) -> G1Point:
    """The point of G1 that signatures on this message multiply."""
    return G1Point.hash_to_curve(message, SIGNATURE_DOMAIN)


def hash_to_scalar(purpose: str, *parts: bytes) -> int:
    """A scalar from 512 bits of hash, so that its distance from uniform is below 2**-256."""
    halves = [hash_parts(purpose, bytes([half]), *parts) for half in range(2)]
    return int.from_bytes(b"".join(halves), "big") % ORDER


def encode_scalar(scalar: int) -> bytes:
    """32 bytes, big endian, reduced by the group order."""
    return (scalar % ORDER).to_bytes(SCALAR_BYTES, "big")


def decode_scalar(data: bytes) -> int:
    """The scalar of 32 bytes.

    Errors: InvalidTransaction `bad-scalar` for another length or a value that is not below the group order.
    """
    scalar = int.from_bytes(data, "big")
    if len(data) != SCALAR_BYTES or scalar >= ORDER:
        raise InvalidTransaction("bad-scalar", f"{len(data)} bytes are no scalar below the group order")
    return scalar


def decode_proof(proof: bytes) -> tuple[int, int]:
    """Challenge and response of a proof.

    Errors: InvalidTransaction `bad-scalar`.
    """
    return decode_scalar(proof[:SCALAR_BYTES]), decode_scalar(proof[SCALAR_BYTES:])


@lru_cache(maxsize=4096)
def decode_g1(data: bytes) -> G1Point:
    """The point of 48 bytes.

    Errors: InvalidTransaction `bad-point` for wrong length or flags, points off the curve or out of the subgroup, and
    the point at infinity.
    """
    try:
        point = G1Point.from_compressed_bytes(data)
    except ValueError as error:
        raise InvalidTransaction("bad-point", f"not a point of G1: {error}") from error
    if point == G1Point.identity():
        raise InvalidTransaction("bad-point", "the point at infinity is no key and no signature")
    return point


def decode_g2(data: bytes) -> G2Point:
    """The point of 96 bytes.

    Errors: InvalidTransaction `bad-point`, as for `decode_g1`.
    """
    try:
        point = G2Point.from_compressed_bytes(data)
    except ValueError as error:
        raise InvalidTransaction("bad-point", f"not a point of G2: {error}") from error
    return _refuse_infinity(point)


def decode_g2_list(encoded: tuple[bytes, ...]) -> tuple[G2Point, ...]:
    """The points of a list; opened once, for each costs 0.12 ms and a list is used many times.

    Errors: InvalidTransaction `bad-point`.
    """
    known = _open_lists.get(encoded)
    if known is None:
        known = tuple(decode_g2(data) for data in encoded)
        _open_lists.keep(encoded, known)
    return known


def encode_g2_list(points: tuple[G2Point, ...]) -> tuple[bytes, ...]:
    """The bytes of a list, which `decode_g2_list` then opens for nothing.

    Errors: InvalidTransaction `bad-point` when a sum of points came out as the point at infinity.
    """
    encoded = tuple(_refuse_infinity(point).to_compressed_bytes() for point in points)
    _open_lists.keep(encoded, points)
    return encoded


def multiply_generator(scalar: int) -> G2Point:
    """Return the product of a scalar and the generator of G2 through a table: 32 additions, a fifth of a general product's time."""
    point = G2Point.identity()
    for row, digit in zip(_make_generator_table(), encode_scalar(scalar)[::-1], strict=True):
        point += row[digit]
    return point


class _OpenLists:
    """A bounded memory of opened lists that forgets the oldest; nothing depends on what it remembers but time."""

    def __init__(self) -> None:
        self._points: dict[tuple[bytes, ...], tuple[G2Point, ...]] = {}

    def get(self, encoded: tuple[bytes, ...]) -> tuple[G2Point, ...] | None:
        return self._points.get(encoded)

    def keep(self, encoded: tuple[bytes, ...], points: tuple[G2Point, ...]) -> None:
        known = list(self._points.items())
        if len(known) >= _MOST_OPEN_LISTS:
            known = known[-_KEPT_OPEN_LISTS:]
        # Replaced as a whole: two threads may be here at once, and neither may find it half emptied.
        self._points = dict([*known, (encoded, points)])


_open_lists = _OpenLists()


@lru_cache(maxsize=1)
def _make_generator_table() -> tuple[tuple[G2Point, ...], ...]:
    """Row k holds 0 to 255 times 256**k times the generator."""
    table = []
    base = G2Point()
    for _ in range(SCALAR_BYTES):
        row = [G2Point.identity()]
        for _ in range(255):
            row.append(row[-1] + base)
        base = row[-1] + base
        table.append(tuple(row))
    return tuple(table)


def _compute_possession_challenge(public_key: bytes, context: bytes, announced: bytes) -> int:
    return hash_to_scalar("bls-possession", public_key, context, announced)


def _refuse_infinity(point: G2Point) -> G2Point:
    if point == G2Point.identity():
        raise InvalidTransaction("bad-point", "the point at infinity is no key and no commitment")
    return point
