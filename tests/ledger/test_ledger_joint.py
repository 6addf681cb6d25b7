"""Joint accounts: as many keys as the policy says move them, fewer or others never, and plain transactions keep their bytes."""

from __future__ import annotations

import pytest
from account_chain import FUND, TO, AccountChain, make_keys, make_policy, seal_joint
from chain_harness import MODEL
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey, compute_address
from paceline.ledger.accounts import get_account
from paceline.ledger.admission import compute_transaction_hash, signed_bytes
from paceline.ledger.joint import require_signatures
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import decode, encode
from paceline.protocol.joint import MAX_KEYS, JointSignature, JointTransaction, Policy, joint_signed_bytes
from paceline.protocol.openings import OpenSession

PAY = m.Transfer(TO, 500)
BODY = encode(t.TransactionBody(chain_id="test", sequence=0, expires_at=9, message=PAY))

# Recorded before there were joint accounts.
PINNED_BODY, PINNED_HASH = "79e019ce1383d148", "c7cc9151db0911ba"


@pytest.fixture(scope="module")
def chain():
    return AccountChain()


def refuse(envelope):
    with pytest.raises(InvalidTransaction) as refused:
        require_signatures(decode(JointTransaction, encode(envelope), limit_bytes=10**6))
    return refused.value.code


def test_two_of_three_keys_move_a_joint_account_and_it_pays_the_fee(chain):
    before, had = chain.balance(TO), chain.balance(chain.policy.address)
    sequence = get_account(chain.state, chain.policy.address).sequence
    for offset, signers in enumerate(([0, 1], [0, 2], [1, 2])):
        data = chain.sign_joint(PAY, [chain.signers[index] for index in signers], sequence=sequence + offset)
        assert chain.give(data) == "ok"
    chain.block()
    assert chain.balance(TO) == before + 3 * PAY.amount
    assert chain.balance(chain.policy.address) == had - 3 * (PAY.amount + chain.params.transfer_fee)
    account = get_account(chain.state, chain.policy.address)
    assert account.sequence == sequence + 3
    assert all(get_account(chain.state, key.address).sequence == 0 for key in chain.signers)


def test_sequence_replay_expiry_and_chain_are_ruled_alike(chain):
    sequence = get_account(chain.state, chain.policy.address).sequence
    ordered, unordered = chain.sign_joint(PAY, sequence=sequence), chain.sign_joint(PAY)
    assert [chain.give(data) for data in (ordered, unordered)] == ["ok", "ok"]
    chain.block()
    assert (chain.give(ordered), chain.give(unordered)) == ("wrong-sequence", "replayed")
    # The same body under other signatures of the policy is the same transaction.
    body = t.decode_transaction(unordered)[0].body
    assert chain.give(seal_joint(chain.policy, chain.signers[1:], body)) == "replayed"
    assert chain.give(chain.sign_joint(PAY, expires_at=chain.height)) == "expired"
    late = chain.sign_joint(PAY, expires_at=chain.height, sequence=sequence + 1)
    assert chain.give(late) == "expired"
    assert chain.give(chain.sign_joint(PAY, expires_at=chain.height + 5_000)) == "far-expiry"
    assert chain.give(chain.sign_joint(PAY, chain_id="other-chain")) == "wrong-chain"
    assert chain.give(chain.sign_joint(m.Transfer(TO, FUND))) == "over-balance"
    assert chain.give(chain.sign_joint(m.CommitSeed(0, bytes(32)))) == "not-a-node"


def test_invalid_sessions_of_a_joint_account(chain):
    opening = OpenSession(chain.keys[0].address, MODEL, 10**9)
    assert chain.give(chain.sign_joint(opening)) == "needs-one-key"


def test_invalid_policies():
    keys = make_keys(3)
    text = [key.public_key for key in keys]
    for policy in (
        Policy(2, tuple(reversed(text))),
        Policy(2, (text[0], text[0], text[1])),
        Policy(4, tuple(text)),
    ):
        assert refuse(JointTransaction(BODY, policy, (JointSignature(0, bytes(64)),))) == "bad-policy"


