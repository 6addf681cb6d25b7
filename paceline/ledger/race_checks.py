"""Checks of opened claims: drawn checkers report or accuse, and one accused number is judged by everybody with weight.

A claim stands unless a checker names the position of a wrong hit. The ledger never computes a hit: more than half of
all weight says whether the one number is one. Guilt voids the whole claim; a false accusation costs the bond.
Invariant: each drawn checker acts once per claim and draw; a bond is at stake exactly while its accusation is open.
Source: seed 001, section 6; decision 016.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import WeightLine
from paceline.base.errors import InvalidTransaction
from paceline.ledger import bonds, nodes, race_reviews
from paceline.ledger.bonds import Bond
from paceline.ledger.disputes import compute_majority
from paceline.ledger.race_claims import (
    CHECKS,
    CLAIMS_TABLE,
    VERDICTS,
    RaceRecord,
    RaceState,
    derive_sample_seed,
    expect_phase,
    forget_openings,
    get_open_claims,
    get_own_positions,
    get_sample,
    set_outcome,
)
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED, AccuseRace, JudgeRace, ReportRace
from paceline.protocol.params import NetworkParams

_ADDRESS_BYTES = 20


class Accusation(Record, frozen=True):
    """One number that a checker calls no hit. `outcome` is the majority's word on the number, empty while open."""

    bond: Bond
    supporters: tuple[bytes, ...] = ()
    """Checkers that named the same number later; they put nothing at stake and are promised nothing."""
    votes: tuple[tuple[bytes, str], ...] = ()
    outcome: str = ""


ACCUSATIONS: Table[Accusation] = Table("race/accusation", Accusation)


def draw_checkers(state: State, params: NetworkParams, race: RaceState) -> None:
    """Fill the slots of every open claim by weight; with nobody to check it, a claim stays undecided."""
    line = WeightLine(nodes.get_weights(state))
    for prover, record in get_open_claims(state):
        seed = derive_sample_seed(state, race, prover)
        checkers = tuple(line.draw_slots(seed, params.race.checker_slots, prover))
        CLAIMS_TABLE.put(state, prover, msgspec.structs.replace(record, checkers=checkers))
        if not checkers:
            set_outcome(state, race, prover, UNDECIDED, "nobody else has weight")


def open_checks(state: State, race: RaceState) -> None:
    """Close claims with withheld openings, and count the duties that the others give."""
    drawn: dict[bytes, int] = {}
    for prover, record in get_open_claims(state):
        if not record.is_opened():
            # A crash looks the same as a liar who saw its sample: both lose the claim, nobody is called guilty.
            set_outcome(state, race, prover, UNDECIDED, "withheld openings")
            continue
        for checker in dict.fromkeys(record.checkers):
            drawn[checker] = drawn.get(checker, 0) + 1
    for checker in sorted(drawn):
        nodes.add_to_node(state, checker, duties=drawn[checker])


def apply_report(state: State, params: NetworkParams, sender: bytes, message: ReportRace) -> None:
    """A drawn checker found nothing wrong at any of its positions."""
    race = expect_phase(state, message.race, CHECKS)
    record = _expect_duty(state, sender, message.prover)
    own = get_own_positions(state, params, race, message.prover, sender)
    if message.checked != len(own):
        raise InvalidTransaction("wrong-count", f"{len(own)} positions are to be checked, not {message.checked}")
    reports = (*record.reports, sender)
    CLAIMS_TABLE.put(state, message.prover, msgspec.structs.replace(record, reports=reports))
    race_reviews.keep_report(state, message.prover, sender, message.digest)
    nodes.add_to_node(state, sender, fulfilled=1)


def apply_accusation(state: State, params: NetworkParams, sender: bytes, message: AccuseRace) -> None:
    """A drawn checker names the position of a wrong hit, its own or another slot's, and puts a bond at stake."""
    race = expect_phase(state, message.race, CHECKS)
    record = _expect_duty(state, sender, message.prover)
    if message.position not in get_sample(state, params, race, message.prover, record):
        raise InvalidTransaction("not-opened", f"position {message.position} is not in the sample")
    key = accusation_key(message.prover, message.position)
    former = ACCUSATIONS.get(state, key)
    if former is None:
        ACCUSATIONS.put(state, key, Accusation(bonds.post_bond(state, sender, params.race.bond)))
    else:
        ACCUSATIONS.put(state, key, msgspec.structs.replace(former, supporters=(*former.supporters, sender)))
    nodes.add_to_node(state, sender, fulfilled=1)
    state.emit("race-accusation", epoch=race.epoch, node=message.prover.hex(), accuser=sender.hex())


