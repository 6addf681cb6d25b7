"""Threshold signatures: from dealings to one group key, from partial signatures to the group's only signature.

`threshold` of the slots sign, fewer cannot, and whoever signs the bytes are the same. It knows no dealer, no secret
that lasts and no ledger. Invariant: slot s stands for the point s + 1 and the group for the point 0 of one polynomial,
whose commitments in the binomial basis are the sum of the dealings' (`paceline.base.dealing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from operator import add

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from paceline.base.bls import (
    ORDER,
    decode_g1,
    decode_g2,
    decode_g2_list,
    encode_g2_list,
    hash_message,
    sign,
    verify_point_signature,
)
from paceline.base.dealing import (
    MAX_SLOTS,
    WEIGHT_BYTES,
    Commitments,
    Complaint,
    check_commitments,
    check_ephemeral,
    judge_share,
    judge_shares,
    verify_complaint,
)
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts

# Keys of the slots are made in stretches: a stretch follows from the end of the one before it.
_STRETCH = 32
# Four groups of 1,000 slots.
_KEPT_STRETCHES = 128


@dataclass(frozen=True, kw_only=True)
class ThresholdScheme:
    """What the rules of the beacon need of threshold cryptography, so that a simulation may put a hash in its place.

    Each field is described where `BLS_SCHEME` takes it from, with its errors.
    """

    check_commitments: Callable[[Commitments], None]
    check_ephemeral: Callable[[bytes, bytes, bytes], None]
    verify_complaint: Callable[[bytes, bytes, bytes, Complaint], bool]
    judge_share: Callable[[Commitments, bytes, bytes, bytes, int], bool]
    judge_shares: Callable[[Commitments, Sequence[bytes], bytes, bytes, Sequence[int]], bool] = judge_shares
    aggregate: Callable[[Commitments | None, Commitments], Commitments]
    compute_group_key: Callable[[Commitments], bytes]
    verify_partial: Callable[[Commitments, int, bytes, bytes], bool]
    verify_partials: Callable[[Commitments, bytes, Mapping[int, bytes]], bool]
    combine: Callable[[Mapping[int, bytes], int], bytes]
    verify_group_signature: Callable[[bytes, bytes, bytes], bool]


def aggregate(former: Commitments | None, commitments: Commitments) -> Commitments:
    """Commitments of a group with one dealing more; None stands for no dealing yet.

    Errors: InvalidTransaction, as for `aggregate_commitments`.
    """
    return aggregate_commitments([commitments] if former is None else [former, commitments])


def aggregate_commitments(dealings: Sequence[Commitments]) -> Commitments:
    """Commitments of a group from those of all its dealings; at least one is needed.

    Errors: InvalidTransaction `bad-point` when a sum is the point at infinity (the dealers took each other back: leave
    the last one out), `wrong-threshold` when the dealings differ in length.
    """
    total = decode_g2_list(dealings[0])
    for commitments in dealings[1:]:
        if len(commitments) != len(total):
            raise InvalidTransaction("wrong-threshold", f"{len(commitments)} commitments, the group has {len(total)}")
        total = tuple(map(add, total, decode_g2_list(commitments)))
    return encode_g2_list(total)


def compute_group_key(group: Commitments) -> bytes:
    """96 bytes that the group's signatures verify against."""
    return group[0]


def compute_slot_key(group: Commitments, slot: int) -> bytes:
    """96 bytes that a slot's partial signatures verify against, as `verify_group_signature` does it."""
    assert 0 <= slot < MAX_SLOTS
    return _get_slot_point(group, slot).to_compressed_bytes()


def compute_slot_secret(shares: Iterable[int]) -> int:
    """A slot's share of the group's secret from its shares of all dealings that count."""
    return sum(shares) % ORDER


def sign_partial(slot_secret: int, message: bytes) -> bytes:
    """A slot's 48 bytes towards the group's signature."""
    return sign(slot_secret, message)


def verify_partial(group: Commitments, slot: int, message: bytes, partial: bytes) -> bool:
    """True when the partial signature is the slot's. Malformed bytes and unknown slots are simply false."""
    if not 0 <= slot < MAX_SLOTS:
        return False
    return verify_point_signature(_get_slot_point(group, slot), message, partial)