def test_invalid_signatures():
    keys = make_keys(3)
    policy = make_policy(keys, 2)
    first, second, third = t.decode_transaction(seal_joint(policy, keys, BODY))[0].signatures
    stranger = AccountKey.from_secret(b"o" * 32)
    text = joint_signed_bytes(policy.address, BODY)
    for signatures, code in (
        ((first,), "wrong-count"),
        ((first, second, third), "wrong-count"),
        ((second, first), "wrong-order"),
        ((first, first), "wrong-order"),
        ((first, JointSignature(3, third.signature)), "bad-signature"),
        ((first, JointSignature(2, second.signature)), "bad-signature"),
        ((first, JointSignature(1, stranger.sign(text))), "bad-signature"),
        ((first, JointSignature(1, keys[1].sign(signed_bytes(BODY)))), "bad-signature"),
    ):
        assert refuse(JointTransaction(BODY, policy, signatures)) == code
    require_signatures(JointTransaction(BODY, policy, (first, third)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exactly_the_threshold_of_distinct_keys_is_taken(data):
    count = data.draw(st.integers(2, 6))
    keys = make_keys(count)
    policy = make_policy(keys, data.draw(st.integers(1, count)))
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count + 1))
    envelope = t.decode_transaction(seal_joint(policy, [keys[place] for place in places], BODY))[0]
    fits = len(places) == policy.threshold and places == sorted(set(places))
    if fits:
        require_signatures(envelope)
        return
    assert refuse(envelope) in {"wrong-count", "wrong-order"}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_passes(place, flip):
    keys = make_keys(3)
    data = bytearray(seal_joint(make_policy(keys, 2), keys[:2], BODY))
    data[place % len(data)] ^= flip
    with pytest.raises(InvalidTransaction):
        require_signatures(t.decode_transaction(bytes(data))[0])


def test_the_address_is_that_of_this_policy_and_of_no_key():
    keys = make_keys(4)
    addresses = {make_policy(keys, threshold).address for threshold in range(1, 5)}
    addresses |= {make_policy(keys[:count], 2).address for count in (2, 3)}
    addresses |= {key.address for key in keys}
    assert len(addresses) == 4 + 2 + 4
    policy = make_policy(keys, 2)
    assert policy.address != compute_address(encode(policy)) and len(policy.address) == 20


@pytest.mark.parametrize("count", [1, MAX_KEYS + 1])
def test_invalid_numbers_of_keys_do_not_decode(count):
    policy = Policy(1, tuple(key.public_key for key in make_keys(count)))
    with pytest.raises(InvalidTransaction) as refused:
        t.decode_transaction(encode(JointTransaction(BODY, policy, (JointSignature(0, bytes(64)),))))
    assert refused.value.code == "malformed"


def test_invalid_forms_of_a_joint_transaction():
    keys = make_keys(2)
    data = seal_joint(make_policy(keys, 2), keys, BODY)
    assert data[0] == 0x94
    for damaged, code in (
        (b"\xdc\x00\x04" + data[1:], "malformed"),
        (b"\x94\xd9\x05" + data[2:], "non-canonical"),
        (b"\x94" + data[1:] + b"\x00", "malformed"),
        (b"\x94\xa5plain" + data[7:], "malformed"),
        (b"\x94", "malformed"),
    ):
        with pytest.raises(InvalidTransaction) as refused:
            t.decode_transaction(damaged)
        assert refused.value.code == code, damaged[:8]


def test_transactions_of_one_key_keep_their_bytes_and_hashes():
    key = AccountKey.from_secret(b"k" * 32)
    data = encode(t.Transaction(BODY, key.public_key, key.sign(signed_bytes(BODY))))
    assert (data[0], BODY[0]) == (0x93, 0x94)
    assert hash_parts("pinned", BODY).hex()[:16] == PINNED_BODY
    assert compute_transaction_hash(data).hex()[:16] == PINNED_HASH
