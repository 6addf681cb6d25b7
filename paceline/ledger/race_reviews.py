"""Reviews of checkers' reports: a report names a digest that only recomputing yields, and anybody may call it false.

A checker that reports without looking cannot know the digest of the exact outputs at its positions, and another's digest
is bound to another address. Whoever recomputes and differs accuses the report with a bond; more than half of all weight
decides, as for a hit. The ledger compares no outputs; who reviews is drawn by each node in secret.
Invariant: a false report counts for no claim and its checker is guilty; a bond is at stake exactly while its accusation
is open. Source: seed 001, section 6; decision 021.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.ledger import bonds, nodes
from paceline.ledger.bonds import Bond
from paceline.ledger.disputes import compute_majority
from paceline.ledger.race_claims import CHECKS, CLAIMS_TABLE, VERDICTS, RaceState, expect_phase, get_race
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED, REJECTED, AccuseReport, JudgeReport
from paceline.protocol.params import NetworkParams

_ADDRESS_BYTES = 20


class ReportAccusation(Record, frozen=True):
    """One report that somebody calls false. `outcome` is the majority's word on it, empty while open."""

    bond: Bond
    votes: tuple[tuple[bytes, str], ...] = ()
    outcome: str = ""


REPORTS: Table[bytes] = Table("race/report", bytes)
"""Digest of a report, by prover and checker."""
REPORT_ACCUSATIONS: Table[ReportAccusation] = Table("race/report-accusation", ReportAccusation)


def keep_report(state: State, prover: bytes, checker: bytes, digest: bytes) -> None:
    """Remember what a report is held to."""
    REPORTS.put(state, prover + checker, digest)


def get_reports(state: State) -> list[tuple[bytes, bytes, bytes]]:
    """Reports of this draw that count: (prover, checker, digest)."""
    return [(key[:_ADDRESS_BYTES], key[_ADDRESS_BYTES:], digest) for key, digest in REPORTS.items(state)]


def get_report_accusations(state: State) -> list[tuple[bytes, bytes, ReportAccusation]]:
    """Open accusations of reports: (prover, checker, accusation)."""
    return [
        (key[:_ADDRESS_BYTES], key[_ADDRESS_BYTES:], accusation)
        for key, accusation in REPORT_ACCUSATIONS.items(state)
        if not accusation.outcome
    ]


def is_review_over(state: State, params: NetworkParams, race: RaceState) -> bool:
    """True once reports can no longer be accused; `race` is in its phase of checks or verdicts."""
    closes = race.deadline - params.race.verdict_blocks + params.race.review_blocks
    return race.phase == VERDICTS and state.height >= closes


def apply_report_accusation(state: State, params: NetworkParams, sender: bytes, message: AccuseReport) -> None:
    """A node with weight, or the prover itself, calls a report false and puts a bond at stake.

    Errors: InvalidTransaction wrong-race, wrong-phase, no-vote, nothing-to-accuse, already-accused, in-debt.
    """
    race = get_race(state)
    if race is None or race.number != message.race:
        raise InvalidTransaction("wrong-race", f"Race {message.race} is not the running one")
    if race.phase not in (CHECKS, VERDICTS) or is_review_over(state, params, race):
        raise InvalidTransaction("wrong-phase", f"reports cannot be accused in phase {race.phase} at this height")
    if sender == message.checker or (sender != message.prover and sender not in nodes.get_weights(state)):
        raise InvalidTransaction("no-vote", "only the prover and other nodes with weight accuse a report")
    key = message.prover + message.checker
    if REPORTS.get(state, key) is None:
        raise InvalidTransaction("nothing-to-accuse", "this checker has no report on this claim")
    if REPORT_ACCUSATIONS.get(state, key) is not None:
        raise InvalidTransaction("already-accused", "this report is accused")
    REPORT_ACCUSATIONS.put(state, key, ReportAccusation(bonds.post_bond(state, sender, params.race.bond)))
    state.emit("report-accusation", epoch=race.epoch, node=message.checker.hex(), accuser=sender.hex())


def apply_report_verdict(state: State, sender: bytes, message: JudgeReport) -> None:
    """A node with weight says whether an accused report is what recomputing gives.

    Errors: InvalidTransaction wrong-race, wrong-phase, no-vote, nothing-to-judge, already-judged.
    """
    race = expect_phase(state, message.race, VERDICTS)
    weights = nodes.get_weights(state)
    if sender not in weights or sender == message.checker:
        raise InvalidTransaction("no-vote", "only other nodes with weight judge a report")
    key = message.prover + message.checker
    accusation = REPORT_ACCUSATIONS.get(state, key)
    if accusation is None or accusation.outcome:
        raise InvalidTransaction("nothing-to-judge", "no open accusation names this report")
    if any(voter == sender for voter, _ in accusation.votes):
        raise InvalidTransaction("already-judged", "one verdict per accusation")
    votes = (*accusation.votes, (sender, message.verdict.outcome))
    outcome = compute_majority(votes, weights)
    REPORT_ACCUSATIONS.put(state, key, msgspec.structs.replace(accusation, votes=votes, outcome=outcome))
    if outcome == ACCEPTED:
        bonds.lose_bond(state, accusation.bond)
        state.emit("false-accusation", epoch=race.epoch, node=accusation.bond.owner.hex())
    elif outcome == REJECTED:
        bonds.return_bond(state, accusation.bond)
        bonds.promise_bounty(state, message.checker, accusation.bond.owner)
        _void_report(state, race, message.prover, message.checker)


def forget_reports(state: State) -> None:
    """Drop all reports and their accusations; bonds that are still at stake go back."""
    for key, _ in REPORTS.items(state):
        REPORTS.delete(state, key)
    for key, accusation in REPORT_ACCUSATIONS.items(state):
        if not accusation.outcome:
            bonds.return_bond(state, accusation.bond)
        REPORT_ACCUSATIONS.delete(state, key)


def _void_report(state: State, race: RaceState, prover: bytes, checker: bytes) -> None:
    record = CLAIMS_TABLE.get(state, prover)
    assert record is not None
    kept = tuple(reporter for reporter in record.reports if reporter != checker)
    CLAIMS_TABLE.put(state, prover, msgspec.structs.replace(record, reports=kept))
    REPORTS.delete(state, prover + checker)
    nodes.add_to_node(state, checker, fulfilled=-1)
    if race.confirmation:
        # As for a wrong hit: a surprise Race never takes what finished work earned.
        nodes.update_node(state, checker, reputation=0)
    else:
        nodes.update_node(state, checker, guilty=race.epoch, reputation=0)
    state.emit("false-report", epoch=race.epoch, node=checker.hex(), prover=prover.hex())