def verify_partials(group: Commitments, message: bytes, partials: Mapping[int, bytes]) -> bool:
    """True when all partial signatures are their slots', for little more than the price of one.

    A wrong one passes with probability 2**-128: weights are a hash of everything checked.
    """
    slots = sorted(partials)
    if not slots:
        return True
    if not (slots[0] >= 0 and slots[-1] < MAX_SLOTS):
        return False
    try:
        points = [decode_g1(partials[slot]) for slot in slots]
    except InvalidTransaction:
        return False
    weights = _compute_weights(group, message, [(slot, partials[slot]) for slot in slots])
    signature = G1Point.multiexp_unchecked(points, weights)
    key = G2Point.multiexp_unchecked([_get_slot_point(group, slot) for slot in slots], weights)
    return GT.pairing_check([signature, -hash_message(message)], [G2Point(), key])


def combine(partials: Mapping[int, bytes], threshold: int) -> bytes:
    """The group's signature from the partial ones of the `threshold` lowest slots given, 48 bytes.

    Any other slots give the same bytes. Wrong partial signatures give a signature that does not verify.
    Errors: InvalidTransaction `too-few-partials`, `bad-point`.
    """
    if len(partials) < threshold:
        raise InvalidTransaction("too-few-partials", f"{len(partials)} slots have signed, {threshold} must")
    slots = tuple(sorted(partials)[:threshold])
    points = [decode_g1(partials[slot]) for slot in slots]
    return G1Point.multiexp_unchecked(points, list(_compute_lagrange(slots))).to_compressed_bytes()


def verify_group_signature(group_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when the signature on the message is the key's. Malformed bytes are simply false."""
    try:
        key = _decode_key(group_key)
    except InvalidTransaction:
        return False
    return verify_point_signature(key, message, signature)


BLS_SCHEME = ThresholdScheme(
    check_commitments=check_commitments,
    check_ephemeral=check_ephemeral,
    verify_complaint=verify_complaint,
    judge_share=judge_share,
    judge_shares=judge_shares,
    aggregate=aggregate,
    compute_group_key=compute_group_key,
    verify_partial=verify_partial,
    verify_partials=verify_partials,
    combine=combine,
    verify_group_signature=verify_group_signature,
)


def _get_slot_point(group: Commitments, slot: int) -> G2Point:
    keys, _ = _compute_stretch(group, slot // _STRETCH)
    return keys[slot % _STRETCH]


@lru_cache(maxsize=_KEPT_STRETCHES)
def _compute_stretch(group: Commitments, stretch: int) -> tuple[tuple[G2Point, ...], tuple[G2Point, ...]]:
    """Keys of `_STRETCH` slots and the differences after them: a step to the next slot is `threshold` additions."""
    differences = decode_g2_list(group) if stretch == 0 else _compute_stretch(group, stretch - 1)[1]
    keys = []
    for _ in range(_STRETCH):
        differences = (*(low + high for low, high in pairwise(differences)), differences[-1])
        keys.append(differences[0])
    return tuple(keys), differences


@lru_cache(maxsize=16)
def _compute_lagrange(slots: tuple[int, ...]) -> tuple[Scalar, ...]:
    """Factors that give a polynomial's value at 0 from its values at the slots' points."""
    points = [slot + 1 for slot in slots]
    whole = prod(points)
    factors = []
    for point in points:
        below = prod(other - point for other in points if other != point)
        factors.append(Scalar(whole // point * pow(below, -1, ORDER) % ORDER))
    return tuple(factors)


@lru_cache(maxsize=64)
def _decode_key(group_key: bytes) -> G2Point:
    return decode_g2(group_key)


def _compute_weights(group: Commitments, message: bytes, partials: list[tuple[int, bytes]]) -> list[Scalar]:
    signed = b"".join(slot.to_bytes(4, "big") + partial for slot, partial in partials)
    seed = hash_parts("partials", b"".join(group), message, signed)
    return [
        Scalar(int.from_bytes(hash_parts("partial-weight", seed, slot.to_bytes(4, "big"))[:WEIGHT_BYTES], "big"))
        for slot, _ in partials
    ]
