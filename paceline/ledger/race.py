"""The Race on the ledger: commit, seed, Race, claims, sample, openings, verdicts, new weights.

An epoch opens with it. The ledger sees roots, counts, openings and verdicts; the work itself happens elsewhere. A claim
is committed before its sample is known; one wrong hit voids it; the verdict is final at more than half of the weight
that ruled before. If nobody's claim is accepted, the former weights stay one more epoch.
Source: seed 001, section 4 and Appendix A.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import draw_sample
from paceline.base.errors import InvalidTransaction
from paceline.base.range_tree import RangeNode, RangeOpening, verify_range_opening
from paceline.ledger import beacon, ceremony, nodes, seeds
from paceline.ledger.disputes import compute_majority
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import (
    ACCEPTED,
    REJECTED,
    UNDECIDED,
    CommitRace,
    CommitSeed,
    JudgeRace,
    OpenRace,
    PostPartials,
    RevealSeed,
)
from paceline.protocol.params import NetworkParams

COMMIT, REVEAL, SEED, RACING, CLAIMS, SAMPLE, OPENINGS, VERDICTS, DONE = (
    "commit",
    "reveal",
    "seed",
    "racing",
    "claims",
    "sample",
    "openings",
    "verdicts",
    "done",
)
MAX_HITS = 2**31


class RaceState(Record, frozen=True):
    """Where the Race of an epoch stands. `deadline` is the last height of the phase; `seed` opens the Race."""

    epoch: int
    phase: str
    deadline: int
    round_index: int = 0
    seed: bytes = b""
    seed_source: str = ""
    """What the seed rests on: signed, or reveals-only when no group signed."""
    accepted_hits: int = 0


class RaceRecord(Record, frozen=True):
    """One node's claim in the running Race."""

    root: bytes
    count: int
    race_nonces: tuple[int, ...] = ()
    """The opened hits, in the order of the sample; empty until opened."""
    outcome: str = ""
    """accepted, rejected, undecided (openings withheld), or empty while open."""
    votes: tuple[tuple[bytes, str], ...] = ()


STATE: Table[RaceState] = Table("race/state", RaceState)
CLAIMS_TABLE: Table[RaceRecord] = Table("race/claim", RaceRecord)


def get_race(state: State) -> RaceState | None:
    """The running Race, or the last one."""
    return STATE.get(state)


def get_sample(state: State, params: NetworkParams, race: RaceState, prover: bytes, count: int) -> list[int]:
    """Positions a prover must open; known only after all roots and counts are committed."""
    seed = beacon.derive_at(state, race.round_index, "race-sample", prover)
    assert seed is not None
    return draw_sample(seed, count, params.race.sample_size)


def begin_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    """Open the commit phase of a new epoch. A Race that never ended leaves the weights as they are."""
    former = STATE.get(state)
    if former is not None and former.phase != DONE:
        beacon.forget_partials(state, beacon.RACE, former.epoch)
        state.emit("race-failed", epoch=former.epoch, reason="it did not end within its epoch; former weights stay")
        # It waited for the beacon: without a new group it would wait for ever.
        ceremony.begin(state, epoch)
    for key, _ in CLAIMS_TABLE.items(state):
        CLAIMS_TABLE.delete(state, key)
    seeds.begin(state)
    _enter(state, RaceState(epoch, COMMIT, state.height + params.race.commit_blocks))


def apply_seed_commit(state: State, sender: bytes, message: CommitSeed) -> None:
    """A node commits a contribution to the seed, in its window only."""
    _expect_phase(state, message.epoch, COMMIT)
    seeds.apply_commit(state, sender, message)


def apply_seed_reveal(state: State, sender: bytes, message: RevealSeed) -> None:
    """A node reveals its contribution, in its window only."""
    _expect_phase(state, message.epoch, REVEAL)
    seeds.apply_reveal(state, sender, message)


