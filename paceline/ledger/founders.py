"""The founders' share: locked until a cliff, then free day by day, to the one account that genesis names.

What genesis gave to accounts is out already and counts as never vested. Without a beneficiary the rest stays locked. It
knows days of `blocks_per_day`, no people. Invariant: paid and still locked add up to the share, to the unit.
Source: seed 001, Appendix E; SPEC section 3; decision 037.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.economy.vesting import compute_vested
from paceline.ledger.accounts import FOUNDERS_POOL, POOLS, get_account, move_coins
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.genesis import Genesis
from paceline.protocol.params import NetworkParams


class Share(Record, frozen=True):
    """Whose the share is. Units: nicoin in all, and paid so far."""

    beneficiary: bytes
    total: int
    paid: int = 0


SHARE: Table[Share] = Table("founders/share", Share)


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Note what is to vest. Errors: InvalidTransaction bad-genesis."""
    total = get_account(state, FOUNDERS_POOL).balance
    if total < 0:
        raise InvalidTransaction("bad-genesis", "accounts of genesis hold more than the founders' share")
    if genesis.beneficiary is None:
        return
    if genesis.beneficiary in POOLS.values():
        raise InvalidTransaction("bad-genesis", "the founders' share vests to an account that nobody has a key for")
    SHARE.put(state, b"", Share(genesis.beneficiary, total))


def end_block(state: State, params: NetworkParams) -> None:
    """At the end of a day: pay what came free."""
    if state.height % params.blocks_per_day:
        return
    share = SHARE.get(state)
    if share is None:
        return
    pools = params.pools
    day = state.height // params.blocks_per_day
    # Never less than was paid: longer terms, voted on later, take nothing back.
    free = max(share.paid, compute_vested(share.total, day, pools.founders_cliff_days, pools.founders_days))
    if free == share.paid:
        return
    move_coins(state, FOUNDERS_POOL, share.beneficiary, free - share.paid)
    SHARE.put(state, b"", msgspec.structs.replace(share, paid=free))
    state.emit("founders-vested", amount=free - share.paid, day=day)


def find_violations(state: State) -> list[str]:
    """Sentences about what does not add up."""
    share, locked = SHARE.get(state), get_account(state, FOUNDERS_POOL).balance
    if share is None or share.paid + locked == share.total:
        return []
    return [f"founders: {share.paid} paid and {locked} locked do not make {share.total}"]
