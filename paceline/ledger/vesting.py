"""Released rewards that come free in equal parts over the next epochs: what a node that cheats still has to lose.

What an epoch releases waits in a pool of its own; each settlement frees the parts that are due, and a node found guilty
loses all that is not free. It knows amounts and epochs, not why a reward was earned.
Invariant: the pool holds exactly what all nodes have vesting, and so do the nodes' own records.
Source: SPEC sections 1 and 3; decision 035.
"""

from __future__ import annotations

from paceline.economy.vesting import Part, add_vesting, compute_vesting, take_vested
from paceline.ledger import earnings
from paceline.ledger.accounts import HELD_PAY, VESTING_PAY, move_coins
from paceline.ledger.nodes import NODES, update_node
from paceline.ledger.state import State, Table
from paceline.protocol.params import NetworkParams

VESTING: Table[tuple[Part, ...]] = Table("vesting/parts", tuple[Part, ...])


def get_vesting(state: State, address: bytes) -> int:
    """Nicoin of an account that are not free yet."""
    return compute_vesting(VESTING.get(state, address) or ())


def hold_reward(state: State, params: NetworkParams, source: bytes, address: bytes, amount: int, epoch: int) -> None:
    """Take a reward of an epoch out of an account; with no vesting periods it is free at once."""
    if params.vesting_epochs == 0:
        move_coins(state, source, address, amount)
        earnings.note_paid(state, address, amount)
        return
    move_coins(state, source, VESTING_PAY, amount)
    _put(state, address, add_vesting(VESTING.get(state, address) or (), amount, epoch, params.vesting_epochs))


def free_rewards(state: State, epoch: int) -> dict[bytes, int]:
    """At the end of an epoch: what is due goes to its owners; nicoin by address."""
    freed = {}
    for address, parts in VESTING.items(state):
        free, left = take_vested(parts, epoch)
        if free:
            move_coins(state, VESTING_PAY, address, free)
            freed[address] = free
            earnings.note_paid(state, address, free)
            _put(state, address, left)
    return freed


def forfeit_rewards(state: State, address: bytes) -> int:
    """A node is guilty: what is not free yet is held pay again, for those it owes and the reserve; how much that was."""
    lost = get_vesting(state, address)
    move_coins(state, VESTING_PAY, HELD_PAY, lost)
    earnings.forget_issued(state, address)
    _put(state, address, ())
    return lost


def _put(state: State, address: bytes, parts: tuple[Part, ...]) -> None:
    if parts:
        VESTING.put(state, address, parts)
    else:
        VESTING.delete(state, address)
    if NODES.get(state, address) is not None:
        update_node(state, address, vesting=compute_vesting(parts))
