"""A dealing: one secret shared over slots, encrypted to their owners, and checkable by everybody.

A dealer shares f(0) of a random polynomial f of degree threshold - 1; slot s owns f(s + 1). The commitments to f stand
in the binomial basis, f(x) = sum over i of binomial(x, i) * a_i: as secret as powers of x, and the keys of all slots
follow by additions alone (`paceline.base.threshold`). It knows no committee, no height and no ledger. Invariants: the
same secret and arguments give the same dealing, other arguments a polynomial that has nothing to do with it; a share
that does not fit the commitments can be shown to outsiders, a share that fits cannot be denounced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, pairwise
from typing import NamedTuple

from py_arkworks_bls12381 import G1Point, G2Point, Scalar

from paceline.base.bls import (
    ORDER,
    EncryptionKey,
    decode_g1,
    decode_g2_list,
    decode_proof,
    encode_g2_list,
    encode_scalar,
    hash_to_scalar,
    multiply_generator,
    verify_possession,
)
from paceline.base.bls_sizes import G1_BYTES, SCALAR_BYTES
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts

MAX_SLOTS = 1_024
# Weights of a batch: a wrong share passes with probability 2**-127.
WEIGHT_BYTES = 16

Commitments = tuple[bytes, ...]


class Recipient(NamedTuple):
    """Who owns which slots, and the key that their shares are encrypted to."""

    address: bytes
    public_key: bytes
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What a dealer publishes. `shares` holds one 32-byte ciphertext per slot, in the order of the recipient's slots."""

    commitments: Commitments
    ephemeral: bytes
    ephemeral_proof: bytes
    shares: Mapping[bytes, tuple[bytes, ...]]


class Complaint(NamedTuple):
    """The point that member and dealer share, with the proof that it is that point: enough to decrypt the shares."""

    shared_point: bytes
    proof: bytes


def deal(secret_seed: bytes, threshold: int, recipients: Sequence[Recipient], context: bytes) -> Dealing:
    """Share a secret that nobody but this dealer knows.

    `context` must name network, ceremony and dealer: it is what keeps a ciphertext from being dealt again by another.
    Errors: InvalidTransaction `bad-point` for a recipient's key.
    """
    slots = sorted(slot for recipient in recipients for slot in recipient.slots)
    assert 0 < threshold <= len(slots) and slots[0] >= 0 and slots[-1] < MAX_SLOTS
    assert all(former < slot for former, slot in pairwise(slots))
    seed = hash_parts("dealing", secret_seed, context, _encode_arguments(threshold, recipients))
    coefficients = [hash_to_scalar("dealing-coefficient", seed, index.to_bytes(4, "big")) for index in range(threshold)]
    values = _evaluate_all(coefficients, slots[-1] + 1)
    ephemeral = EncryptionKey.from_secret(hash_parts("dealing-ephemeral", seed))
    return Dealing(
        commitments=encode_g2_list(tuple(multiply_generator(coefficient) for coefficient in coefficients)),
        ephemeral=ephemeral.public_key,
        ephemeral_proof=ephemeral.prove_possession(_compute_ephemeral_context(context)),
        shares={recipient.address: _encrypt_shares(ephemeral, recipient, values, context) for recipient in recipients},
    )


def check_commitments(commitments: Commitments) -> None:
    """Refuse a list that holds anything but points of G2. The caller compares its length with the threshold.

    Errors: InvalidTransaction `bad-point`.
    """
    if not commitments:
        raise InvalidTransaction("bad-point", "a dealing holds at least one commitment")
    decode_g2_list(commitments)


def check_ephemeral(ephemeral: bytes, proof: bytes, context: bytes) -> None:
    """Refuse an ephemeral key that the dealer did not make itself.

    A dealer who could take over another's key would deal nonsense, and the complaint about it would lay open
    the point that protects the honest dealer's shares.
    Errors: InvalidTransaction `bad-point`, `bad-ephemeral`.
    """
    decode_g1(ephemeral)
    if not verify_possession(ephemeral, _compute_ephemeral_context(context), proof):
        raise InvalidTransaction("bad-ephemeral", "the dealer does not show that it made the ephemeral key")


def decrypt_shares(
    key: EncryptionKey, ephemeral: bytes, context: bytes, slots: Sequence[int], ciphertexts: Sequence[bytes]
) -> tuple[int, ...]:
    """Own shares of one dealing; a value need not be a scalar, `verify_share` refuses it then.

    Errors: InvalidTransaction `bad-point` for the ephemeral key, `bad-share` for a ciphertext of another length.
    """
    shared = key.compute_shared_point(decode_g1(ephemeral)).to_compressed_bytes()
    return tuple(
        _decrypt(ciphertext, shared, context, slot) for slot, ciphertext in zip(slots, ciphertexts, strict=True)
    )


