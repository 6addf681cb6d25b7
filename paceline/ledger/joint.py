"""Joint accounts: whether a transaction carries what its account's policy asks for.

Exactly the threshold's number of signatures is taken, each by another key of the policy: with one to spare, whoever passes the
transaction on could leave out any of them and give it another hash. It keeps nothing in the state; the address binds the policy.
Invariant: nobody moves a joint account with fewer keys than its policy says.
Source: decision 041.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import verify_signature
from paceline.protocol.joint import JointSignature, JointTransaction, Policy, joint_signed_bytes

K = TypeVar("K", int, bytes)


def require_policy(policy: Policy) -> None:
    """Errors: InvalidTransaction bad-policy when its keys are not in rising order, or fewer than it asks for."""
    if not _is_rising(policy.keys):
        raise InvalidTransaction("bad-policy", "the keys of a policy stand in rising order, each once")
    if policy.threshold > len(policy.keys):
        raise InvalidTransaction(
            "bad-policy", f"{policy.threshold} signatures of {len(policy.keys)} keys are asked for"
        )


def require_signatures(envelope: JointTransaction) -> None:
    """All of the policy's form and every signature.

    Errors: InvalidTransaction bad-policy, wrong-count, wrong-order, bad-signature.
    """
    policy = envelope.policy
    require_policy(policy)
    if len(envelope.signatures) != policy.threshold:
        given, needed = len(envelope.signatures), policy.threshold
        raise InvalidTransaction("wrong-count", f"{given} signatures are given, the policy asks for {needed}")
    if not _is_rising(tuple(found.place for found in envelope.signatures)):
        raise InvalidTransaction("wrong-order", "signatures stand in the order of their keys, one of each")
    if not all(is_signed(envelope.body, policy, found) for found in envelope.signatures):
        raise InvalidTransaction("bad-signature", "a signature does not fit its key, the account and the body")


def is_signed(body: bytes, policy: Policy, found: JointSignature) -> bool:
    """True when a signature is that of the policy's key at its place, over this body for this account."""
    if found.place >= len(policy.keys):
        return False
    return verify_signature(policy.keys[found.place], joint_signed_bytes(policy.address, body), found.signature)


def _is_rising(items: tuple[K, ...]) -> bool:
    return all(former < later for former, later in itertools.pairwise(items))
