"""The end of an epoch: held pay is released, the floor issuance is shared, reputation moves.

A node is paid what its finished work earned, times the criteria of checking and of drawn work, and the share of
blocks that it did not miss to sign; a node found guilty in the epoch, or fooled by forced errors, gets nothing and its held
pay goes back to the reserve. To the unit: what leaves held pay and the reserve arrives elsewhere.
Source: seed 001, sections 6 and 8, Appendix F.
"""

from __future__ import annotations

import msgspec

from paceline.base.integers import PPM, mul_div_floor, split_proportionally
from paceline.economy.pay import Pay, compute_criterion_ppm, compute_pay, compute_work_criterion_ppm
from paceline.economy.supply import compute_floor_issuance
from paceline.ledger import attendance, bonds, dummies, earnings, nodes, task_pay, task_reports, traps
from paceline.ledger.accounts import HELD_PAY, RESERVE, TRAINING_FUND, get_account, move_coins
from paceline.ledger.evidence import take_missed
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State, Table
from paceline.ledger.training import DISPUTES, ENDED, ID_BYTES, RUNS, STARTS, UPDATES
from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED
from paceline.protocol.params import NetworkParams

KEPT_EPOCHS = 8


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


SETTLED: Table[tuple[Line, ...]] = Table("settlement/by-epoch", tuple[Line, ...])


def get_settlement(state: State, epoch: int) -> tuple[Line, ...] | None:
    """The table of an epoch that is still kept."""
    return SETTLED.get(state, epoch.to_bytes(8, "big"))


def settle_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    """Release or forfeit everything that is final, issue the floor, write the table of the epoch."""
    attendance.end_epoch(state, params)
    task_reports.end_epoch(state)
    due = _collect_due(state, params)
    dummies.end_epoch(state)
    shares = _compute_issuance(state, params, due, epoch)
    had = {address: node.earned for address, node in NODES.items(state)}
    _pay_bounties(state, params, due, epoch)
    traps.pay_jackpots(state, params, due, epoch)
    lines = [
        _settle_node(state, params, address, epoch, (due.get(address, 0), shares.get(address, 0)), before)
        for address, before in had.items()
    ]
    SETTLED.put(state, epoch.to_bytes(8, "big"), tuple(lines))
    if epoch >= KEPT_EPOCHS:
        SETTLED.delete(state, (epoch - KEPT_EPOCHS).to_bytes(8, "big"))
    state.emit("settled", epoch=epoch)


def _collect_due(state: State, params: NetworkParams) -> dict[bytes, int]:
    """What each node's finished work earned; the fund's share leaves at once, settled records go."""
    due: dict[bytes, int] = {}
    for worker, pay in (*task_pay.collect_pay(state, params), *_collect_updates(state, params)):
        move_coins(state, HELD_PAY, TRAINING_FUND, pay.fund)
        for address, amount in ((worker, pay.worker), *pay.checkers):
            due[address] = due.get(address, 0) + amount
    return due


def _collect_updates(state: State, params: NetworkParams) -> list[tuple[bytes, Pay]]:
    found = []
    ended = {run_id for run_id, run in RUNS.items(state) if run.phase == ENDED}
    for key, update in UPDATES.items(state):
        if update.pay > 0:
            checkers = [v.voter for v in update.votes if v.voter in update.auditors and v.outcome == ACCEPTED]
            found.append((key[ID_BYTES + 4 :], compute_pay(update.pay, checkers, params.fund_ppm)))
            UPDATES.put(state, key, msgspec.structs.replace(update, pay=0))
        if key[:ID_BYTES] in ended and DISPUTES.get(state, key) is None:
            UPDATES.delete(state, key)
            STARTS.delete(state, key[: ID_BYTES + 4])
    return found


def _compute_issuance(state: State, params: NetworkParams, due: dict[bytes, int], epoch: int) -> dict[bytes, int]:
    """Floor issuance by race weight among those who worked honestly; without work nothing is issued."""
    weights = {
        a: w for a, w in nodes.get_weights(state).items() if due.get(a, 0) > 0 and not _is_guilty(state, a, epoch)
    }
    if not weights:
        return {}
    reserve = get_account(state, RESERVE).balance
    issued = compute_floor_issuance(state.height, params.epoch_blocks, params.blocks_per_day, reserve)
    fund = mul_div_floor(issued, params.fund_ppm, PPM)
    move_coins(state, RESERVE, TRAINING_FUND, fund)
    return split_proportionally(issued - fund, weights)


def _pay_bounties(state: State, params: NetworkParams, due: dict[bytes, int], epoch: int) -> None:
    """What proved frauds earn comes out of the cheater's forfeit, before the rest goes to the reserve."""
    forfeits = {a: amount for a, amount in due.items() if _is_guilty(state, a, epoch)}
    incomes = {a: amount for a, amount in due.items() if a not in forfeits}
    for cheater, accuser, amount in bonds.share_bounties(state, forfeits, incomes, params.race.bounty):
        due[cheater] -= amount
        move_coins(state, HELD_PAY, accuser, amount)
    # Users come last: a report pays even without one, by the fee that it may lose.
    for cheater, reporter in task_pay.take_rewards(state):
        amount = min(params.tasks.report_reward, due.get(cheater, 0)) if cheater in forfeits else 0
        if amount:
            due[cheater] -= amount
            move_coins(state, HELD_PAY, reporter, amount)


def _settle_node(
    state: State, params: NetworkParams, address: bytes, epoch: int, income: tuple[int, int], had: int
) -> Line:
    """`income` is what its finished work earned, and its share of the issuance; `had` what it ever earned before."""
    due, share = income
    node = NODES.get(state, address)
    assert node is not None
    guilty = _is_guilty(state, address, epoch)
    lost = guilty or traps.is_fooled(params, node)
    criterion = 0 if lost else compute_criterion_ppm(node.fulfilled, node.duties)
    present = compute_work_criterion_ppm(node.answered - node.marks, node.drawn, params.tasks.absence_ppm)
    criterion = mul_div_floor(criterion, present, PPM)
    missed = min(take_missed(state, address), params.epoch_blocks)
    criterion = mul_div_floor(criterion, params.epoch_blocks - missed, params.epoch_blocks)
    released = mul_div_floor(due, criterion, PPM)
    issued = mul_div_floor(share, criterion, PPM)
    move_coins(state, HELD_PAY, address, released)
    move_coins(state, HELD_PAY, RESERVE, due - released)
    move_coins(state, RESERVE, address, issued)
    earnings.note_issued(state, address, issued)
    earnings.note_paid(state, address, released + issued)
    bonds.collect_debt(state, address, released + issued)
    earned, forfeited = released + issued, node.refunded + due - released
    line = Line(
        address=address,
        name=node.name,
        voting_power=node.voting_power,
        tasks=node.tasks,
        checks=node.checks,
        # Bounties and jackpots are counted at the node already.
        earned=node.earned + earned - had,
        forfeited=forfeited,
    )
    settled = msgspec.structs.replace(
        node,
        reputation=0 if lost else node.reputation + (1 if due > 0 or node.dummies > 0 else 0),
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
    NODES.put(state, address, settled)
    return line


def _is_guilty(state: State, address: bytes, epoch: int) -> bool:
    node = NODES.get(state, address)
    return node is not None and node.guilty == epoch
