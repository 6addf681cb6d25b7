"""Dealings: shares open and verify, a tampered one is found, shown to outsiders, and never laid at an honest door."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, G2Point, Scalar

from paceline.base.bls import ORDER, EncryptionKey, decode_g1, hash_to_scalar, multiply_generator
from paceline.base.dealing import (
    Complaint,
    Recipient,
    check_commitments,
    check_ephemeral,
    deal,
    decrypt_shares,
    find_bad_dealings,
    judge_share,
    judge_shares,
    prove_complaint,
    verify_complaint,
    verify_share,
    verify_shares_batched,
)
from paceline.base.errors import InvalidTransaction

THRESHOLD = 6
KEYS = [EncryptionKey.from_secret(bytes([index]) * 32) for index in range(5)]
# The third member owns slots of two runs, the last none at all.
SLOTS = [(0, 1), (2, 3, 4), (5, 9), (6, 7, 8), ()]
RECIPIENTS = [Recipient(bytes([index]) * 20, KEYS[index].public_key, SLOTS[index]) for index in range(5)]
CONTEXTS = [b"ceremony 1 dealer %d" % dealer for dealer in range(4)]
DEALINGS = [deal(bytes([dealer]) * 32, THRESHOLD, RECIPIENTS, CONTEXTS[dealer]) for dealer in range(4)]


def open_shares(member, dealer, dealing=None):
    dealing = dealing or DEALINGS[dealer]
    return decrypt_shares(
        KEYS[member], dealing.ephemeral, CONTEXTS[dealer], SLOTS[member], dealing.shares[RECIPIENTS[member].address]
    )


def tamper(dealing, member, place=0, byte=31):
    """The dealing with one bit of one ciphertext changed."""
    address = RECIPIENTS[member].address
    shares = [bytearray(share) for share in dealing.shares[address]]
    shares[place][byte] ^= 1
    return replace(dealing, shares={**dealing.shares, address: tuple(map(bytes, shares))})


def interpolate(values):
    """The value at slot -1, that is f(0), from values by slot: the plain formula."""
    total = 0
    for slot, value in values.items():
        factor = value
        for other in values:
            if other != slot:
                factor = factor * (other + 1) * pow(other - slot, -1, ORDER) % ORDER
        total += factor
    return total % ORDER


def test_every_share_opens_and_fits_the_commitments():
    for dealer, dealing in enumerate(DEALINGS):
        assert len(dealing.commitments) == THRESHOLD
        for member in range(4):
            shares = open_shares(member, dealer)
            assert len(shares) == len(SLOTS[member])
            assert all(
                verify_share(dealing.commitments, slot, share)
                for slot, share in zip(SLOTS[member], shares, strict=True)
            )
        assert open_shares(4, dealer) == ()


def test_threshold_shares_give_the_secret_and_one_less_does_not():
    shares = dict(pair for member in range(4) for pair in zip(SLOTS[member], open_shares(member, 0), strict=True))
    for slots in (range(6), range(4, 10), (0, 2, 4, 6, 8, 9)):
        secret = interpolate({slot: shares[slot] for slot in slots})
        assert multiply_generator(secret).to_compressed_bytes() == DEALINGS[0].commitments[0]
    short = interpolate({slot: shares[slot] for slot in range(5)})
    assert multiply_generator(short).to_compressed_bytes() != DEALINGS[0].commitments[0]


def test_shares_are_values_of_the_committed_polynomial():
    """Against the definition: f(x) is the sum of binomial(x, i) times coefficient i, the points their images."""
    coefficients = [hash_to_scalar("test", bytes([index])) for index in range(THRESHOLD)]
    commitments = tuple(multiply_generator(value).to_compressed_bytes() for value in coefficients)
    for slot in range(20):
        value = sum(comb(slot + 1, index) * coefficient for index, coefficient in enumerate(coefficients)) % ORDER
        assert verify_share(commitments, slot, value)
        assert not verify_share(commitments, slot + 1, value)


def test_a_restarted_dealer_deals_the_same():
    again = deal(bytes([1]) * 32, THRESHOLD, RECIPIENTS, CONTEXTS[1])
    assert again == DEALINGS[1]


@pytest.mark.parametrize(
    "other",
    [
        deal(bytes([2]) * 32, THRESHOLD, RECIPIENTS, CONTEXTS[1]),
        deal(bytes([1]) * 32, THRESHOLD - 1, RECIPIENTS, CONTEXTS[1]),
        deal(bytes([1]) * 32, THRESHOLD, RECIPIENTS[:4], CONTEXTS[1]),
        deal(bytes([1]) * 32, THRESHOLD, RECIPIENTS, CONTEXTS[2]),
    ],
    ids=["secret", "threshold", "recipients", "context"],
)
def test_other_arguments_share_nothing_with_the_first_dealing(other):
    assert not set(other.commitments) & set(DEALINGS[1].commitments)
    assert other.ephemeral != DEALINGS[1].ephemeral


def test_a_share_is_closed_to_other_members_and_other_contexts():
    dealing = DEALINGS[0]
    ciphertexts = dealing.shares[RECIPIENTS[0].address]
    for key, context in ((KEYS[1], CONTEXTS[0]), (KEYS[0], CONTEXTS[1])):
        shares = decrypt_shares(key, dealing.ephemeral, context, SLOTS[0], ciphertexts)
        assert not any(
            verify_share(dealing.commitments, slot, share) for slot, share in zip(SLOTS[0], shares, strict=True)
        )


def test_invalid_recipient_key():
    with pytest.raises(InvalidTransaction) as caught:
        deal(bytes(32), 1, [Recipient(b"a", b"\xc0" + bytes(47), (0,))], b"context")
    assert caught.value.code == "bad-point"


@pytest.mark.parametrize(("threshold", "slots"), [(0, (0, 1)), (3, (0, 1)), (1, (0, 0)), (1, (-1, 0)), (1, (0, 1_024))])
def test_invalid_arguments_are_our_own_bug(threshold, slots):
    with pytest.raises(AssertionError):
        deal(bytes(32), threshold, [Recipient(b"a", KEYS[0].public_key, slots)], b"context")


def test_a_batch_passes_when_every_share_does():
    for member in range(5):
        shares = [open_shares(member, dealer) for dealer in range(4)]
        assert verify_shares_batched([dealing.commitments for dealing in DEALINGS], SLOTS[member], shares)
    assert verify_shares_batched([], SLOTS[0], [])


@settings(max_examples=30)
@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.integers(1, ORDER - 1), max_size=4))
def test_a_batch_finds_whatever_was_changed(changes):
    shares = [list(open_shares(3, dealer)) for dealer in range(4)]
    for (dealer, place), change in changes.items():
        shares[dealer][place] = (shares[dealer][place] + change) % ORDER
    commitments = [dealing.commitments for dealing in DEALINGS]
    bad = tuple(sorted({dealer for dealer, _ in changes}))
    assert verify_shares_batched(commitments, SLOTS[3], shares) == (not changes)
    assert find_bad_dealings(commitments, SLOTS[3], shares) == bad


def test_invalid_errors_that_take_each_other_back_are_found():
    """Without weights two dealers, or one over two slots, could let their errors add up to nothing."""
    commitments = [dealing.commitments for dealing in DEALINGS]
    for places in (((0, 0), (1, 0)), ((0, 0), (0, 1))):
        shares = [list(open_shares(3, dealer)) for dealer in range(4)]
        for (dealer, place), change in zip(places, (1, -1), strict=True):
            shares[dealer][place] += change
        assert not verify_shares_batched(commitments, SLOTS[3], shares)


def test_invalid_share_that_is_no_scalar():
    share = open_shares(0, 0)[0]
    assert not verify_share(DEALINGS[0].commitments, 0, share + ORDER)
    assert not verify_share(DEALINGS[0].commitments, 0, -1)
    assert not verify_shares_batched([DEALINGS[0].commitments], [0], [[share + ORDER]])


def test_invalid_slot_beyond_the_table():
    assert not verify_share(DEALINGS[0].commitments, -1, 1)
    assert not verify_share(DEALINGS[0].commitments, 1_024, 1)


def test_invalid_batch_of_two_thresholds():
    """Also when one is as much too long as another is too short."""
    short, right, long = (
        deal(bytes(32), threshold, RECIPIENTS, b"other").commitments
        for threshold in range(THRESHOLD - 1, THRESHOLD + 2)
    )
    for commitments in ([right, short], [right, short, long]):
        with pytest.raises(InvalidTransaction) as caught:
            verify_shares_batched(commitments, [0], [[1]] * len(commitments))
        assert caught.value.code == "wrong-threshold"


@pytest.mark.parametrize("byte", [0, 31])
def test_a_tampered_share_is_found_and_shown_to_outsiders(byte):
    dealing = tamper(DEALINGS[0], 1, byte=byte)
    shares = open_shares(1, 0, dealing)
    assert find_bad_dealings([dealing.commitments], SLOTS[1], [shares]) == (0,)
    complaint = prove_complaint(KEYS[1], dealing.ephemeral, CONTEXTS[0])
    # From here on with public data only.
    ciphertexts = dealing.shares[RECIPIENTS[1].address]
    assert verify_complaint(KEYS[1].public_key, dealing.ephemeral, CONTEXTS[0], complaint)
    found = [
        judge_share(dealing.commitments, ciphertext, complaint.shared_point, CONTEXTS[0], slot)
        for slot, ciphertext in zip(SLOTS[1], ciphertexts, strict=True)
    ]
    assert found == [False, True, True]
    assert not judge_shares(dealing.commitments, ciphertexts, complaint.shared_point, CONTEXTS[0], SLOTS[1])


def test_an_honest_dealer_cannot_be_denounced():
    dealing = DEALINGS[0]
    complaint = prove_complaint(KEYS[1], dealing.ephemeral, CONTEXTS[0])
    assert verify_complaint(KEYS[1].public_key, dealing.ephemeral, CONTEXTS[0], complaint)
    for slot, ciphertext in zip(SLOTS[1], dealing.shares[RECIPIENTS[1].address], strict=True):
        assert judge_share(dealing.commitments, ciphertext, complaint.shared_point, CONTEXTS[0], slot)
    ciphertexts = dealing.shares[RECIPIENTS[1].address]
    assert judge_shares(dealing.commitments, ciphertexts, complaint.shared_point, CONTEXTS[0], SLOTS[1])


@pytest.mark.parametrize("place", range(3))
def test_all_shares_at_once_are_judged_as_one_by_one(place):
    dealing = tamper(DEALINGS[0], 1, place)
    point = prove_complaint(KEYS[1], dealing.ephemeral, CONTEXTS[0]).shared_point
    ciphertexts = dealing.shares[RECIPIENTS[1].address]
    assert not judge_shares(dealing.commitments, ciphertexts, point, CONTEXTS[0], SLOTS[1])
    for left, right in ((0, place), (place + 1, 3)):
        part = ciphertexts[left:right], point, CONTEXTS[0], SLOTS[1][left:right]
        assert judge_shares(dealing.commitments, *part)


def test_invalid_complaint_with_another_shared_point():
    """A point made up by the member would decrypt an honest share to nonsense."""
    dealing = DEALINGS[0]
    honest = prove_complaint(KEYS[1], dealing.ephemeral, CONTEXTS[0])
    wrong = prove_complaint(KEYS[2], dealing.ephemeral, CONTEXTS[0]).shared_point
    assert not judge_share(
        dealing.commitments, dealing.shares[RECIPIENTS[1].address][0], wrong, CONTEXTS[0], SLOTS[1][0]
    )
    assert not verify_complaint(KEYS[1].public_key, dealing.ephemeral, CONTEXTS[0], Complaint(wrong, honest.proof))


def test_invalid_complaint_for_another_member_dealing_or_context():
    complaint = prove_complaint(KEYS[1], DEALINGS[0].ephemeral, CONTEXTS[0])
    assert not verify_complaint(KEYS[2].public_key, DEALINGS[0].ephemeral, CONTEXTS[0], complaint)
    assert not verify_complaint(KEYS[1].public_key, DEALINGS[1].ephemeral, CONTEXTS[0], complaint)
    assert not verify_complaint(KEYS[1].public_key, DEALINGS[0].ephemeral, CONTEXTS[1], complaint)


@settings(max_examples=25)
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_invalid_complaints_are_false_and_raise_nothing(point, proof):
    honest = prove_complaint(KEYS[1], DEALINGS[0].ephemeral, CONTEXTS[0])
    for complaint in (Complaint(point, honest.proof), Complaint(honest.shared_point, proof), Complaint(point, proof)):
        assert not verify_complaint(KEYS[1].public_key, DEALINGS[0].ephemeral, CONTEXTS[0], complaint)


def test_invalid_complaint_changed_in_one_bit():
    complaint = prove_complaint(KEYS[1], DEALINGS[0].ephemeral, CONTEXTS[0])
    for place in (0, 31, 32, 63):
        proof = bytearray(complaint.proof)
        proof[place] ^= 1
        assert not verify_complaint(
            KEYS[1].public_key, DEALINGS[0].ephemeral, CONTEXTS[0], complaint._replace(proof=bytes(proof))
        )


@pytest.mark.parametrize("ciphertext", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_invalid_ciphertexts_are_the_dealers_fault(ciphertext):
    complaint = prove_complaint(KEYS[0], DEALINGS[0].ephemeral, CONTEXTS[0])
    assert not judge_share(DEALINGS[0].commitments, ciphertext, complaint.shared_point, CONTEXTS[0], 0)
    assert not judge_shares(DEALINGS[0].commitments, [ciphertext], complaint.shared_point, CONTEXTS[0], [0])
    assert not judge_shares(DEALINGS[0].commitments, [bytes(32)], complaint.shared_point[1:], CONTEXTS[0], [0])


def test_invalid_ciphertext_of_another_length_is_refused_by_its_owner():
    with pytest.raises(InvalidTransaction) as caught:
        decrypt_shares(KEYS[0], DEALINGS[0].ephemeral, CONTEXTS[0], [0], [bytes(31)])
    assert caught.value.code == "bad-share"


def test_commitments_and_ephemeral_keys_of_honest_dealers_pass():
    for dealing, context in zip(DEALINGS, CONTEXTS, strict=True):
        check_commitments(dealing.commitments)
        check_ephemeral(dealing.ephemeral, dealing.ephemeral_proof, context)


@pytest.mark.parametrize("commitments", [(), (b"",), (b"\xc0" + bytes(95),), (*DEALINGS[0].commitments, bytes(96))])
def test_invalid_commitments(commitments):
    with pytest.raises(InvalidTransaction) as caught:
        check_commitments(commitments)
    assert caught.value.code == "bad-point"


def test_invalid_ephemeral_key_of_another_dealer():
    """The attack behind the proof: who deals nonsense under an honest dealer's key reads that dealer's share."""
    victim, honest = 0, DEALINGS[0]
    forced = prove_complaint(KEYS[victim], honest.ephemeral, CONTEXTS[1])
    # With the defence off the complaint against dealer 1 decrypts what dealer 0 sent to the victim …
    assert judge_share(
        honest.commitments, honest.shares[RECIPIENTS[victim].address][0], forced.shared_point, CONTEXTS[0], 0
    )
    # … with it on, dealer 1 cannot publish that key: neither the honest proof nor its own fits.
    for proof in (honest.ephemeral_proof, DEALINGS[1].ephemeral_proof, bytes(64)):
        with pytest.raises(InvalidTransaction) as caught:
            check_ephemeral(honest.ephemeral, proof, CONTEXTS[1])
        assert caught.value.code == "bad-ephemeral"


def test_invalid_ephemeral_key_shifted_from_another():
    shifted = (decode_g1(DEALINGS[0].ephemeral) + G1Point() * Scalar(5)).to_compressed_bytes()
    with pytest.raises(InvalidTransaction):
        check_ephemeral(shifted, DEALINGS[0].ephemeral_proof, CONTEXTS[0])


def test_invalid_registration_proof_as_ephemeral_proof():
    with pytest.raises(InvalidTransaction):
        check_ephemeral(KEYS[0].public_key, KEYS[0].prove_possession(CONTEXTS[0]), CONTEXTS[0])


def test_the_group_law_holds_where_we_rely_on_it():
    """Sums of equal points and with the point at infinity, on which the tables are built."""
    point = multiply_generator(9)
    assert point + point == multiply_generator(18)
    assert point + G2Point.identity() == point
    assert point + -point == G2Point.identity()
