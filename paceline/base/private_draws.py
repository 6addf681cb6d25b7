"""Draws that one key makes in secret and shows later: unique, so its holder cannot choose, and unknown to everybody else.

The lot of a message is the message's point times the key's secret, with a proof that it is just that. It knows no purpose
and no ledger. Invariant: a key has exactly one lot for a message, whatever its holder tries.
"""

from __future__ import annotations

from typing import NamedTuple

from py_arkworks_bls12381 import G1Point

from paceline.base.bls import EncryptionKey, hash_message
from paceline.base.dealing import Complaint, prove_complaint, verify_complaint
from paceline.base.hashing import hash_parts

_CONTEXT = b"private-draw"
# No dealer knows the logarithm of a hashed point, so a lot opens no share that is encrypted to the same key.


class Lot(NamedTuple):
    """What a key draws for a message: the point, and the proof that it is this key's."""

    point: bytes
    proof: bytes


def compute_point(key: EncryptionKey, message: bytes) -> bytes:
    """The point of a key's lot, without the proof."""
    return key.compute_shared_point(_locate(message)).to_compressed_bytes()


def draw_lot(key: EncryptionKey, message: bytes) -> Lot:
    """The only lot of a key for a message, with a proof. Source: Chaum and Pedersen's proof of equal logarithms."""
    complaint = prove_complaint(key, _locate(message).to_compressed_bytes(), _CONTEXT)
    return Lot(complaint.shared_point, complaint.proof)


def verify_lot(public_key: bytes, message: bytes, lot: Lot) -> bool:
    """True when this is the key's lot for the message. Malformed bytes are simply false."""
    return verify_complaint(
        public_key, _locate(message).to_compressed_bytes(), _CONTEXT, Complaint(lot.point, lot.proof)
    )


def compute_lot_seed(point: bytes) -> bytes:
    """32 bytes to draw from."""
    return hash_parts("lot", point)


def _locate(message: bytes) -> G1Point:
    return hash_message(b"paceline-lot" + message)