def verify_share(commitments: Commitments, slot: int, share: int) -> bool:
    """True when the share is what the commitments promise to the slot.

    Errors: InvalidTransaction `bad-point` for the commitments.
    """
    if not (0 <= share < ORDER and 0 <= slot < MAX_SLOTS):
        return False
    return compute_slot_point(commitments, slot) == multiply_generator(share)


def compute_slot_point(commitments: Commitments, slot: int) -> G2Point:
    """f(slot + 1) times the generator, straight from the commitments: the plain twin of the table of all slots."""
    points = decode_g2_list(commitments)
    return G2Point.multiexp_unchecked(list(points), list(_compute_binomials(slot + 1, len(points))))


def verify_shares_batched(
    commitments: Sequence[Commitments], slots: Sequence[int], shares: Sequence[Sequence[int]]
) -> bool:
    """True when every dealing's shares for these slots fit its commitments, by one product over all points.

    Shapes: shares[dealing][slot]; all dealings have the same threshold. A wrong share passes with 2**-127: weights are
    a hash of everything checked, one per dealing and one per slot.
    Errors: InvalidTransaction `bad-point` for commitments, `wrong-threshold` when dealings differ in length.
    """
    if any(not 0 <= share < ORDER for row in shares for share in row):
        return False
    if not (commitments and slots):
        return True
    # The library would cut a product of lists of two lengths to the shorter one without a word.
    if any(len(encoded) != len(commitments[0]) for encoded in commitments):
        raise InvalidTransaction("wrong-threshold", "the dealings of one batch have one threshold")
    seed = _hash_batch(commitments, slots, shares)
    by_dealing = [_compute_weight(seed, "dealing", index) for index in range(len(commitments))]
    by_slot = [_compute_weight(seed, "slot", index) for index in range(len(slots))]
    columns = _combine_binomials(slots, by_slot, len(commitments[0]))
    points: list[G2Point] = []
    scalars: list[Scalar] = []
    total = 0
    for encoded, weight, row in zip(commitments, by_dealing, shares, strict=True):
        points += decode_g2_list(encoded)
        factor = Scalar(weight)
        scalars += [factor * column for column in columns]
        total += weight * sum(slot_weight * share for slot_weight, share in zip(by_slot, row, strict=True))
    return G2Point.multiexp_unchecked(points, scalars) == multiply_generator(total)


