"""Scoped grants: what another key may send on an account's behalf, up to which height, and for how much.

So that a key of much worth can stay offline: one key votes, another opens sessions, and neither can take more than its grant
says. Which kinds of messages may be granted is a closed table here; granting, revoking and transferring are not in it. It
knows no signatures. Invariant: fees and messages under a grant together take at most its limit from the account, and nothing
once it has expired or is revoked; an account has a bounded number of grants.
Source: decision 041.
"""

from __future__ import annotations

import itertools

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger.accounts import get_account
from paceline.ledger.state import State, Table
from paceline.protocol import messages as m
from paceline.protocol.channels import CloseChannel, OpenChannel
from paceline.protocol.codec import Record
from paceline.protocol.grants import GrantScope, RevokeScope
from paceline.protocol.openings import OpenRun, OpenSession
from paceline.protocol.pools import VoteQuote
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import VoteProposal

MOST_GRANTS = 16
"""Of one account at a time."""
LONGEST_GRANT = 20_000_000
"""Heights: above a year of blocks of two seconds."""
MOST_ENDS = 1_000
"""Grants that a block removes: an account chooses the height at which its grants end, and so may any number."""

SCOPES: dict[str, type[Record]] = {
    "cancel-upgrade": m.CancelUpgrade,
    "close-channel": CloseChannel,
    "close-session": m.CloseSession,
    "describe-node": m.DescribeNode,
    "open-channel": OpenChannel,
    "open-run": OpenRun,
    "open-session": OpenSession,
    "plan-upgrade": m.PlanUpgrade,
    "report-task": m.ReportTask,
    "submit-receipts": m.SubmitReceipts,
    "vote-price": VotePrice,
    "vote-proposal": VoteProposal,
    "vote-quote": VoteQuote,
}
"""All that can be granted, by tag. Each takes coins of the account at most, never anything else that it has."""


class Grant(Record, frozen=True):
    """What a key may send for an account, and what may still be taken. Units: nicoin."""

    kinds: tuple[str, ...]
    until: int
    left: int


GRANTS: Table[Grant] = Table("grants/by-owner", Grant)
"""By owner and the address that may act."""
ENDING: Table[int] = Table("grants/ending", int)
"""By last height, owner and address."""


def apply_grant(state: State, owner: bytes, message: GrantScope) -> None:
    """An account lets another act for it.

    Errors: InvalidTransaction own-account, unknown-scope, wrong-order, past-height, far-height, already-granted, too-many-grants.
    """
    if message.to == owner:
        raise InvalidTransaction("own-account", "an account needs no grant to itself")
    unknown = [kind for kind in message.kinds if kind not in SCOPES]
    if unknown:
        raise InvalidTransaction("unknown-scope", f"{unknown[0]} cannot be granted; {', '.join(SCOPES)} can")
    if any(former >= later for former, later in itertools.pairwise(message.kinds)):
        raise InvalidTransaction("wrong-order", "kinds stand in rising order, each once")
    if message.until <= state.height:
        raise InvalidTransaction("past-height", f"height {message.until} is over")
    if message.until > state.height + LONGEST_GRANT:
        raise InvalidTransaction("far-height", f"a grant lasts {LONGEST_GRANT} heights at most")
    granted = [key for key, _ in GRANTS.items(state, owner)]
    if owner + message.to in granted:
        raise InvalidTransaction("already-granted", "this key has a grant of this account: revoke it first")
    if len(granted) >= MOST_GRANTS:
        raise InvalidTransaction("too-many-grants", f"an account has {MOST_GRANTS} grants at most")
    GRANTS.put(state, owner + message.to, Grant(message.kinds, message.until, message.limit))
    ENDING.put(state, _ending_key(message.until, owner + message.to), 0)
    state.emit("grant", owner=owner.hex(), to=message.to.hex(), until=message.until, limit=message.limit)


def apply_revocation(state: State, owner: bytes, message: RevokeScope) -> None:
    """An account ends a grant, at once. Errors: InvalidTransaction no-grant."""
    grant = GRANTS.get(state, owner + message.to)
    if grant is None:
        raise InvalidTransaction("no-grant", "this key has no grant of this account")
    _end(state, owner + message.to, grant)
    state.emit("grant-revoked", owner=owner.hex(), to=message.to.hex())


def require_grant(state: State, owner: bytes, signer: bytes, message: Record) -> None:
    """Errors: InvalidTransaction no-grant, out-of-scope."""
    grant = GRANTS.get(state, owner + signer)
    if grant is None or grant.until < state.height:
        raise InvalidTransaction("no-grant", f"{signer.hex()} has no grant of {owner.hex()}, or no longer")
    if not any(isinstance(message, SCOPES[kind]) for kind in grant.kinds):
        raise InvalidTransaction("out-of-scope", f"the grant covers {', '.join(grant.kinds)} only")


def spend(state: State, owner: bytes, signer: bytes, amount: int) -> None:
    """Count what was taken from the account. Units: nicoin. Errors: InvalidTransaction over-limit."""
    grant = GRANTS.get(state, owner + signer)
    assert grant is not None, "a grant is looked at before it is used, and no granted message ends one"
    if amount > grant.left:
        raise InvalidTransaction("over-limit", f"takes {amount} nicoin, the grant has {grant.left} left")
    if amount:
        GRANTS.put(state, owner + signer, msgspec.structs.replace(grant, left=grant.left - amount))


def count_spending(before: State, after: State, owner: bytes, signer: bytes) -> None:
    """Count what a message took; what it gave back makes nobody richer in limits. Errors: InvalidTransaction over-limit."""
    spend(after, owner, signer, max(0, get_account(before, owner).balance - get_account(after, owner).balance))


def end_block(state: State) -> None:
    """Remove grants whose last height this is, or was: so many may end at one height that the rest has to wait."""
    for key, _ in itertools.islice(ENDING.scan(state), MOST_ENDS):
        if int.from_bytes(key[:8], "big") > state.height:
            return
        grant = GRANTS.get(state, key[8:])
        assert grant is not None, "a grant and its end come and go together"
        _end(state, key[8:], grant)


def find_violations(state: State) -> list[str]:
    """Sentences about grants that are not as they must be."""
    grants = GRANTS.items(state)
    ends = sorted(_ending_key(grant.until, key) for key, grant in grants)
    found = [] if ends == [key for key, _ in ENDING.items(state)] else ["grants: their ends are not listed as they are"]
    return found + [
        f"grant {key.hex()}: {grant.left} nicoin left up to height {grant.until}"
        for key, grant in grants
        if grant.left < 0
    ]


def _end(state: State, key: bytes, grant: Grant) -> None:
    GRANTS.delete(state, key)
    ENDING.delete(state, _ending_key(grant.until, key))


def _ending_key(until: int, key: bytes) -> bytes:
    return until.to_bytes(8, "big") + key
