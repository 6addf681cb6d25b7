"""Attacks on accounts of many keys and on grants: too few signatures, borrowed ones, spent twice, used after they ended.

Power: all of them are exact; what an attacker holds is one signer's key, or the granted key itself.
"""

from __future__ import annotations

import msgspec
import pytest
from account_chain import FUND, AccountChain, make_keys, make_policy, seal_joint
from chain_harness import MODEL, PARAMS

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import grants, joint
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode
from paceline.protocol.credits import ReturnCredits, UseCredits
from paceline.protocol.grants import GrantScope, RevokeScope
from paceline.protocol.joint import JointSignature, JointTransaction, Policy, joint_signed_bytes
from paceline.protocol.openings import OpenSession
from paceline.protocol.prices import VotePrice

THIEF = b"t" * 20
LOOT = m.Transfer(THIEF, FUND // 2)
FEE = PARAMS.transfer_fee


@pytest.fixture
def chain():
    return AccountChain()


def steal(chain, data):
    """What the thief has after a proposer put these bytes into a block."""
    found = chain.application.finalize_block(chain.height + 1, [data])
    return 0 if found.results[0].code != "ok" else LOOT.amount


def sign_alone(chain, times=1):
    """The thief holds the first key of the policy and signs with nothing else."""
    return chain.sign_joint(LOOT, [chain.signers[0]] * times)


def count_nothing(envelope):
    if not all(joint.is_signed(envelope.body, envelope.policy, found) for found in envelope.signatures):
        raise InvalidTransaction("bad-signature", "off")


def test_one_signature_too_few_moves_nothing(chain):
    assert chain.give(sign_alone(chain)) == "wrong-count" and steal(chain, sign_alone(chain)) == 0


def test_without_the_count_one_key_moves_everything(chain, monkeypatch):
    monkeypatch.setattr(joint, "require_signatures", count_nothing)
    assert steal(chain, sign_alone(chain)) == LOOT.amount


def test_one_signature_given_twice_counts_once(chain):
    assert chain.give(sign_alone(chain, times=2)) == "wrong-order" and steal(chain, sign_alone(chain, times=2)) == 0


def test_without_the_order_one_key_signs_for_two(chain, monkeypatch):
    monkeypatch.setattr(joint, "_is_rising", lambda _: True)
    assert steal(chain, sign_alone(chain, times=2)) == LOOT.amount


def test_one_key_named_twice_is_no_policy(chain):
    key = chain.signers[0]
    policy = Policy(2, (key.public_key, key.public_key))
    text = joint_signed_bytes(policy.address, body := chain.body(LOOT))
    twice = tuple(JointSignature(place, key.sign(text)) for place in (0, 1))
    assert chain.give(encode(JointTransaction(body, policy, twice))) == "bad-policy"


def swap_policy(chain, threshold):
    weaker = make_policy(chain.signers, threshold)
    return seal_joint(weaker, chain.signers[:threshold], chain.body(LOOT))


def test_a_weaker_policy_of_the_same_keys_is_another_account(chain):
    assert chain.give(swap_policy(chain, 1)) == "over-balance" and steal(chain, swap_policy(chain, 1)) == 0


def test_without_the_threshold_in_the_address_one_key_is_enough(chain, monkeypatch):
    monkeypatch.setattr(
        Policy, "address", property(lambda self: hash_parts("policy-address", *self.keys)[:20]), raising=True
    )
    chain.send(chain.user, m.Transfer(chain.policy.address, FUND))
    chain.block()
    assert steal(chain, swap_policy(chain, 1)) == LOOT.amount


def borrow_signatures(chain):
    """Two honest signers sign for one account; the thief wraps it in the policy of another that has both of them, too."""
    others = sorted([*chain.signers[:2], *make_keys(1, "thief")], key=lambda key: key.public_key)
    rich = make_policy(others, 2)
    chain.send(chain.user, m.Transfer(rich.address, FUND))
    chain.block()
    envelope = t.decode_transaction(chain.sign_joint(LOOT))[0]
    signatures = [
        JointSignature(rich.keys.index(chain.policy.keys[found.place]), found.signature)
        for found in envelope.signatures
    ]
    return encode(JointTransaction(envelope.body, rich, tuple(signatures)))


def test_signatures_for_one_account_do_not_serve_under_another_policy(chain):
    data = borrow_signatures(chain)
    assert chain.give(data) == "bad-signature" and steal(chain, data) == 0


def test_without_the_account_in_the_signature_another_account_pays(chain, monkeypatch):
    monkeypatch.setattr("account_chain.joint_signed_bytes", lambda _, body: body)
    monkeypatch.setattr(joint, "joint_signed_bytes", lambda _, body: body)
    assert steal(chain, borrow_signatures(chain)) == LOOT.amount


def test_a_signature_for_a_joint_account_moves_nothing_of_the_signers_own(chain):
    signer = chain.signers[0]
    chain.send(chain.user, m.Transfer(signer.address, FUND))
    chain.block()
    envelope = t.decode_transaction(chain.sign_joint(LOOT))[0]
    own = encode(t.Transaction(envelope.body, signer.public_key, envelope.signatures[0].signature))
    assert chain.give(own) == "bad-signature"
    # Nor the other way round.
    body = chain.body(LOOT)
    single = [JointSignature(i, chain.signers[i].sign(b"paceline-transaction" + body)) for i in (0, 1)]
    assert chain.give(encode(JointTransaction(body, chain.policy, tuple(single)))) == "bad-signature"


def test_nobody_on_the_way_gives_a_joint_transaction_another_hash(chain):
    spare = chain.sign_joint(LOOT, chain.signers)
    assert chain.give(spare) == "wrong-count"
    data = chain.sign_joint(LOOT)
    envelope = t.decode_transaction(data)[0]
    changed = msgspec.structs.replace(envelope, signatures=tuple(reversed(envelope.signatures)))
    assert chain.give(encode(changed)) == "wrong-order"


def open_session(chain, deposit):
    return chain.sign_granted(chain.hot, chain.user.address, OpenSession(chain.keys[0].address, MODEL, deposit))


def spend_at_once(chain, limit, count=5):
    """A proposer on the thief's side puts them all into one block; what left the account, fees included."""
    chain.grant(chain.user, ["open-session"], limit=limit)
    had = chain.balance(chain.user.address)
    data = [open_session(chain, limit - FEE) for _ in range(count)]
    state = chain.application.read()
    for item in data:
        chain.application.deliver(state, item)
    return had - grants.get_account(state, chain.user.address).balance


def test_transactions_side_by_side_share_one_limit(chain):
    assert spend_at_once(chain, 10**10) == 10**10


def test_without_counting_each_of_them_takes_the_limit(chain, monkeypatch):
    monkeypatch.setattr(grants, "spend", lambda *_: None)
    assert spend_at_once(chain, 10**10) == 5 * 10**10


def use_after_revocation(chain):
    chain.grant(chain.user, ["open-session"], limit=10**10)
    signed = open_session(chain, 10**9)
    chain.send(chain.user, RevokeScope(chain.hot.address))
    chain.block()
    return chain.give(signed)


def test_a_revoked_grant_serves_nothing_that_was_signed_before(chain):
    assert use_after_revocation(chain) == "no-grant"


def test_without_the_removal_the_key_goes_on(chain, monkeypatch):
    monkeypatch.setattr(grants, "_end", lambda *_: None)
    assert use_after_revocation(chain) == "ok"


def test_a_granted_key_takes_no_coins_and_widens_no_grant(chain):
    chain.grant(chain.user, sorted(set(grants.SCOPES) - {"open-run"}), limit=10**10)
    until = chain.height + 500
    for message in (
        LOOT,
        GrantScope(make_keys(1, "more")[0].address, ("open-session",), until, 10**12),
        RevokeScope(chain.hot.address),
        m.LeaveNetwork(chain.keys[0].address),
        UseCredits(OpenSession(chain.keys[0].address, MODEL, 10**9)),
        ReturnCredits(),
    ):
        assert chain.act(chain.hot, chain.user.address, message) == "out-of-scope"


def test_whose_message_it_is_stands_under_the_signature(chain):
    victim = chain.keys[0]
    chain.grant(chain.user, ["open-session"], limit=10**10)
    envelope, body = t.decode_transaction(open_session(chain, 10**9))
    changed = encode(msgspec.structs.replace(body, owner=victim.address))
    assert chain.give(encode(msgspec.structs.replace(envelope, body=changed))) == "bad-signature"
    fields = {name: getattr(body, name) for name in t.TransactionBody.__struct_fields__}
    plain = encode(t.TransactionBody(**fields))
    assert chain.give(encode(msgspec.structs.replace(envelope, body=plain))) == "bad-signature"


def test_many_operator_keys_send_no_more_duties_than_the_node_may():
    params = msgspec.structs.replace(PARAMS, duty_limit=6)
    chain = AccountChain(params=params)
    node, keys = chain.keys[1], make_keys(3, "operators")
    chain.send(chain.user, m.Transfer(node.address, 10 * FEE))
    chain.block()
    for key in keys:
        chain.send(node, GrantScope(key.address, ("vote-price",), chain.height + 50, 0))
    chain.block()
    codes = [chain.act(keys[index % 3], node.address, VotePrice(7 + index)) for index in range(9)]
    assert codes == ["ok"] * 6 + ["duty-limit"] * 3