def find_bad_dealings(
    commitments: Sequence[Commitments], slots: Sequence[int], shares: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Indices of the dealings with a wrong share, by halving the batch until it passes or holds one dealing."""
    if verify_shares_batched(commitments, slots, shares):
        return ()
    if len(commitments) == 1:
        return (0,)
    half = len(commitments) // 2
    upper = find_bad_dealings(commitments[half:], slots, shares[half:])
    return (*find_bad_dealings(commitments[:half], slots, shares[:half]), *(half + index for index in upper))


def prove_complaint(key: EncryptionKey, ephemeral: bytes, context: bytes) -> Complaint:
    """Lay open the point shared with one dealer, with a proof that its logarithm is this key's secret.

    It opens every share of this member in this dealing and nothing else.
    Errors: InvalidTransaction `bad-point` for the ephemeral key.
    Source: Chaum and Pedersen's proof of equal logarithms, the nonce a hash of secret and statement.
    """
    base = decode_g1(ephemeral)
    shared = key.compute_shared_point(base).to_compressed_bytes()
    nonce = hash_to_scalar("complaint-nonce", encode_scalar(key.scalar), ephemeral, context)
    announced = ((G1Point() * Scalar(nonce)), (base * Scalar(nonce)))
    challenge = _compute_complaint_challenge(key.public_key, ephemeral, shared, context, announced)
    return Complaint(shared, encode_scalar(challenge) + encode_scalar(nonce + challenge * key.scalar))


def verify_complaint(public_key: bytes, ephemeral: bytes, context: bytes, complaint: Complaint) -> bool:
    """True when the opened point is the one that this member and the dealer share. Malformed bytes are simply false."""
    try:
        key, base, shared = decode_g1(public_key), decode_g1(ephemeral), decode_g1(complaint.shared_point)
        challenge, response = decode_proof(complaint.proof)
    except InvalidTransaction:
        return False
    factor, weight = Scalar(response), Scalar(challenge)
    announced = (G1Point() * factor - key * weight, base * factor - shared * weight)
    return challenge == _compute_complaint_challenge(public_key, ephemeral, complaint.shared_point, context, announced)


def judge_share(commitments: Commitments, ciphertext: bytes, shared_point: bytes, context: bytes, slot: int) -> bool:
    """True when the very ciphertext holds the share that was promised: the complaint about it is then unfounded.

    `shared_point` must have passed `verify_complaint`.
    Errors: InvalidTransaction `bad-point` for commitments that `check_commitments` had refused.
    """
    if len(ciphertext) != SCALAR_BYTES or len(shared_point) != G1_BYTES:
        return False
    return verify_share(commitments, slot, _decrypt(ciphertext, shared_point, context, slot))


def judge_shares(
    commitments: Commitments, ciphertexts: Sequence[bytes], shared_point: bytes, context: bytes, slots: Sequence[int]
) -> bool:
    """`judge_share` for all slots of a member at once, for little more than the price of one: what a ledger can afford.

    Errors: as `judge_share`.
    """
    if len(shared_point) != G1_BYTES or any(len(ciphertext) != SCALAR_BYTES for ciphertext in ciphertexts):
        return False
    row = [
        _decrypt(ciphertext, shared_point, context, slot) for slot, ciphertext in zip(slots, ciphertexts, strict=True)
    ]
    return verify_shares_batched([commitments], slots, [row])


def _evaluate_all(coefficients: Sequence[int], count: int) -> list[int]:
    """f(1) to f(count): in the binomial basis the coefficients are the differences at 0, and a step is additions."""
    differences = list(coefficients)
    values = []
    for _ in range(count):
        differences = [(low + high) % ORDER for low, high in pairwise(chain(differences, (0,)))]
        values.append(differences[0])
    return values


def _encrypt_shares(
    ephemeral: EncryptionKey, recipient: Recipient, values: Sequence[int], context: bytes
) -> tuple[bytes, ...]:
    shared = ephemeral.compute_shared_point(decode_g1(recipient.public_key)).to_compressed_bytes()
    return tuple(_mask(encode_scalar(values[slot]), shared, context, slot) for slot in recipient.slots)


def _decrypt(ciphertext: bytes, shared_point: bytes, context: bytes, slot: int) -> int:
    if len(ciphertext) != SCALAR_BYTES:
        raise InvalidTransaction("bad-share", f"a share has {SCALAR_BYTES} bytes, not {len(ciphertext)}")
    return int.from_bytes(_mask(ciphertext, shared_point, context, slot), "big")


def _mask(data: bytes, shared_point: bytes, context: bytes, slot: int) -> bytes:
    """Encrypt and decrypt: add the key stream of one share bit by bit."""
    stream = hash_parts("share-stream", context, shared_point, slot.to_bytes(4, "big"))
    return bytes(left ^ right for left, right in zip(data, stream, strict=True))


def _encode_arguments(threshold: int, recipients: Sequence[Recipient]) -> bytes:
    parts = [
        hash_parts("recipient", recipient.address, recipient.public_key, _encode_slots(recipient.slots))
        for recipient in recipients
    ]
    return threshold.to_bytes(4, "big") + b"".join(parts)


def _encode_slots(slots: Sequence[int]) -> bytes:
    return b"".join(slot.to_bytes(4, "big") for slot in slots)


def _compute_ephemeral_context(context: bytes) -> bytes:
    """Apart from the registration of keys, so that neither proof serves as the other."""
    return hash_parts("dealing-ephemeral", context)


@lru_cache(maxsize=64)
def _compute_binomials(point: int, count: int) -> tuple[Scalar, ...]:
    """binomial(point, i) for i below count."""
    return tuple(Scalar(value % ORDER) for value in islice(_generate_binomials(point), count))


def _generate_binomials(point: int) -> Iterator[int]:
    """binomial(point, 0), binomial(point, 1) … up to the last one that is not zero."""
    value = 1
    for index in range(point + 1):
        yield value
        value = value * (point - index) // (index + 1)


def _combine_binomials(slots: Sequence[int], weights: Sequence[int], count: int) -> list[Scalar]:
    """For each i below count: the sum over the slots of weight * binomial(slot + 1, i)."""
    columns = [Scalar(0)] * count
    for slot, weight in zip(slots, weights, strict=True):
        factor = Scalar(weight)
        for index, value in enumerate(_compute_binomials(slot + 1, count)):
            columns[index] += factor * value
    return columns


def _compute_weight(seed: bytes, kind: str, index: int) -> int:
    return int.from_bytes(hash_parts("batch-" + kind, seed, index.to_bytes(4, "big"))[:WEIGHT_BYTES], "big")


def _hash_batch(commitments: Sequence[Commitments], slots: Sequence[int], shares: Sequence[Sequence[int]]) -> bytes:
    return hash_parts(
        "batch",
        _encode_slots(slots),
        *(b"".join(encoded) for encoded in commitments),
        *(b"".join(encode_scalar(share) for share in row) for row in shares),
    )


def _compute_complaint_challenge(
    public_key: bytes, ephemeral: bytes, shared: bytes, context: bytes, announced: tuple[G1Point, G1Point]
) -> int:
    first, second = announced
    return hash_to_scalar(
        "complaint", public_key, ephemeral, shared, context, first.to_compressed_bytes(), second.to_compressed_bytes()
    )
