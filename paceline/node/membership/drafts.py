"""A transaction of a joint account on its way from signer to signer, in a file: body, policy, and who has signed so far.

The first signature is there from the start, so a change of what was proposed is found by whoever opens the file. It knows no
network and asks nobody. Invariant: every signature in a draft that opens is valid, and each is by another key of its policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError, Invalid, InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger.joint import is_signed, require_policy
from paceline.node.home import write_whole
from paceline.protocol.codec import encode
from paceline.protocol.joint import JointSignature, JointTransaction, Policy, joint_signed_bytes
from paceline.protocol.messages import MAX_TRANSACTION_BYTES
from paceline.protocol.transactions import TransactionBody, decode_transaction

MAGIC = b"paceline-joint\n"
MARK_BYTES = 8


@dataclass(frozen=True)
class Draft:
    """What is proposed, and the signatures under it."""

    envelope: JointTransaction
    body: TransactionBody

    @property
    def mark(self) -> str:
        """What all signers of one proposal see alike, whoever has signed."""
        return hash_parts("joint-mark", encode(self.envelope.policy), self.envelope.body).hex()[: 2 * MARK_BYTES]

    @property
    def signers(self) -> list[bytes]:
        """Keys that have signed."""
        return [self.envelope.policy.keys[found.place] for found in self.envelope.signatures]

    @property
    def missing(self) -> int:
        """How many signatures are still needed."""
        return max(0, self.envelope.policy.threshold - len(self.envelope.signatures))


def start_draft(policy: Policy, body: TransactionBody, key: AccountKey) -> Draft:
    """A proposal with its first signature. Errors: ConfigError when the key is none of the policy's."""
    data = encode(body)
    return Draft(JointTransaction(data, policy, (_sign(policy, data, key),)), body)


def add_signature(draft: Draft, key: AccountKey) -> Draft:
    """The draft with one signature more. Errors: ConfigError when the key is none of the policy's, or has signed."""
    if key.public_key in draft.signers:
        raise ConfigError(f"{key.public_key.hex()} has signed this already")
    found = _sign(draft.envelope.policy, draft.envelope.body, key)
    signatures = sorted((*draft.envelope.signatures, found), key=lambda signature: signature.place)
    return Draft(msgspec.structs.replace(draft.envelope, signatures=tuple(signatures)), draft.body)


def complete(draft: Draft) -> bytes:
    """The transaction, with as many signatures as the ledger takes. Errors: ConfigError when some are missing."""
    if draft.missing:
        raise ConfigError(
            f"{draft.missing} more of {len(draft.envelope.policy.keys)} keys must sign before it can be sent"
        )
    enough = draft.envelope.signatures[: draft.envelope.policy.threshold]
    return encode(msgspec.structs.replace(draft.envelope, signatures=enough))


def save_draft(path: Path, draft: Draft) -> None:
    """Write a draft, over the former one. Errors: ConfigError when the disk refuses."""
    try:
        write_whole(path, MAGIC + encode(draft.envelope))
    except OSError as problem:
        raise ConfigError(f"{path} cannot be written: {problem.strerror}") from None


def load_draft(path: Path) -> Draft:
    """Errors: ConfigError when it cannot be read, is no draft, or was changed after it was signed."""
    try:
        with path.open("rb") as file:
            data = file.read(len(MAGIC) + MAX_TRANSACTION_BYTES + 1)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    if not data.startswith(MAGIC):
        raise ConfigError(f"{path} was not written by `paceline multisig propose`")
    try:
        envelope, body = decode_transaction(data[len(MAGIC) :])
        if not isinstance(envelope, JointTransaction):
            raise InvalidTransaction("malformed", "it is the transaction of one key")
        require_policy(envelope.policy)
    except Invalid as problem:
        raise ConfigError(f"{path} is damaged: {problem}") from None
    places = [found.place for found in envelope.signatures]
    if places != sorted(set(places)):
        raise ConfigError(f"{path} is damaged: its signatures are out of order")
    if not all(is_signed(envelope.body, envelope.policy, found) for found in envelope.signatures):
        raise ConfigError(f"{path} was changed after it was signed: a signature does not fit. Ask for it anew")
    return Draft(envelope, body)


def _sign(policy: Policy, body: bytes, key: AccountKey) -> JointSignature:
    if key.public_key not in policy.keys:
        raise ConfigError(f"{key.public_key.hex()} is none of the keys of this account")
    return JointSignature(policy.keys.index(key.public_key), key.sign(joint_signed_bytes(policy.address, body)))
