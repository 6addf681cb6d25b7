"""The end of an epoch: held pay is released, new coins are shared, reputation moves.

A node is released what its finished work earned, and its share of the new coins, times its criteria (`economy.rewards`);
both come free over the next epochs. A node found guilty in the epoch, or fooled by forced errors, is released nothing; the
guilty one loses what vests, too. To the unit: what leaves held pay and the reserve arrives elsewhere.
Source: seed 001, sections 6 and 8, Appendix F; decision 035.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.integers import PPM, mul_div_floor
from paceline.economy.rewards import Conduct, Criteria, compute_criteria
from paceline.economy.spread import Spread, compute_part_ppm, measure_spread
from paceline.ledger import (
    attendance,
    bonds,
    compute_credits,
    dummies,
    earnings,
    forfeits,
    issuance,
    nodes,
    prices,
    quotes,
    run_pay,
    shares,
    task_pay,
    task_reports,
    training,
    traps,
    vesting,
)
from paceline.ledger.accounts import HELD_PAY, RESERVE, TRAINING_FUND, move_coins
from paceline.ledger.evidence import take_missed
from paceline.ledger.issuance import NewCoins
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams

KEPT_EPOCHS = 8


class Reward(Record, frozen=True, kw_only=True):
    """How a node's reward of an epoch came about. Units: nicoin."""

    due: int
    """What its finished work earned, after the fund's share; of the guilty with what vested, less what was paid out of both."""
    share: int
    """Its part of the new coins, by race weight."""
    part_ppm: int
    """How much of it a node gets that did all it was drawn for: less when it serves too little for its weight."""
    conduct: Conduct
    criteria: Criteria
    freed: int
    """What came free of the epochs before."""
    lost_vesting: int
    """What vested for it and is part of what was due, because it is guilty."""

    def compute_issued(self, share: int) -> int:
        """Nicoin that it gets of a share of new coins."""
        return mul_div_floor(mul_div_floor(share, self.part_ppm, PPM), self.criteria.share_ppm, PPM)


class Line(Record, frozen=True, kw_only=True):
    """One node's line in an epoch's settlement."""

    address: bytes
    name: str
    voting_power: int
    tasks: int
    checks: int
    earned: int
    """All that the settlement gave it: released, issued, bounties and jackpots."""
    forfeited: int
    vesting: int
    """What is not free yet, after this settlement."""
    reward: Reward


SETTLED: Table[tuple[Line, ...]] = Table("settlement/by-epoch", tuple[Line, ...])


def get_settlement(state: State, epoch: int) -> tuple[Line, ...] | None:
    """The table of an epoch that is still kept."""
    return SETTLED.get(state, epoch.to_bytes(8, "big"))


def settle_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    """Release or forfeit everything that is final, issue new coins, write the table of the epoch."""
    attendance.end_epoch(state, params)
    task_reports.end_epoch(state)
    due, fees = _collect_due(state, params)
    dummies.end_epoch(state)
    spread = measure_spread(fees, nodes.get_weights(state))
    coins = issuance.issue_coins(state, params, epoch, spread.counted, _weigh_work(state, due, epoch))
    # The guilty first: what would come free by this very settlement is lost, too.
    lost = {a: vesting.forfeit_rewards(state, a) for a, node in NODES.items(state) if node.guilty == epoch}
    due |= {address: due.get(address, 0) + amount for address, amount in lost.items()}
    freed = vesting.free_rewards(state, epoch)
    had = {address: node.earned for address, node in NODES.items(state)}
    forfeits.share_forfeits(state, params, due, lost)
    traps.pay_jackpots(state, params, due, epoch)
    settled = _Settled(params=params, epoch=epoch, due=due, spread=spread, coins=coins, freed=freed, lost=lost)
    lines = [_settle_node(state, settled, address, before) for address, before in had.items()]
    SETTLED.put(state, epoch.to_bytes(8, "big"), tuple(lines))
    if epoch >= KEPT_EPOCHS:
        SETTLED.delete(state, (epoch - KEPT_EPOCHS).to_bytes(8, "big"))
    prices.end_epoch(state, params)
    quotes.end_epoch(state, epoch)
    compute_credits.end_epoch(state, params, epoch)
    training.forget_ended(state, params)
    state.emit("settled", epoch=epoch)


