"""Claims of a Race: a root that may be replaced while the window is open, the drawn checkers, the openings they need.

The ledger sees roots, counts, positions and opened numbers; whether a number is a hit it never asks. Openings come in
the order of the sample, so that how many there are is all that must be remembered of them.
Invariant: what is opened was committed before the beacon value that chose it; opened numbers live until the Race ends.
Source: seed 001, Appendix A; decision 016.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import draw_sample
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.range_tree import RangeNode, RangeOpening, verify_range_opening
from paceline.ledger import beacon, nodes
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import CommitRace, OpenRace
from paceline.protocol.params import NetworkParams

COMMIT, REVEAL, SEED, RACING, CLAIMS, SAMPLE, OPENINGS, CHECKS, VERDICTS, DONE, CONFIRM = (
    "commit",
    "reveal",
    "seed",
    "racing",
    "claims",
    "sample",
    "openings",
    "checks",
    "verdicts",
    "done",
    "confirm",
)
MAX_HITS = 2**31


class RaceState(Record, frozen=True):
    """Where the Race of an epoch stands. `deadline` is the last height of the phase; `seed` opens the Race."""

    epoch: int
    phase: str
    deadline: int
    round_index: int = 0
    """Beacon round that the phase waits for, or that drew the sample."""
    seed: bytes = b""
    seed_source: str = ""
    """What the seed rests on: signed, or reveals-only when no group signed."""
    accepted_hits: int = 0
    number: int = 0
    """Counts all Races since genesis; messages name it."""
    draws: int = 0
    """How often checkers were drawn in this Race."""
    confirmation: bool = False
    """True for a surprise Race, which can only lower weights."""
    surprise_at: int = 0
    """Height of the next draw for a surprise Race, 0 when none is left in this epoch."""
    surprise_draws: int = 0


class RaceRecord(Record, frozen=True):
    """One node's claim in the running Race."""

    root: bytes
    count: int
    checkers: tuple[bytes, ...] = ()
    """One address per slot, empty until drawn."""
    due: int = 0
    """How many openings the sample asks for, 0 until the first ones came."""
    opened: int = 0
    reports: tuple[bytes, ...] = ()
    """Checkers that found nothing wrong."""
    outcome: str = ""
    """accepted, rejected, undecided (withheld openings, too few reports, no majority), or empty while open."""

    def is_opened(self) -> bool:
        """True when every sampled position is open."""
        return 0 < self.due == self.opened


STATE: Table[RaceState] = Table("race/state", RaceState)
CLAIMS_TABLE: Table[RaceRecord] = Table("race/claim", RaceRecord)
OPENED: Table[tuple[int, ...]] = Table("race/opened", tuple[int, ...])


def get_race(state: State) -> RaceState | None:
    """The running Race, or the last one."""
    return STATE.get(state)


def compute_close(params: NetworkParams, race: RaceState) -> int:
    """Last height that takes claims of a Race in its phases racing and claims."""
    return race.deadline + (params.race.claim_blocks if race.phase == RACING else 0)


def get_open_claims(state: State) -> list[tuple[bytes, RaceRecord]]:
    """Claims of the running Race without outcome, by address."""
    return [(address, record) for address, record in CLAIMS_TABLE.items(state) if not record.outcome]


def derive_sample_seed(state: State, race: RaceState, prover: bytes) -> bytes:
    """What draws a claim's checkers and positions; known only after all roots and counts are committed."""
    seed = beacon.derive_at(state, race.round_index, "race-sample", prover)
    assert seed is not None
    return seed


def get_slot_positions(
    state: State, params: NetworkParams, race: RaceState, prover: bytes, record: RaceRecord, slots: list[int]
) -> list[int]:
    """Distinct positions that the given slots of a claim check, sorted."""
    seed = derive_sample_seed(state, race, prover)
    found: dict[int, None] = {}
    for slot in slots:
        found.update(dict.fromkeys(draw_slot_positions(params, seed, slot, record.count)))
    return sorted(found)


def draw_slot_positions(params: NetworkParams, seed: bytes, slot: int, count: int) -> list[int]:
    """Positions of one slot: its own sample of the claim, or all of a small claim."""
    take = count if count < params.race.open_whole_below else params.race.slot_positions
    return draw_sample(hash_parts("race-slot", seed, slot.to_bytes(2, "big")), count, take)


def get_sample(state: State, params: NetworkParams, race: RaceState, prover: bytes, record: RaceRecord) -> list[int]:
    """All positions that a prover must open: the union over the slots, sorted."""
    return get_slot_positions(state, params, race, prover, record, list(range(len(record.checkers))))