def apply_seed_partials(
    state: State, params: NetworkParams, chain_id: str, sender: bytes, message: PostPartials
) -> None:
    """A member signs the epoch, once no contribution can be withheld any more."""
    race = _expect_phase(state, message.number, SEED)
    late = state.height - race.deadline > params.fallback_blocks
    seeds.apply_partials(state, chain_id, sender, message, late=late)


def apply_claim(state: State, sender: bytes, message: CommitRace) -> None:
    """A node commits root and count, in the claim window only."""
    race = _expect_phase(state, message.epoch, CLAIMS)
    if nodes.NODES.get(state, sender) is None:
        raise InvalidTransaction("not-a-node", "only nodes race")
    if CLAIMS_TABLE.get(state, sender) is not None:
        raise InvalidTransaction("already-claimed", "one claim per Race")
    if not 1 <= message.count <= MAX_HITS:
        raise InvalidTransaction("bad-count", f"count must be 1 to {MAX_HITS}, is {message.count}")
    CLAIMS_TABLE.put(state, sender, RaceRecord(message.root, message.count))
    state.emit("race-claim", epoch=race.epoch, node=sender.hex(), count=message.count)


def apply_openings(state: State, params: NetworkParams, sender: bytes, message: OpenRace) -> None:
    """A node opens exactly the sampled positions of its claim."""
    race = _expect_phase(state, message.epoch, OPENINGS)
    record = CLAIMS_TABLE.get(state, sender)
    if record is None:
        raise InvalidTransaction("no-claim", "this node committed no claim")
    if record.race_nonces:
        raise InvalidTransaction("already-opened", "openings are given once")
    sample = get_sample(state, params, race, sender, record.count)
    if [opening.position for opening in message.openings] != sample:
        raise InvalidTransaction("wrong-sample", "the openings are not the sampled positions in order")
    for opening in message.openings:
        siblings = [RangeNode(s.count, s.low, s.high, s.digest) for s in opening.siblings]
        if not verify_range_opening(
            record.root, record.count, RangeOpening(opening.position, opening.race_nonce, siblings)
        ):
            raise InvalidTransaction("wrong-path", f"position {opening.position} does not lead to the root")
    race_nonces = tuple(opening.race_nonce for opening in message.openings)
    CLAIMS_TABLE.put(state, sender, msgspec.structs.replace(record, race_nonces=race_nonces))


def apply_verdict(state: State, sender: bytes, message: JudgeRace) -> None:
    """A node with weight judges another node's opened claim; more than half of all weight decides."""
    race = _expect_phase(state, message.epoch, VERDICTS)
    weights = nodes.get_weights(state)
    record = CLAIMS_TABLE.get(state, message.prover)
    if sender not in weights or sender == message.prover:
        raise InvalidTransaction("no-vote", "only other nodes with weight judge a claim")
    if record is None or not record.race_nonces:
        raise InvalidTransaction("nothing-to-judge", "this node opened no claim")
    if any(voter == sender for voter, _ in record.votes):
        raise InvalidTransaction("already-judged", "one verdict per claim")
    votes = (*record.votes, (sender, message.verdict.outcome))
    outcome = record.outcome or compute_majority(votes, weights)
    CLAIMS_TABLE.put(state, message.prover, msgspec.structs.replace(record, votes=votes, outcome=outcome))
    if outcome and not record.outcome:
        state.emit("race-verdict", epoch=race.epoch, node=message.prover.hex(), outcome=outcome)


