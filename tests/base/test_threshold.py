"""Threshold signatures: whoever signs, the bytes are the same; too few cannot; wrong ones are named."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.bls import ORDER, EncryptionKey, hash_to_scalar, multiply_generator, sign
from paceline.base.dealing import Recipient, compute_slot_point, deal, decrypt_shares
from paceline.base.errors import InvalidTransaction
from paceline.base.threshold import (
    BLS_SCHEME,
    aggregate,
    aggregate_commitments,
    combine,
    compute_group_key,
    compute_slot_key,
    compute_slot_secret,
    sign_partial,
    verify_group_signature,
    verify_partial,
    verify_partials,
)

MESSAGE = b"height 5"
MEMBERS = 4
EACH = 2
SLOTS = MEMBERS * EACH
THRESHOLD = SLOTS // 2 + 1
KEYS = [EncryptionKey.from_secret(bytes([index]) * 32) for index in range(MEMBERS)]
OWNED = [tuple(range(EACH * index, EACH * (index + 1))) for index in range(MEMBERS)]
RECIPIENTS = [Recipient(bytes([index]) * 20, KEYS[index].public_key, OWNED[index]) for index in range(MEMBERS)]
DEALINGS = [deal(bytes([index]) * 32, THRESHOLD, RECIPIENTS, b"dealer %d" % index) for index in range(MEMBERS)]
GROUP = aggregate_commitments([dealing.commitments for dealing in DEALINGS])
KEY = compute_group_key(GROUP)


def open_slot_secrets(member):
    opened = [
        decrypt_shares(
            KEYS[member],
            dealing.ephemeral,
            b"dealer %d" % dealer,
            OWNED[member],
            dealing.shares[RECIPIENTS[member].address],
        )
        for dealer, dealing in enumerate(DEALINGS)
    ]
    return {slot: compute_slot_secret(shares[place] for shares in opened) for place, slot in enumerate(OWNED[member])}


SECRETS = {slot: secret for member in range(MEMBERS) for slot, secret in open_slot_secrets(member).items()}
PARTIALS = {slot: sign_partial(secret, MESSAGE) for slot, secret in SECRETS.items()}
SIGNATURE = combine(PARTIALS, THRESHOLD)


def test_any_threshold_of_slots_signs_the_same_bytes():
    for slots in combinations(range(SLOTS), THRESHOLD):
        assert combine({slot: PARTIALS[slot] for slot in slots}, THRESHOLD) == SIGNATURE
    assert verify_group_signature(KEY, MESSAGE, SIGNATURE)


def test_invalid_signature_of_one_slot_too_few():
    few = {slot: PARTIALS[slot] for slot in range(THRESHOLD - 1)}
    with pytest.raises(InvalidTransaction) as caught:
        combine(few, THRESHOLD)
    assert caught.value.code == "too-few-partials"
    for slots in combinations(range(SLOTS), THRESHOLD - 1):
        forged = combine({slot: PARTIALS[slot] for slot in slots}, THRESHOLD - 1)
        assert not verify_group_signature(KEY, MESSAGE, forged)


def test_threshold_one_and_all():
    for threshold in (1, SLOTS):
        dealing = deal(b"s" * 32, threshold, RECIPIENTS, b"edge")
        secrets = {}
        for member in range(MEMBERS):
            ciphertexts = dealing.shares[RECIPIENTS[member].address]
            shares = decrypt_shares(KEYS[member], dealing.ephemeral, b"edge", OWNED[member], ciphertexts)
            secrets |= dict(zip(OWNED[member], shares, strict=True))
        partials = {slot: sign_partial(secret, MESSAGE) for slot, secret in secrets.items()}
        assert verify_group_signature(dealing.commitments[0], MESSAGE, combine(partials, threshold))


def test_the_group_signs_with_the_sum_of_what_was_dealt():
    """The secret that no node ever holds, put together here: it signs the very same bytes."""
    secret = 0
    for slot in range(THRESHOLD):
        factor = SECRETS[slot]
        for other in range(THRESHOLD):
            if other != slot:
                factor = factor * (other + 1) * pow(other - slot, -1, ORDER) % ORDER
        secret += factor
    assert multiply_generator(secret).to_compressed_bytes() == KEY
    assert sign(secret % ORDER, MESSAGE) == SIGNATURE


def test_each_partial_verifies_for_its_slot_and_message_only():
    for slot, partial in PARTIALS.items():
        assert verify_partial(GROUP, slot, MESSAGE, partial)
        assert verify_group_signature(compute_slot_key(GROUP, slot), MESSAGE, partial)
        assert not verify_partial(GROUP, (slot + 1) % SLOTS, MESSAGE, partial)
        assert not verify_partial(GROUP, slot, b"height 10", partial)
    assert verify_partials(GROUP, MESSAGE, PARTIALS)
    assert verify_partials(GROUP, MESSAGE, {})


def test_invalid_partials_that_take_each_other_back():
    """Swapped partials have the right sum; only weights tell them from right ones."""
    swapped = {**PARTIALS, 0: PARTIALS[1], 1: PARTIALS[0]}
    assert not verify_partials(GROUP, MESSAGE, swapped)
    assert not verify_partials(GROUP, b"height 10", PARTIALS)


@pytest.mark.parametrize("slot", [-1, 1_024, 2**40])
def test_invalid_slots(slot):
    assert not verify_partial(GROUP, slot, MESSAGE, PARTIALS[0])
    assert not verify_partials(GROUP, MESSAGE, {slot: PARTIALS[0]})


@settings(max_examples=25)
@given(st.one_of(st.binary(max_size=60), st.binary(min_size=48, max_size=48)))
def test_invalid_bytes_are_false(data):
    assert not verify_partial(GROUP, 0, MESSAGE, data)
    assert not verify_partials(GROUP, MESSAGE, {**PARTIALS, 0: data})
    assert not verify_group_signature(KEY, MESSAGE, data)
    assert not verify_group_signature(data, MESSAGE, SIGNATURE)


def test_invalid_infinity_signs_nothing():
    infinity = b"\xc0" + bytes(47)
    assert not verify_group_signature(b"\xc0" + bytes(95), MESSAGE, infinity)
    with pytest.raises(InvalidTransaction) as caught:
        combine({**PARTIALS, 0: infinity}, THRESHOLD)
    assert caught.value.code == "bad-point"


def test_a_wrong_partial_spoils_the_signature_and_is_found():
    spoilt = {**PARTIALS, 2: sign_partial(SECRETS[2] + 1, MESSAGE)}
    assert not verify_group_signature(KEY, MESSAGE, combine(spoilt, THRESHOLD))
    assert not verify_partials(GROUP, MESSAGE, spoilt)
    wrong = [slot for slot in spoilt if not verify_partial(GROUP, slot, MESSAGE, spoilt[slot])]
    assert wrong == [2]
    del spoilt[2]
    assert combine(spoilt, THRESHOLD) == SIGNATURE


def test_dealings_add_up_in_any_order_and_one_by_one():
    assert aggregate_commitments([dealing.commitments for dealing in reversed(DEALINGS)]) == GROUP
    step = None
    for dealing in DEALINGS:
        step = aggregate(step, dealing.commitments)
    assert step == GROUP
    assert aggregate(None, DEALINGS[0].commitments) == DEALINGS[0].commitments


def test_invalid_sum_of_two_thresholds():
    other = deal(bytes(32), THRESHOLD - 1, RECIPIENTS, b"other")
    with pytest.raises(InvalidTransaction) as caught:
        aggregate(GROUP, other.commitments)
    assert caught.value.code == "wrong-threshold"


def test_invalid_sum_at_infinity():
    """Two dealers who take each other back would leave a group whose signature is known to everybody."""
    there = tuple(multiply_generator(5 + index).to_compressed_bytes() for index in range(3))
    back = tuple(multiply_generator(-5 - index).to_compressed_bytes() for index in range(3))
    with pytest.raises(InvalidTransaction) as caught:
        aggregate(there, back)
    assert caught.value.code == "bad-point"


@pytest.mark.parametrize("threshold", [1, 2, 33])
def test_the_table_of_slot_keys_agrees_with_its_plain_twin(threshold):
    """Across the borders of stretches, forwards and backwards."""
    coefficients = [hash_to_scalar("table", bytes([index])) for index in range(threshold)]
    group = tuple(multiply_generator(value).to_compressed_bytes() for value in coefficients)
    for slot in (70, 0, 31, 32, 33, 63, 64, 1_023):
        assert compute_slot_key(group, slot) == compute_slot_point(group, slot).to_compressed_bytes()


@settings(max_examples=15)
@given(st.permutations(range(SLOTS)), st.integers(THRESHOLD, SLOTS))
def test_the_order_in_which_partials_arrive_changes_nothing(order, count):
    arrived = {slot: PARTIALS[slot] for slot in order[:count]}
    assert combine(arrived, THRESHOLD) == SIGNATURE


def test_the_scheme_is_made_of_these_functions():
    assert BLS_SCHEME.combine(PARTIALS, THRESHOLD) == SIGNATURE
    assert BLS_SCHEME.compute_group_key(BLS_SCHEME.aggregate(None, GROUP)) == KEY
    assert BLS_SCHEME.verify_group_signature(KEY, MESSAGE, SIGNATURE)
    assert BLS_SCHEME.verify_partial(GROUP, 0, MESSAGE, PARTIALS[0])
    assert BLS_SCHEME.verify_partials(GROUP, MESSAGE, PARTIALS)