def get_own_positions(state: State, params: NetworkParams, race: RaceState, prover: bytes, checker: bytes) -> list[int]:
    """Positions of a claim that one drawn checker must recompute, over all its slots; empty when it was not drawn."""
    record = CLAIMS_TABLE.get(state, prover)
    if record is None:
        return []
    slots = [slot for slot, address in enumerate(record.checkers) if address == checker]
    return get_slot_positions(state, params, race, prover, record, slots)


def get_opened(state: State, params: NetworkParams, race: RaceState, prover: bytes) -> dict[int, int]:
    """The opened numbers of a claim by position."""
    record = CLAIMS_TABLE.get(state, prover)
    if record is None or record.opened == 0:
        return {}
    numbers = [number for _, chunk in OPENED.items(state, prover) for number in chunk]
    return dict(zip(get_sample(state, params, race, prover, record), numbers, strict=False))


def apply_claim(state: State, sender: bytes, message: CommitRace) -> None:
    """A node commits root and count in the claim window; the last claim that counts more than the former one holds."""
    race = expect_phase(state, message.race, CLAIMS)
    require_racer(state, race, sender)
    if not 1 <= message.count <= MAX_HITS:
        raise InvalidTransaction("bad-count", f"count must be 1 to {MAX_HITS}, is {message.count}")
    former = CLAIMS_TABLE.get(state, sender)
    if former is not None and message.count <= former.count:
        raise InvalidTransaction("not-growing", f"{former.count} hits are committed, {message.count} are no more")
    CLAIMS_TABLE.put(state, sender, RaceRecord(message.root, message.count))
    state.emit("race-claim", epoch=race.epoch, node=sender.hex(), count=message.count)


def apply_openings(state: State, params: NetworkParams, sender: bytes, message: OpenRace) -> None:
    """A node opens the next positions of its sample, in order."""
    race = expect_phase(state, message.race, OPENINGS)
    record = CLAIMS_TABLE.get(state, sender)
    if record is None:
        raise InvalidTransaction("no-claim", "this node committed no claim")
    if record.outcome or not record.checkers:
        raise InvalidTransaction("nothing-to-open", "this claim needs no openings")
    if record.is_opened():
        raise InvalidTransaction("already-opened", "every sampled position is open")
    sample = get_sample(state, params, race, sender, record)
    after = record.opened + len(message.openings)
    if [opening.position for opening in message.openings] != sample[record.opened : after]:
        raise InvalidTransaction("wrong-sample", "the openings are not the next sampled positions in order")
    for opening in message.openings:
        siblings = [RangeNode(s.count, s.low, s.high, s.digest) for s in opening.siblings]
        opened = RangeOpening(opening.position, opening.race_nonce, siblings)
        if not verify_range_opening(record.root, record.count, opened):
            raise InvalidTransaction("wrong-path", f"position {opening.position} does not lead to the root")
    OPENED.put(state, sender + record.opened.to_bytes(4, "big"), tuple(o.race_nonce for o in message.openings))
    CLAIMS_TABLE.put(state, sender, msgspec.structs.replace(record, due=len(sample), opened=after))


def require_racer(state: State, race: RaceState, address: bytes) -> None:
    """Errors: InvalidTransaction not-a-node, too-new, leaving."""
    node = nodes.NODES.get(state, address)
    if node is None:
        raise InvalidTransaction("not-a-node", "only nodes race")
    if node.since >= race.epoch:
        raise InvalidTransaction("too-new", f"registered in epoch {node.since}, its first Race is that of the next")
    if node.leaves >= 0:
        raise InvalidTransaction("leaving", "a leaving node races no more")


def may_race(state: State, race: RaceState, address: bytes) -> bool:
    """True for a node that may claim in this Race."""
    try:
        require_racer(state, race, address)
    except InvalidTransaction:
        return False
    return True


def set_outcome(state: State, race: RaceState, prover: bytes, outcome: str, reason: str) -> None:
    """Close a claim."""
    record = CLAIMS_TABLE.get(state, prover)
    assert record is not None
    CLAIMS_TABLE.put(state, prover, msgspec.structs.replace(record, outcome=outcome))
    state.emit("race-verdict", epoch=race.epoch, node=prover.hex(), outcome=outcome, reason=reason)


def forget_openings(state: State, prover: bytes = b"") -> None:
    """Drop opened numbers, of one claim or of all."""
    for key, _ in OPENED.items(state, prover):
        OPENED.delete(state, key)


def expect_phase(state: State, number: int, phase: str) -> RaceState:
    """The running Race. Errors: InvalidTransaction wrong-race, wrong-phase."""
    race = STATE.get(state)
    if race is None or race.number != number:
        raise InvalidTransaction("wrong-race", f"Race {number} is not the running one")
    if race.phase != phase or (phase == CLAIMS and state.height > race.deadline):
        raise InvalidTransaction("wrong-phase", f"the Race is in phase {race.phase}, this needs {phase}")
    return race
