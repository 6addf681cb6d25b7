"""BLS12-381: an outside vector, one valid form of everything, and every malformed point and scalar refused."""

from __future__ import annotations

import hashlib

import pytest
from py_arkworks_bls12381 import G1Point, G2Point, Scalar

from paceline.base.bls import (
    ORDER,
    EncryptionKey,
    decode_g1,
    decode_g2,
    decode_g2_list,
    decode_scalar,
    encode_g2_list,
    encode_scalar,
    hash_to_scalar,
    multiply_generator,
    sign,
    verify_point_signature,
    verify_possession,
)
from paceline.base.bls_sizes import G1_BYTES, G2_BYTES
from paceline.base.errors import InvalidTransaction

KEY = EncryptionKey.from_secret(b"k" * 32)
# drand's network "quicknet", round 1000: its group key and signature.
DRAND_KEY = (
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb"
    "5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
)
DRAND_SIGNATURE = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"


def find_outside_subgroup(decode, width):
    """Bytes of a point on the curve that lies outside the subgroup."""
    for x in range(1, 100):
        data = bytearray(x.to_bytes(width, "big"))
        data[0] |= 0x80
        try:
            point = decode(bytes(data))
        except ValueError:
            continue
        if not point.is_in_subgroup():
            return bytes(data)
    raise AssertionError("a hundred coordinates must hold a point")


def test_a_signature_of_drand_verifies():
    message = hashlib.sha256((1_000).to_bytes(8, "big")).digest()
    key = decode_g2(bytes.fromhex(DRAND_KEY))
    assert verify_point_signature(key, message, bytes.fromhex(DRAND_SIGNATURE))
    other = hashlib.sha256((1_001).to_bytes(8, "big")).digest()
    assert not verify_point_signature(key, other, bytes.fromhex(DRAND_SIGNATURE))


def test_a_signature_fits_its_key_and_message_only():
    signature = sign(7, b"message")
    assert verify_point_signature(multiply_generator(7), b"message", signature)
    assert not verify_point_signature(multiply_generator(8), b"message", signature)
    assert not verify_point_signature(multiply_generator(7), b"massage", signature)


@pytest.mark.parametrize("scalar", [1, 2, 255, 256, 2**128, ORDER - 1])
def test_the_table_agrees_with_the_library(scalar):
    assert multiply_generator(scalar) == G2Point() * Scalar(scalar)


def test_the_table_reduces_by_the_order():
    assert multiply_generator(ORDER) == G2Point.identity()
    assert multiply_generator(ORDER + 5) == multiply_generator(5)


def test_possession_is_proven_the_same_way_each_time():
    proof = KEY.prove_possession(b"context")
    assert proof == KEY.prove_possession(b"context")
    assert verify_possession(KEY.public_key, b"context", proof)


def test_invalid_possession_of_another_key_context_or_bit():
    proof = KEY.prove_possession(b"context")
    assert not verify_possession(EncryptionKey.from_secret(bytes(32)).public_key, b"context", proof)
    assert not verify_possession(KEY.public_key, b"contexts", proof)
    for place in (0, 31, 32, 63):
        wrong = bytearray(proof)
        wrong[place] ^= 1
        assert not verify_possession(KEY.public_key, b"context", bytes(wrong))


@pytest.mark.parametrize("proof", [b"", bytes(63), bytes(65), bytes(64), b"\xff" * 64])
def test_invalid_possession_malformed(proof):
    assert not verify_possession(KEY.public_key, b"context", proof)


def test_invalid_response_that_is_equal_only_modulo_the_order():
    """A second form of the same proof would be another transaction with the same meaning."""
    response = next(
        value
        for value in (KEY.prove_possession(bytes([salt]))[32:] for salt in range(100))
        if int.from_bytes(value, "big") + ORDER < 2**256
    )
    salt = next(salt for salt in range(100) if KEY.prove_possession(bytes([salt]))[32:] == response)
    proof = KEY.prove_possession(bytes([salt]))
    twin = proof[:32] + (int.from_bytes(response, "big") + ORDER).to_bytes(32, "big")
    assert verify_possession(KEY.public_key, bytes([salt]), proof)
    assert not verify_possession(KEY.public_key, bytes([salt]), twin)


def test_a_key_never_prints_its_secret():
    assert str(KEY.scalar) not in repr(KEY)
    assert KEY.public_key.hex() in repr(KEY)


def test_both_ends_share_one_point():
    other = EncryptionKey.from_secret(b"o" * 32)
    assert KEY.compute_shared_point(decode_g1(other.public_key)) == other.compute_shared_point(
        decode_g1(KEY.public_key)
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(G1_BYTES),
        b"\xff" * G1_BYTES,
        b"\xc0" + bytes(G1_BYTES - 1),
        KEY.public_key[:-1],
        KEY.public_key + b"\0",
        bytes([KEY.public_key[0] & 0x7F]) + KEY.public_key[1:],
        find_outside_subgroup(G1Point.from_compressed_bytes_unchecked, G1_BYTES),
    ],
    ids=["empty", "zeros", "ones", "infinity", "short", "long", "uncompressed", "outside"],
)
def test_invalid_points_of_g1(data):
    with pytest.raises(InvalidTransaction) as caught:
        decode_g1(data)
    assert caught.value.code == "bad-point"
    assert not verify_possession(data, b"context", KEY.prove_possession(b"context"))
    assert not verify_point_signature(multiply_generator(7), b"message", data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(G2_BYTES),
        b"\xff" * G2_BYTES,
        b"\xc0" + bytes(G2_BYTES - 1),
        multiply_generator(3).to_compressed_bytes()[:-1],
        find_outside_subgroup(G2Point.from_compressed_bytes_unchecked, G2_BYTES),
    ],
    ids=["empty", "zeros", "ones", "infinity", "short", "outside"],
)
def test_invalid_points_of_g2(data):
    with pytest.raises(InvalidTransaction) as caught:
        decode_g2(data)
    assert caught.value.code == "bad-point"
    good = multiply_generator(3).to_compressed_bytes()
    with pytest.raises(InvalidTransaction):
        decode_g2_list((good, data))


def test_lists_come_back_as_they_were():
    points = tuple(multiply_generator(scalar) for scalar in range(1, 6))
    encoded = encode_g2_list(points)
    assert decode_g2_list(encoded) == points
    assert tuple(decode_g2(data) for data in encoded) == points


def test_lists_stay_right_when_the_oldest_are_forgotten():
    lists = [(multiply_generator(scalar),) for scalar in range(1, 400)]
    encoded = [encode_g2_list(points) for points in lists]
    assert [decode_g2_list(data) for data in encoded] == lists


def test_invalid_infinity_in_a_list():
    with pytest.raises(InvalidTransaction):
        encode_g2_list((G2Point.identity(),))


def test_scalars_up_to_the_order():
    for scalar in (0, 1, ORDER - 1):
        assert decode_scalar(encode_scalar(scalar)) == scalar


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_invalid_scalars(data):
    with pytest.raises(InvalidTransaction) as caught:
        decode_scalar(data)
    assert caught.value.code == "bad-scalar"


def test_hashed_scalars_keep_their_purposes_apart():
    assert hash_to_scalar("one", b"x") != hash_to_scalar("two", b"x")
    assert 0 <= hash_to_scalar("one", b"x") < ORDER
