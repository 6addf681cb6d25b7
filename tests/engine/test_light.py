"""The light client's rules, each valid, broken and at its edge."""

from __future__ import annotations

import hashlib

import pytest
from light_chain import (
    RULES,
    SECOND,
    START,
    change,
    change_vote,
    list_validators,
    load_recorded,
    make_block,
    make_key,
    make_set,
    refuses,
    verify,
)
from nacl import bindings

from paceline.base.keys import AccountKey, verify_signature
from paceline.engine.light import TrustRules
from paceline.engine.light_blocks import (
    ABSENT,
    FOR_BLOCK,
    FOR_NIL,
    MAX_TOTAL_POWER,
    BlockId,
    check_light_block,
    compute_validators_hash,
)
from paceline.engine.light_votes import compute_vote_bytes, is_signed_for_engine_only, verify_votes

FOUR = make_set([10, 10, 10, 10])
RECORDED = load_recorded()
RECORDED_NOW = RECORDED[-1].header.unix_nanoseconds // 1_000_000 + 1
# A point of order eight: added to a signature's first half it escapes the engine's equation, not libsodium's.
ORDER_EIGHT = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")


def test_next_block_is_accepted():
    verify(make_block(5, FOUR), make_block(6, FOUR))


@pytest.mark.parametrize(("signed", "missing"), [(667, 333), (20_001, 10_000), (1, 0)])
def test_boundary_just_over_two_thirds_is_enough(signed, missing):
    members = make_set([signed, missing] if missing else [signed])
    kinds = [FOR_BLOCK, ABSENT] if missing else [FOR_BLOCK]
    verify(make_block(5, members), make_block(6, members, kinds=kinds))


@pytest.mark.parametrize(("signed", "missing"), [(2, 1), (666, 333), (20_000, 10_000), (1, 1)])
def test_invalid_exactly_two_thirds_is_not_enough(signed, missing):
    members = make_set([signed, missing])
    with refuses("not-enough-power"):
        verify(make_block(5, members), make_block(6, members, kinds=[FOR_BLOCK, ABSENT]))


def test_invalid_votes_for_nil_do_not_count():
    block = make_block(6, FOUR, kinds=[FOR_BLOCK, FOR_BLOCK, FOR_NIL, FOR_NIL])
    with refuses("not-enough-power"):
        verify(make_block(5, FOUR), block)
    verify(make_block(5, FOUR), make_block(6, FOUR, kinds=[FOR_BLOCK, FOR_BLOCK, FOR_BLOCK, FOR_NIL]))


def test_votes_for_nil_are_verified_and_not_returned():
    block = make_block(6, FOUR, kinds=[FOR_BLOCK, FOR_NIL, ABSENT, FOR_BLOCK])
    assert verify_votes(block) == [block.validators[0], block.validators[3]]


def test_too_little_power_on_paper_is_told_before_any_signature_is_looked_at():
    bad = change_vote(make_block(9, FOUR, kinds=[FOR_BLOCK, ABSENT, ABSENT, ABSENT]), 0, signature=bytes(64))
    with refuses("not-enough-trusted-power"):
        verify(make_block(5, FOUR), bad)
    adjacent = change_vote(make_block(6, FOUR, kinds=[FOR_BLOCK, ABSENT, ABSENT, ABSENT]), 0, signature=bytes(64))
    with refuses("not-enough-power"):
        verify(make_block(5, FOUR), adjacent)


def test_a_set_that_the_trusted_header_names_is_accepted_though_nobody_stayed():
    others = make_set([5, 5, 5], first=20)
    verify(make_block(5, FOUR, others), make_block(6, others))


def test_invalid_next_set_that_the_trusted_header_does_not_name():
    with refuses("validators-mismatch"):
        verify(make_block(5, FOUR), make_block(6, make_set([10, 10, 10, 11])))


@pytest.mark.parametrize(("stayed", "left"), [(334, 666), (10_001, 20_000)])
def test_boundary_just_over_a_third_of_trusted_power_is_enough(stayed, left):
    trusted = make_block(5, make_set([stayed, left]))
    verify(trusted, _stay(stayed))


@pytest.mark.parametrize(("stayed", "left"), [(333, 666), (1, 2), (10_000, 20_000)])
def test_invalid_exactly_a_third_of_trusted_power_is_not_enough(stayed, left):
    trusted = make_block(5, make_set([stayed, left]))
    with refuses("not-enough-trusted-power"):
        verify(trusted, _stay(stayed))


def _stay(power):
    """Height 9 with key 1 as before and fresh keys; all signed."""
    return make_block(9, {make_key(1): power, make_key(30): power})


def test_invalid_power_counts_as_it_was_not_as_the_new_set_says():
    trusted = make_block(5, make_set([333, 667]))
    with refuses("not-enough-trusted-power"):
        verify(trusted, make_block(9, {make_key(1): 10**9, make_key(30): 1}))


