"""A chain with joint accounts and grants: keys that hold nothing, a policy of three of them, and what they sign."""

from __future__ import annotations

from chain_harness import Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger.accounts import get_account
from paceline.ledger.grants import GRANTS
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode
from paceline.protocol.grants import GrantScope
from paceline.protocol.joint import JointSignature, JointTransaction, Policy, joint_signed_bytes

FUND = 10**12
TO = b"x" * 20


def make_keys(count, name="signer"):
    """Keys in the order in which a policy names them."""
    keys = [AccountKey.from_secret(hash_parts("test-signer", name.encode(), bytes([index]))) for index in range(count)]
    return sorted(keys, key=lambda key: key.public_key)


def make_policy(keys, threshold):
    return Policy(threshold, tuple(key.public_key for key in keys))


def seal_joint(policy, signers, body):
    """An envelope with one signature a signer, each at its key's place, in the order given."""
    places = [policy.keys.index(key.public_key) for key in signers]
    text = joint_signed_bytes(policy.address, body)
    signatures = [JointSignature(place, key.sign(text)) for place, key in zip(places, signers, strict=True)]
    return encode(JointTransaction(body, policy, tuple(signatures)))


class AccountChain(Chain):
    """`policy` is two of three keys and holds coins; `hot` holds none."""

    def __init__(self, threshold=2, count=3, **options):
        super().__init__(**options)
        self.signers = make_keys(count)
        self.policy = make_policy(self.signers, threshold)
        self.hot = make_keys(1, "hot")[0]
        self.send(self.user, m.Transfer(self.policy.address, FUND))
        self.block()

    def body(self, message, *, owner=None, sequence=None, expires_at=None, chain_id=None):
        self._salt += 1
        fields = {
            "chain_id": chain_id or self.application.chain_id,
            "sequence": sequence,
            "expires_at": expires_at if expires_at is not None else self.height + 100 + self._salt % 400,
            "message": message,
        }
        return encode(t.TransactionBody(**fields) if owner is None else t.GrantedBody(owner=owner, **fields))

    def sign_joint(self, message, signers=None, **options):
        return seal_joint(self.policy, self.signers[:2] if signers is None else signers, self.body(message, **options))

    def sign_granted(self, key, owner, message, **options):
        body = self.body(message, owner=owner, **options)
        return encode(t.Transaction(body, key.public_key, key.sign(b"paceline-transaction" + body)))

    def give(self, data):
        """Queue signed bytes; "ok", or the code with which they are refused."""
        try:
            self.sequencer.add_transaction(data)
        except InvalidTransaction as problem:
            return problem.code
        return "ok"

    def act(self, key, owner, message, **options):
        return self.give(self.sign_granted(key, owner, message, **options))

    def grant(self, owner, kinds, *, to=None, until=None, limit=0):
        """A grant in a block of its own."""
        until = self.height + 50 if until is None else until
        self.send(owner, GrantScope((to or self.hot).address, tuple(kinds), until, limit))
        self.block()

    def left(self, owner, to=None):
        found = GRANTS.get(self.state, owner.address + (to or self.hot).address)
        return None if found is None else found.left

    def balance(self, address):
        return get_account(self.state, address).balance
