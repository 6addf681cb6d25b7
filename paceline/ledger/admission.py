"""What a transaction must be before its message is looked at: well formed, for this chain, signed, new, paid for.

Ordered transactions carry the account's next sequence. Unordered ones carry an expiry and are remembered until then.
Duties of nodes pay no fee and are limited per key and window; everything else pays the fee.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import compute_address, verify_signature
from paceline.ledger.accounts import ACCOUNTS, RESERVE, get_account, move_coins
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.duties import DUTIES
from paceline.protocol.messages import Transaction, TransactionBody, decode_transaction
from paceline.protocol.params import NetworkParams

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
    """A transaction whose form is right, with its sender."""

    __slots__ = ("body", "envelope", "sender", "transaction_hash")

    def __init__(self, data: bytes, envelope: Transaction, body: TransactionBody) -> None:
        self.envelope = envelope
        self.body = body
        self.sender = compute_address(envelope.public_key)
        self.transaction_hash = compute_transaction_hash(data)

    @property
    def is_duty(self) -> bool:
        """True for what the protocol asks of a node; it pays no fee."""
        return isinstance(self.body.message, DUTIES)

    def has_valid_signature(self) -> bool:
        """True when the key's signature covers exactly these body bytes."""
        return verify_signature(self.envelope.public_key, signed_bytes(self.envelope.body), self.envelope.signature)

    def charge(self, state: State, params: NetworkParams) -> None:
        """Step the sequence or remember the hash, then take the fee or count the duty.

        Errors: InvalidTransaction wrong-sequence, expired, far-expiry, replayed, over-balance, not-a-node, duty-limit.
        """
        if self.body.sequence is None:
            self._remember(state)
        else:
            self._step_sequence(state, self.body.sequence)
        if self.is_duty:
            _count_duty(state, params, self.sender)
        else:
            move_coins(state, self.sender, RESERVE, params.transfer_fee)

    def _step_sequence(self, state: State, sequence: int) -> None:
        account = get_account(state, self.sender)
        if sequence != account.sequence:
            raise InvalidTransaction("wrong-sequence", f"sequence {sequence} is given, {account.sequence} is next")
        if self.body.expires_at < state.height:
            raise InvalidTransaction("expired", f"expired at height {self.body.expires_at}")
        ACCOUNTS.put(state, self.sender, msgspec.structs.replace(account, sequence=sequence + 1))

    def _remember(self, state: State) -> None:
        expires_at = self.body.expires_at
        if expires_at < state.height:
            raise InvalidTransaction("expired", f"expired at height {expires_at}")
        if expires_at > state.height + LONGEST_EXPIRY:
            raise InvalidTransaction("far-expiry", f"may expire at most {LONGEST_EXPIRY} heights ahead")
        # The body, not the envelope: a second valid signature over the same body must not pass as a new transaction.
        digest = hash_parts("unordered", self.sender, self.envelope.body)
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

    Errors: InvalidTransaction too-large, malformed, non-canonical, wrong-chain, bad-signature.
    """
    envelope, body = decode_transaction(data)
    if body.chain_id != chain_id:
        raise InvalidTransaction("wrong-chain", f"signed for {body.chain_id}, this is {chain_id}")
    admitted = Admitted(data, envelope, body)
    if not admitted.has_valid_signature():
        raise InvalidTransaction("bad-signature", "the signature does not fit key and body")
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
