"""The plain twin of the library for the other chain's keys: its two calls, by the book and in no hurry.

It stands in where the extra is not installed, so that tests sign as attesters do; never for real keys, because its time tells of
them. Source: SEC 1, SEC 2 (secp256k1), RFC 6979.
"""

from __future__ import annotations

import hashlib
import hmac

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(one, other):
    if one is None or other is None:
        return one or other
    if one[0] == other[0]:
        if (one[1] + other[1]) % P == 0:
            return None
        slope = 3 * one[0] ** 2 * pow(2 * one[1], -1, P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P)
    x = (slope**2 - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def multiply(times, point):
    found = None
    while times:
        if times & 1:
            found = add(found, point)
        point, times = add(point, point), times >> 1
    return found


def list_nonces(secret, digest):
    """RFC 6979, 3.2, with SHA-256."""
    reduced = (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    key, value = bytes(32), b"\1" * 32
    for mark in (b"\0", b"\1"):
        key = hmac.digest(key, value + mark + secret + reduced, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        yield int.from_bytes(value, "big")
        key = hmac.digest(key, value + b"\0", "sha256")
        value = hmac.digest(key, value, "sha256")


class PublicKey:
    def __init__(self, point):
        self.point = point

    def format(self, *, compressed):
        assert not compressed
        return b"\4" + b"".join(part.to_bytes(32, "big") for part in self.point)


class PrivateKey:
    def __init__(self, secret):
        self.secret = secret
        self.number = int.from_bytes(secret, "big")
        if not 0 < self.number < N:
            raise ValueError("secret scalar must be greater than 0 and less than the order")
        self.public_key = PublicKey(multiply(self.number, G))

    def sign_recoverable(self, message, hasher=hashlib.sha256):
        assert hasher is None and len(message) == 32
        for nonce in list_nonces(self.secret, message):
            if not 0 < nonce < N:
                continue
            x, y = multiply(nonce, G)
            r = x % N
            s = pow(nonce, -1, N) * (int.from_bytes(message, "big") + r * self.number) % N
            if r and s:
                break
        mark = (y & 1) | (2 if x >= N else 0)
        # The lower half of s, as the other chain wants it.
        if 2 * s > N:
            s, mark = N - s, mark ^ 1
        return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([mark])
