"""What a guilty node loses, and who gets it in which order: users were refunded before; then what looking again cost, bounties, reports.

The forfeit is its held pay and all that vests. All who judge a wrong answer again are paid by race weight, together no more than
its checkers would have been had it been right, so that neither a vote for guilt nor a second name gains; a bounty is no more
than a mean honest node's pay of the epoch and the accuser's own; the rest goes back to the reserve. It knows amounts, not what
the node did.
Invariant: what is paid here never exceeds the forfeit it is paid out of.
Source: seed 001, section 6; SPEC section 2; decision 035.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.integers import PPM, mul_div_floor
from paceline.base.keys import ADDRESS_BYTES
from paceline.ledger import bonds, nodes
from paceline.ledger.accounts import HELD_PAY, move_coins
from paceline.ledger.state import State, Table
from paceline.ledger.tasks import Task
from paceline.protocol.messages import REJECTED
from paceline.protocol.params import NetworkParams

REWARDS: Table[bytes] = Table("tasks/reward", bytes)
"""Cheater to the user whose report proved it, until the settlement."""
RECHECKS: Table[int] = Table("tasks/recheck", int)
"""Nicoin by cheater and node: its part for judging wrong answers again, until the settlement."""


def note_rechecks(state: State, params: NetworkParams, task: Task) -> None:
    """A task is found wrong: who computed it again, and said so, is owed its part by its share of all weight."""
    weights, pot = nodes.get_weights(state), mul_div_floor(task.cost, params.tasks.recheck_ppm, PPM)
    total = sum(weights.values())
    for vote in task.votes:
        part = mul_div_floor(pot, weights.get(vote.voter, 0), total) if total else 0
        if vote.outcome == REJECTED and vote.evidence and part:
            key = task.executor + vote.voter
            RECHECKS.put(state, key, (RECHECKS.get(state, key) or 0) + part)


def promise_reward(state: State, cheater: bytes, reporter: bytes) -> None:
    """Remember until the settlement whose report proved a cheater guilty."""
    REWARDS.put(state, cheater, reporter)


def share_forfeits(state: State, params: NetworkParams, due: dict[bytes, int], guilty: Mapping[bytes, int]) -> None:
    """Pay out of what the guilty forfeit; `due` keeps what is left of it, for the reserve. The promises end here."""
    incomes = {address: amount for address, amount in due.items() if address not in guilty}
    for key, cost in RECHECKS.items(state):
        RECHECKS.delete(state, key)
        cheater, voter = key[:ADDRESS_BYTES], key[ADDRESS_BYTES:]
        if cheater in guilty and voter not in guilty and nodes.NODES.get(state, voter) is not None:
            amount = _pay(state, due, cheater, voter, cost)
            nodes.add_to_node(state, voter, earned=amount)
    forfeits = {address: due.get(address, 0) for address in guilty}
    for cheater, accuser, amount in bonds.share_bounties(state, forfeits, incomes, params.race.bounty):
        _pay(state, due, cheater, accuser, amount)
    # Users come last: a report pays even without one, by the fee that it may lose.
    for cheater, reporter in REWARDS.items(state):
        REWARDS.delete(state, cheater)
        if cheater in guilty:
            _pay(state, due, cheater, reporter, params.tasks.report_reward)


def _pay(state: State, due: dict[bytes, int], cheater: bytes, to: bytes, wish: int) -> int:
    amount = min(wish, due.get(cheater, 0))
    due[cheater] = due.get(cheater, 0) - amount
    move_coins(state, HELD_PAY, to, amount)
    return amount
