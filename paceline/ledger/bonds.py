"""Bonds of accusers, and what a proven accusation earns.

No compute role needs coins up front: an account pays as much of a bond as it holds and pledges the rest against its
coming rewards. A lost pledge is a debt that settlements collect first, and a debtor accuses nobody.
Invariant: the pool holds exactly the paid parts of the bonds that are still at stake.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.errors import InvalidTransaction
from paceline.ledger.accounts import RACE_BONDS, RESERVE, get_account, move_coins
from paceline.ledger.nodes import add_to_node
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record


class Bond(Record, frozen=True):
    """A bond at stake: nicoin in the pool, and nicoin pledged against coming rewards."""

    owner: bytes
    paid: int
    pledged: int


DEBTS: Table[int] = Table("bonds/debt", int)
BOUNTIES: Table[bytes] = Table("bonds/bounty", bytes)


def post_bond(state: State, owner: bytes, amount: int) -> Bond:
    """Put a bond at stake. Errors: InvalidTransaction in-debt."""
    debt = DEBTS.get(state, owner) or 0
    if debt:
        raise InvalidTransaction("in-debt", f"{debt} nicoin of a lost bond are not paid yet")
    paid = min(amount, get_account(state, owner).balance)
    move_coins(state, owner, RACE_BONDS, paid)
    return Bond(owner, paid, amount - paid)


def return_bond(state: State, bond: Bond) -> None:
    """The accusation was right, or nobody could tell."""
    move_coins(state, RACE_BONDS, bond.owner, bond.paid)


def lose_bond(state: State, bond: Bond) -> None:
    """The accusation was false: the paid part goes to the reserve, the pledged part becomes a debt."""
    move_coins(state, RACE_BONDS, RESERVE, bond.paid)
    if bond.pledged:
        DEBTS.put(state, bond.owner, (DEBTS.get(state, bond.owner) or 0) + bond.pledged)


def collect_debt(state: State, owner: bytes, earned: int) -> None:
    """Take what a node owes out of what a settlement just paid it."""
    debt = DEBTS.get(state, owner) or 0
    part = min(debt, earned)
    move_coins(state, owner, RESERVE, part)
    if part == debt:
        DEBTS.delete(state, owner)
    else:
        DEBTS.put(state, owner, debt - part)


def promise_bounty(state: State, cheater: bytes, accuser: bytes) -> None:
    """Remember until the settlement who proved a cheater guilty."""
    BOUNTIES.put(state, cheater, accuser)


def share_bounties(
    state: State, forfeits: Mapping[bytes, int], incomes: Mapping[bytes, int], most: int
) -> list[tuple[bytes, bytes, int]]:
    """Who is paid how much out of whose forfeit: (cheater, accuser, nicoin); the promises end here.

    A bounty is never more than what the accuser's own finished work earned in the epoch, nor than an honest node's mean.
    """
    shares, mean = [], sum(incomes.values()) // max(1, len(incomes))
    for cheater, accuser in BOUNTIES.items(state):
        BOUNTIES.delete(state, cheater)
        amount = min(most, forfeits.get(cheater, 0), incomes.get(accuser, 0), mean)
        if amount:
            shares.append((cheater, accuser, amount))
            add_to_node(state, accuser, earned=amount)
            state.emit("bounty", cheater=cheater.hex(), accuser=accuser.hex(), amount=amount)
    return shares