def end_block(state: State, params: NetworkParams) -> list[tuple[bytes, int]]:
    """Move to the next phase when its time has come; returns validator updates when new weights take effect."""
    race = STATE.get(state)
    if race is None or race.phase == DONE:
        return []
    over = state.height >= race.deadline
    if race.phase == COMMIT and (over or seeds.have_all_committed(state)):
        _enter(state, _move(race, REVEAL, state.height + params.reveal_blocks))
    elif race.phase == REVEAL and (over or seeds.have_all_revealed(state)):
        seeds.close_reveals(state)
        # While a signature is waited for, the deadline says since when.
        _enter(state, _move(race, SEED, state.height))
    elif race.phase == SEED:
        _leave_seed(state, params, race)
    elif race.phase == RACING and over:
        _enter(state, _move(race, CLAIMS, state.height + params.race.claim_blocks))
    elif race.phase == CLAIMS and (over or len(CLAIMS_TABLE.items(state)) == len(nodes.NODES.items(state))):
        index = beacon.request_round(state)
        _enter(state, _move(race, SAMPLE, state.height + params.beacon_interval, round_index=index))
    elif race.phase == SAMPLE and beacon.get_value(state, race.round_index) is not None:
        _enter(state, _move(race, OPENINGS, state.height + params.race.opening_blocks))
    elif race.phase == OPENINGS and (over or all(r.race_nonces for _, r in CLAIMS_TABLE.items(state))):
        _void_unopened(state)
        _enter(state, _move(race, VERDICTS, state.height + params.race.verdict_blocks))
    elif race.phase == VERDICTS and (over or all(r.outcome for _, r in CLAIMS_TABLE.items(state))):
        return _install_weights(state, params, race)
    return []


def _leave_seed(state: State, params: NetworkParams, race: RaceState) -> None:
    waited = state.height - race.deadline
    found = seeds.compute_seed(state, params, race.epoch, waited)
    if found is not None:
        seed, source = found
        beacon.forget_partials(state, beacon.RACE, race.epoch)
        closes = state.height + params.race.race_blocks
        _enter(state, _move(race, RACING, closes, seed=seed, seed_source=source))
        state.emit("race-open", epoch=race.epoch, closes=closes, seed=source)
    elif waited > 3 * params.fallback_blocks:
        beacon.forget_partials(state, beacon.RACE, race.epoch)
        _enter(state, _move(race, DONE, 0))
        state.emit("race-failed", epoch=race.epoch, reason="nobody signed the seed; former weights stay")
        ceremony.begin(state, race.epoch)


def _void_unopened(state: State) -> None:
    for address, record in CLAIMS_TABLE.items(state):
        if not record.race_nonces:
            # A crash looks the same as a liar who saw its sample: both lose the claim, nobody is called guilty.
            CLAIMS_TABLE.put(state, address, msgspec.structs.replace(record, outcome=UNDECIDED))
            state.emit("race-verdict", node=address.hex(), outcome=UNDECIDED, reason="withheld openings")


def _install_weights(state: State, params: NetworkParams, race: RaceState) -> list[tuple[bytes, int]]:
    claims = CLAIMS_TABLE.items(state)
    accepted = {address: record.count for address, record in claims if record.outcome == ACCEPTED}
    for address, record in claims:
        if record.outcome == REJECTED:
            nodes.update_node(state, address, guilty=race.epoch, reputation=0)
    _enter(state, _move(race, DONE, 0, accepted_hits=sum(accepted.values())))
    updates: list[tuple[bytes, int]] = []
    if accepted:
        state.emit("race-weights", epoch=race.epoch, hits=sum(accepted.values()), nodes=len(accepted))
        updates = nodes.set_weights(state, params, accepted)
    else:
        state.emit("race-failed", epoch=race.epoch, reason="no claim was accepted; former weights stay")
    ceremony.begin(state, race.epoch)
    return updates


def _expect_phase(state: State, epoch: int, phase: str) -> RaceState:
    race = STATE.get(state)
    if race is None or race.epoch != epoch:
        raise InvalidTransaction("wrong-epoch", f"epoch {epoch} is not the running one")
    if race.phase != phase or (phase == CLAIMS and state.height > race.deadline):
        raise InvalidTransaction("wrong-phase", f"the Race is in phase {race.phase}, this needs {phase}")
    return race


def _move(race: RaceState, phase: str, deadline: int, **changes: int | bytes | str) -> RaceState:
    return msgspec.structs.replace(race, phase=phase, deadline=deadline, **changes)


def _enter(state: State, race: RaceState) -> None:
    STATE.put(state, b"", race)
    state.emit("race-phase", epoch=race.epoch, phase=race.phase, deadline=race.deadline)