def apply_verdict(state: State, sender: bytes, message: JudgeRace) -> None:
    """A node with weight says whether an accused number is a hit; more than half of all weight decides."""
    race = expect_phase(state, message.race, VERDICTS)
    weights = nodes.get_weights(state)
    if sender not in weights or sender == message.prover:
        raise InvalidTransaction("no-vote", "only other nodes with weight judge a claim")
    key = accusation_key(message.prover, message.position)
    accusation = ACCUSATIONS.get(state, key)
    if accusation is None or accusation.outcome:
        raise InvalidTransaction("nothing-to-judge", "no open accusation names this number")
    if any(voter == sender for voter, _ in accusation.votes):
        raise InvalidTransaction("already-judged", "one verdict per accusation")
    votes = (*accusation.votes, (sender, message.verdict.outcome))
    outcome = compute_majority(votes, weights)
    ACCUSATIONS.put(state, key, msgspec.structs.replace(accusation, votes=votes, outcome=outcome))
    if outcome == ACCEPTED:
        bonds.lose_bond(state, accusation.bond)
        state.emit("false-accusation", epoch=race.epoch, node=accusation.bond.owner.hex())
    elif outcome == REJECTED:
        bonds.return_bond(state, accusation.bond)
        bonds.promise_bounty(state, message.prover, accusation.bond.owner)
        set_outcome(state, race, message.prover, REJECTED, f"the number at position {message.position} is no hit")
        drop_accusations(state, message.prover)


def get_accusations(state: State, prover: bytes = b"") -> list[tuple[bytes, int, Accusation]]:
    """Open accusations: (prover, position, accusation), of one claim or of all."""
    return [
        (key[:_ADDRESS_BYTES], int.from_bytes(key[_ADDRESS_BYTES:], "big"), accusation)
        for key, accusation in ACCUSATIONS.items(state, prover)
        if not accusation.outcome
    ]


def have_all_acted(state: State) -> bool:
    """True when every drawn checker of every open claim has reported or accused."""
    return all(
        has_acted(state, prover, record, checker)
        for prover, record in get_open_claims(state)
        for checker in dict.fromkeys(record.checkers)
    )


def has_acted(state: State, prover: bytes, record: RaceRecord, checker: bytes) -> bool:
    """True when a checker has reported on or accused a claim."""
    return checker in record.reports or any(
        checker in (accusation.bond.owner, *accusation.supporters) for _, accusation in ACCUSATIONS.items(state, prover)
    )


def conclude(state: State, params: NetworkParams, race: RaceState) -> bool:
    """Decide every open claim that can be; True when some had too few reports and must be drawn again."""
    again = False
    for prover, record in get_open_claims(state):
        reported = sum(checker in record.reports for checker in record.checkers)
        if get_accusations(state, prover):
            set_outcome(state, race, prover, UNDECIDED, "no majority on an accused number")
        elif reported >= params.race.report_slots:
            set_outcome(state, race, prover, ACCEPTED, f"{reported} slots found nothing")
        elif race.draws < params.race.sample_draws:
            CLAIMS_TABLE.put(state, prover, RaceRecord(record.root, record.count))
            forget_openings(state, prover)
            again = True
        else:
            set_outcome(state, race, prover, UNDECIDED, f"{reported} slots reported")
        drop_accusations(state, prover)
    # A new draw moves the sample of every claim, so an old report could no longer be compared with anything.
    race_reviews.forget_reports(state)
    return again


def drop_accusations(state: State, prover: bytes = b"") -> None:
    """Forget accusations, of one claim or of all; bonds that are still at stake go back."""
    for key, accusation in ACCUSATIONS.items(state, prover):
        if not accusation.outcome:
            bonds.return_bond(state, accusation.bond)
        ACCUSATIONS.delete(state, key)


def accusation_key(prover: bytes, position: int) -> bytes:
    """Where the accusation of one number stands."""
    return prover + position.to_bytes(4, "big")


def _expect_duty(state: State, sender: bytes, prover: bytes) -> RaceRecord:
    record = CLAIMS_TABLE.get(state, prover)
    if record is None or record.outcome:
        raise InvalidTransaction("nothing-to-check", "this node has no open claim")
    if sender not in record.checkers:
        raise InvalidTransaction("not-drawn", "this node was not drawn to check the claim")
    if has_acted(state, prover, record, sender):
        raise InvalidTransaction("already-checked", "one report or accusation per claim")
    return record