def _collect_due(state: State, params: NetworkParams) -> tuple[dict[bytes, int], list[tuple[bytes, int]]]:
    """What each node's finished work earned, and each fee of drawn work by who was drawn.

    The fund's share leaves at once, settled records go.
    """
    due: dict[bytes, int] = {}
    drawn = task_pay.collect_pay(state, params)
    for worker, pay in (*drawn, *run_pay.collect_pay(state, params)):
        move_coins(state, HELD_PAY, TRAINING_FUND, pay.fund)
        for address, amount in ((worker, pay.worker), *pay.checkers):
            due[address] = due.get(address, 0) + amount
    shares.pay_owed(state)
    return due, [(worker, pay.total) for worker, pay in drawn]


def _weigh_work(state: State, due: dict[bytes, int], epoch: int) -> dict[bytes, int]:
    """Race weights of those whose work earned something; nobody's while all of them are guilty.

    The guilty keep a part that is never released: were it shared among the others, these would gain by a conviction.
    """
    weights = nodes.get_weights(state)
    guilty = {address for address in weights if _is_guilty(state, address, epoch)}
    worked = {address for address in weights if due.get(address, 0) > 0}
    return {address: weights[address] for address in weights if address in worked | guilty} if worked - guilty else {}


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What the epoch came to for everybody, by address. Units: nicoin."""

    params: NetworkParams
    epoch: int
    due: dict[bytes, int]
    spread: Spread
    coins: NewCoins
    freed: dict[bytes, int]
    lost: dict[bytes, int]


def _settle_node(state: State, settled: _Settled, address: bytes, had: int) -> Line:
    """Release or forfeit one node's pay. `had` is what it ever earned before this settlement."""
    reward = _compute_reward(state, settled, address)
    released = mul_div_floor(reward.due, reward.criteria.share_ppm, PPM)
    issued = reward.compute_issued(reward.share)
    move_coins(state, HELD_PAY, RESERVE, reward.due - released)
    earnings.note_issued(state, address, reward.compute_issued(settled.coins.by_floor.get(address, 0)))
    vesting.hold_reward(state, settled.params, HELD_PAY, address, released, settled.epoch)
    vesting.hold_reward(state, settled.params, RESERVE, address, issued, settled.epoch)
    at_once = released + issued if settled.params.vesting_epochs == 0 else 0
    bonds.collect_debt(state, address, reward.freed + at_once)
    node = NODES.get(state, address)
    assert node is not None
    forfeited = node.refunded + reward.due - released
    line = Line(
        address=address,
        name=node.name,
        voting_power=node.voting_power,
        tasks=node.tasks,
        checks=node.checks,
        # Bounties and jackpots are counted at the node already.
        earned=node.earned + released + issued - had,
        forfeited=forfeited,
        vesting=node.vesting,
        reward=reward,
    )
    NODES.put(state, address, _begin_next(node, reward, released + issued, forfeited))
    return line


def _compute_reward(state: State, settled: _Settled, address: bytes) -> Reward:
    """Judge one node's conduct."""
    params, node, due = settled.params, NODES.get(state, address), settled.due.get(address, 0)
    assert node is not None
    conduct = Conduct(
        is_guilty=node.guilty == settled.epoch,
        is_fooled=traps.is_fooled(params, node),
        duties=node.duties,
        fulfilled=node.fulfilled,
        drawn=node.drawn,
        answered=node.answered - node.marks,
        absence_ppm=params.tasks.absence_ppm,
        missed_blocks=take_missed(state, address),
        epoch_blocks=params.epoch_blocks,
    )
    return Reward(
        due=due,
        share=settled.coins.shares.get(address, 0),
        conduct=conduct,
        criteria=compute_criteria(conduct),
        part_ppm=compute_part_ppm(settled.spread, node.weight, due, params.fund_ppm),
        freed=settled.freed.get(address, 0),
        lost_vesting=settled.lost.get(address, 0),
    )


def _begin_next(node: Node, reward: Reward, earned: int, forfeited: int) -> Node:
    """The node's record at the start of the next epoch: reputation moved, counts at zero."""
    worked = reward.due > 0 or node.dummies > 0
    return msgspec.structs.replace(
        node,
        reputation=node.reputation + worked if reward.criteria.accuracy_ppm else 0,
        tasks=0,
        checks=0,
        duties=0,
        fulfilled=0,
        drawn=0,
        answered=0,
        marks=0,
        found=0,
        fooled=0,
        held=0,
        relayed=0,
        returned=0,
        dummies=0,
        refunded=0,
        earned=node.earned + earned,
        forfeited=node.forfeited + forfeited,
    )


def _is_guilty(state: State, address: bytes, epoch: int) -> bool:
    node = NODES.get(state, address)
    return node is not None and node.guilty == epoch
