"""What a transaction must be before its message is looked at: well formed, for this chain, signed, new, paid for.

Ordered transactions carry the signer's next sequence. Unordered ones carry an expiry and are remembered until then.
Duties of nodes pay no fee and are limited per node and window; everything else pays the fee. The sender is the signer, or
the account that granted it this kind of message: that one pays, within the grant.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import compute_address, verify_signature
from paceline.ledger import grants, joint
from paceline.ledger.accounts import ACCOUNTS, RESERVE, get_account, move_coins
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.duties import DUTIES
from paceline.protocol.joint import JointTransaction
from paceline.protocol.params import NetworkParams
from paceline.protocol.transactions import Envelope, GrantedBody, TransactionBody, decode_transaction

LONGEST_EXPIRY = 600
"""How many heights ahead an unordered transaction may expire."""


class DutyCount(Record, frozen=True):
    """Duty messages of one key in one window."""

    window: int
    count: int


SEEN: Table[int] = Table("admission/seen", int)
EXPIRING: Table[int] = Table("admission/expiring", int)
DUTY_COUNTS: Table[DutyCount] = Table("admission/duties", DutyCount)


class Admitted:
    """A transaction whose form is right, with who signed it and whose message it is."""

    __slots__ = ("body", "envelope", "sender", "signer", "transaction_hash")

    def __init__(self, data: bytes, envelope: Envelope, body: TransactionBody) -> None:
        self.envelope = envelope
        self.body = body
        if isinstance(envelope, JointTransaction):
            self.signer = envelope.policy.address
        else:
            self.signer = compute_address(envelope.public_key)
        self.sender = body.owner if isinstance(body, GrantedBody) else self.signer
        self.transaction_hash = compute_transaction_hash(data)

    @property
    def is_duty(self) -> bool:
        """True for what the protocol asks of a node; it pays no fee."""
        return isinstance(self.body.message, DUTIES)

    @property
    def key(self) -> bytes:
        """The one key that signed. Errors: InvalidTransaction needs-one-key for a joint account."""
        if isinstance(self.envelope, JointTransaction):
            raise InvalidTransaction(
                "needs-one-key", "one key signs what follows from this: a joint account grants it to an account of one"
            )
        return self.envelope.public_key

    @property
    def is_granted(self) -> bool:
        """True for a message that is sent on behalf of another account."""
        return isinstance(self.body, GrantedBody)

    def require_signatures(self) -> None:
        """Every signature covers exactly these body bytes.

        Errors: InvalidTransaction bad-signature, and those of a joint account.
        """
        if isinstance(self.envelope, JointTransaction):
            joint.require_signatures(self.envelope)
        elif not verify_signature(self.envelope.public_key, signed_bytes(self.envelope.body), self.envelope.signature):
            raise InvalidTransaction("bad-signature", "the signature does not fit key and body")

    def charge(self, state: State, params: NetworkParams) -> None:
        """Step the sequence or remember the hash, look at the grant, then take the fee or count the duty.

        Errors: InvalidTransaction wrong-sequence, expired, far-expiry, replayed, no-grant, out-of-scope, over-balance,
        over-limit, not-a-node, duty-limit.
        """
        if self.body.sequence is None:
            self._remember(state)
        else:
            self._step_sequence(state, self.body.sequence)
        if self.is_granted:
            grants.require_grant(state, self.sender, self.signer, self.body.message)
        if self.is_duty:
            _count_duty(state, params, self.sender)
            return
        move_coins(state, self.sender, RESERVE, params.transfer_fee)
        if self.is_granted:
            grants.spend(state, self.sender, self.signer, params.transfer_fee)

    def count_spending(self, before: State, after: State) -> None:
        """Hold what a granted message took against its grant. Errors: InvalidTransaction over-limit."""
        if self.is_granted:
            grants.count_spending(before, after, self.sender, self.signer)

    def _step_sequence(self, state: State, sequence: int) -> None:
        account = get_account(state, self.signer)
        if sequence != account.sequence:
            raise InvalidTransaction("wrong-sequence", f"sequence {sequence} is given, {account.sequence} is next")
        if self.body.expires_at < state.height:
            raise InvalidTransaction("expired", f"expired at height {self.body.expires_at}")
        ACCOUNTS.put(state, self.signer, msgspec.structs.replace(account, sequence=sequence + 1))

    def _remember(self, state: State) -> None:
        expires_at = self.body.expires_at
        if expires_at < state.height:
            raise InvalidTransaction("expired", f"expired at height {expires_at}")
        if expires_at > state.height + LONGEST_EXPIRY:
            raise InvalidTransaction("far-expiry", f"may expire at most {LONGEST_EXPIRY} heights ahead")
        # The body, not the envelope: a second valid signature over the same body must not pass as a new transaction.
        digest = hash_parts("unordered", self.signer, self.envelope.body)
        if SEEN.get(state, digest) is not None:
            raise InvalidTransaction("replayed", "this transaction was executed before")
        SEEN.put(state, digest, expires_at)
        EXPIRING.put(state, expires_at.to_bytes(8, "big") + digest, 0)


def signed_bytes(body: bytes) -> bytes:
    """What a transaction's signature covers."""
    return b"paceline-transaction" + body


def compute_transaction_hash(data: bytes) -> bytes:
    """32 bytes that name a transaction."""
    return hash_parts("transaction", data)


def admit_transaction(data: bytes, chain_id: str) -> Admitted:
    """Form, chain and signature of a transaction.

    Errors: InvalidTransaction too-large, malformed, non-canonical, wrong-chain, and those of `require_signatures`.
    """
    envelope, body = decode_transaction(data)
    if body.chain_id != chain_id:
        raise InvalidTransaction("wrong-chain", f"signed for {body.chain_id}, this is {chain_id}")
    admitted = Admitted(data, envelope, body)
    admitted.require_signatures()
    return admitted


def forget_expired(state: State) -> None:
    """Drop remembered hashes whose expiry has passed."""
    for key, _ in EXPIRING.scan(state):
        if int.from_bytes(key[:8], "big") >= state.height:
            return
        EXPIRING.delete(state, key)
        SEEN.delete(state, key[8:])


def _count_duty(state: State, params: NetworkParams, sender: bytes) -> None:
    if NODES.get(state, sender) is None:
        raise InvalidTransaction("not-a-node", "only nodes send duty messages")
    window = state.height // params.duty_window_blocks
    former = DUTY_COUNTS.get(state, sender)
    count = former.count + 1 if former is not None and former.window == window else 1
    if count > params.duty_limit:
        raise InvalidTransaction("duty-limit", f"more than {params.duty_limit} duty messages in this window")
    DUTY_COUNTS.put(state, sender, DutyCount(window, count))