def test_invalid_trusted_third_without_two_thirds_of_the_new_set():
    trusted = make_block(5, make_set([10]))
    with refuses("not-enough-power"):
        verify(trusted, make_block(9, {make_key(1): 20, make_key(30): 10}, kinds=[FOR_BLOCK, ABSENT]))


def test_invalid_forged_set_without_a_trusted_signer():
    forged = make_block(9, make_set([1000], first=40))
    with refuses("not-enough-trusted-power"):
        verify(make_block(5, FOUR), forged)


def test_invalid_forged_set_that_lists_trusted_keys_without_their_signatures():
    members = {**FOUR, make_key(40): 10**6}
    block = make_block(9, members)
    mine = block.commit.votes[4].signature
    for index in range(4):
        block = change_vote(block, index, signature=mine)
    with refuses("bad-signature"):
        verify(make_block(5, FOUR), block)
    absent = make_block(9, members, kinds=[ABSENT] * 4 + [FOR_BLOCK])
    with refuses("not-enough-trusted-power"):
        verify(make_block(5, FOUR), absent)


def test_invalid_vote_of_another_in_its_place():
    block = make_block(6, FOUR)
    votes = list(block.commit.votes)
    doubled = change(block, commit=change(block.commit, votes=(votes[0], votes[0], *votes[2:])))
    with refuses("bad-signature"):
        verify(make_block(5, FOUR), doubled)
    hidden = change_vote(block, 1, signature=votes[0].signature)
    with refuses("bad-signature"):
        verify(make_block(5, FOUR), hidden)


def test_invalid_validator_twice_in_a_set():
    validators = (*list_validators(FOUR), list_validators(FOUR)[0])
    block = make_block(6, FOUR, validators_hash=compute_validators_hash(validators))
    votes = (*block.commit.votes, block.commit.votes[0])
    doubled = change(block, validators=validators, commit=change(block.commit, votes=votes))
    with refuses("malformed"):
        verify(make_block(5, FOUR), doubled)


@pytest.mark.parametrize("kind", [FOR_BLOCK, FOR_NIL])
def test_invalid_tampered_time_of_a_vote(kind):
    block = make_block(6, FOUR, kinds=[FOR_BLOCK, FOR_BLOCK, FOR_BLOCK, kind])
    time = block.commit.votes[3].unix_nanoseconds
    with refuses("bad-signature"):
        verify(make_block(5, FOUR), change_vote(block, 3, unix_nanoseconds=time + 1))


def test_invalid_round_parts_or_chain_that_were_not_signed():
    trusted, block = make_block(5, FOUR), make_block(6, FOUR)
    commit = block.commit
    with refuses("bad-signature"):
        verify(trusted, change(block, commit=change(commit, round_number=1)))
    with refuses("bad-signature"):
        verify(trusted, change(block, commit=change(commit, block_id=change(commit.block_id, parts_total=2))))
    elsewhere = make_block(6, FOUR, chain_id="other")
    votes = make_block(6, FOUR).commit.votes
    with refuses("bad-signature"):
        verify(make_block(5, FOUR, chain_id="other"), change(elsewhere, commit=change(elsewhere.commit, votes=votes)))


def test_invalid_reordered_validators_and_votes():
    block = make_block(6, FOUR)
    with refuses("validators-mismatch"):
        verify(make_block(5, FOUR), change(block, validators=block.validators[::-1]))
    with refuses("bad-signature"):
        verify(make_block(5, FOUR), change(block, commit=change(block.commit, votes=block.commit.votes[::-1])))


def sign_for_engine_only(key: AccountKey, message: bytes) -> bytes:
    """A signature by the key's own holder that only an equation times eight accepts."""
    hashed = bytearray(hashlib.sha512(key.secret).digest()[:32])
    hashed[0] &= 248
    hashed[31] = hashed[31] & 127 | 64
    reduce, core = bindings.crypto_core_ed25519_scalar_reduce, bindings
    secret, blind = reduce(bytes(hashed) + bytes(32)), reduce(hashlib.sha512(b"blind" + message).digest())
    point = core.crypto_core_ed25519_add(core.crypto_scalarmult_ed25519_base_noclamp(blind), ORDER_EIGHT)
    challenge = reduce(hashlib.sha512(point + key.public_key + message).digest())
    return point + core.crypto_core_ed25519_scalar_add(blind, core.crypto_core_ed25519_scalar_mul(challenge, secret))


def spoil_vote(block, index, key):
    vote = block.commit.votes[index]
    return change_vote(block, index, signature=sign_for_engine_only(key, compute_vote_bytes(block, vote)))


