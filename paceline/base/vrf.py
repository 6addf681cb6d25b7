"""A private draw with a public proof: one output for each key and message, known to the key's holder until it is shown.

The output is the point of the message times the secret; the proof says that its logarithm is the secret of the public
key. It knows no draw's odds and no ledger. Invariant: for a key in G1 and a message exactly one output verifies, so its
holder can neither choose nor deny what was drawn.
Source: Chaum and Pedersen's proof of equal logarithms, as in `paceline.base.dealing`.
"""

from __future__ import annotations

from typing import NamedTuple

from py_arkworks_bls12381 import G1Point, Scalar

from paceline.base.bls import (
    EncryptionKey,
    decode_g1,
    decode_proof,
    encode_scalar,
    hash_message,
    hash_to_scalar,
)
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts


class ProvenOutput(NamedTuple):
    """An output (48 bytes) with what shows that it is the key's (64 bytes)."""

    output: bytes
    proof: bytes


def compute_output(key: EncryptionKey, message: bytes) -> bytes:
    """The key's output for a message, without its proof."""
    return key.compute_shared_point(hash_message(message)).to_compressed_bytes()


def compute_chance(output: bytes) -> bytes:
    """32 uniform bytes that an output stands for."""
    return hash_parts("vrf-chance", output)


def prove_output(key: EncryptionKey, message: bytes) -> ProvenOutput:
    """The key's output for a message, with its proof. Says nothing about its outputs for other messages."""
    base = hash_message(message)
    output = key.compute_shared_point(base).to_compressed_bytes()
    nonce = hash_to_scalar("vrf-nonce", encode_scalar(key.scalar), message)
    announced = (G1Point() * Scalar(nonce), base * Scalar(nonce))
    challenge = _compute_challenge(key.public_key, message, output, announced)
    return ProvenOutput(output, encode_scalar(challenge) + encode_scalar(nonce + challenge * key.scalar))


def verify_output(public_key: bytes, message: bytes, proven: ProvenOutput) -> bool:
    """True when the output is the one of this key and message. Malformed bytes are simply false."""
    try:
        key, output = decode_g1(public_key), decode_g1(proven.output)
        challenge, response = decode_proof(proven.proof)
    except InvalidTransaction:
        return False
    factor, weight = Scalar(response), Scalar(challenge)
    announced = (G1Point() * factor - key * weight, hash_message(message) * factor - output * weight)
    return challenge == _compute_challenge(public_key, message, proven.output, announced)


def _compute_challenge(public_key: bytes, message: bytes, output: bytes, announced: tuple[G1Point, G1Point]) -> int:
    points = [point.to_compressed_bytes() for point in announced]
    return hash_to_scalar("vrf-challenge", public_key, message, output, *points)