def test_a_signature_that_only_the_engine_accepts_neither_counts_nor_spoils():
    members = make_set([10, 10, 10, 10])
    block = spoil_vote(make_block(6, members), 2, make_key(3))
    vote = block.commit.votes[2]
    assert not verify_signature(make_key(3).public_key, compute_vote_bytes(block, vote), vote.signature)
    assert [validator.public_key for validator in verify_votes(block)] == [
        make_key(index).public_key for index in (1, 2, 4)
    ]
    verify(make_block(5, members), block)


def test_invalid_block_that_needs_signatures_only_the_engine_accepts():
    block = spoil_vote(spoil_vote(make_block(6, FOUR), 2, make_key(3)), 3, make_key(4))
    with refuses("not-enough-power"):
        verify(make_block(5, FOUR), block)
    skipping = spoil_vote(_stay(334), 0, make_key(1))
    with refuses("not-enough-trusted-power"):
        verify(make_block(5, make_set([334, 666])), skipping)


def test_invalid_signature_for_the_engine_by_nobody():
    key, message = make_key(3), b"message"
    good = sign_for_engine_only(key, message)
    assert is_signed_for_engine_only(key.public_key, message, good)
    assert not is_signed_for_engine_only(key.public_key, b"other", good)
    assert not is_signed_for_engine_only(make_key(4).public_key, message, good)
    assert not is_signed_for_engine_only(key.public_key, message, good[:-1])
    assert not is_signed_for_engine_only(ORDER_EIGHT, message, good)
    order = 2**252 + 27742317777372353535851937790883648493
    grown = int.from_bytes(good[32:], "little") + order
    assert not is_signed_for_engine_only(key.public_key, message, good[:32] + grown.to_bytes(32, "little"))


def test_invalid_commit_for_another_header_or_height():
    block, other = make_block(6, FOUR), make_block(6, FOUR, app_hash=b"b" * 32)
    with refuses("wrong-header"):
        verify(make_block(5, FOUR), change(block, header=other.header))
    with refuses("wrong-height"):
        verify(make_block(5, FOUR), change(block, commit=change(block.commit, height=7)))


def test_invalid_shapes_are_malformed():
    block = make_block(6, FOUR)
    with refuses("malformed"):
        check_light_block(change(block, commit=change(block.commit, votes=block.commit.votes[:3])))
    with refuses("malformed"):
        check_light_block(make_block(6, FOUR, data_hash=b"d" * 31))
    with refuses("malformed"):
        check_light_block(make_block(6, make_set([MAX_TOTAL_POWER, 1])))
    check_light_block(make_block(6, make_set([MAX_TOTAL_POWER - 1, 1])))


@pytest.mark.parametrize("field", [{"address": b"x" * 20}, {"unix_nanoseconds": 1}, {"signature": b"x" * 64}])
def test_invalid_absent_vote_that_carries_something(field):
    block = make_block(6, FOUR, kinds=[FOR_BLOCK, FOR_BLOCK, FOR_BLOCK, ABSENT])
    with refuses("malformed"):
        check_light_block(change_vote(block, 3, **field))


def test_invalid_version_of_the_block_protocol():
    with refuses("unsupported-version"):
        verify(make_block(5, FOUR), make_block(6, FOUR, block_version=12))


def test_invalid_chain():
    with refuses("wrong-chain"):
        verify(make_block(5, FOUR), make_block(6, FOUR, chain_id="made2"))


@pytest.mark.parametrize("height", [4, 5])
def test_invalid_height_that_is_not_later(height):
    with refuses("wrong-height"):
        verify(make_block(5, FOUR), make_block(height, FOUR, unix_nanoseconds=START + 100 * SECOND))


def test_boundary_time_must_grow():
    trusted = make_block(5, FOUR)
    verify(trusted, make_block(6, FOUR, unix_nanoseconds=trusted.header.unix_nanoseconds + 1))
    with refuses("time-not-monotonic"):
        verify(trusted, make_block(6, FOUR, unix_nanoseconds=trusted.header.unix_nanoseconds))


def test_boundary_trusting_period():
    trusted, block = make_block(5, FOUR), make_block(6, FOUR)
    expires = (START + 5 * SECOND) // 1_000_000 + RULES.trusting_period_seconds * 1000
    verify(trusted, block, now=expires - 1)
    with refuses("expired-trust"):
        verify(trusted, block, now=expires)


def test_boundary_header_from_the_future():
    trusted, block = make_block(5, FOUR), make_block(6, FOUR)
    now = (START + 6 * SECOND) // 1_000_000 - RULES.clock_drift_seconds * 1000
    verify(trusted, block, now=now + 1)
    with refuses("from-the-future"):
        verify(trusted, block, now=now)


def test_invalid_rules_cannot_be_made():
    with pytest.raises(AssertionError):
        TrustRules(trusting_period_seconds=0)
    assert BlockId(header_hash=b"", parts_total=0, parts_hash=b"").encode() == b"\x12\x00"
