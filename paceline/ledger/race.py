"""The Race on the ledger: commit, seed, Race with claims, sample, openings, checks, verdicts, new weights.

An epoch opens with it; this module moves it from phase to phase. The ledger sees roots, counts, openings and verdicts;
the work itself happens elsewhere. A claim is committed before its sample is known; one wrong hit voids it; the verdict
is final at more than half of the weight that ruled before. If nobody's claim is accepted, the former weights stay one
more epoch. A surprise Race, drawn from the beacon later in the epoch, can lower weights and never raises one.
Source: seed 001, section 4 and Appendix A; decision 016.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import draw_happens
from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM
from paceline.economy.voting import compute_race_weights
from paceline.ledger import beacon, ceremony, clock, nodes, race_checks, race_reviews, seeds
from paceline.ledger.race_claims import (
    CHECKS,
    CLAIMS,
    CLAIMS_TABLE,
    COMMIT,
    CONFIRM,
    DONE,
    OPENINGS,
    RACING,
    REVEAL,
    SAMPLE,
    SEED,
    STATE,
    VERDICTS,
    RaceRecord,
    RaceState,
    forget_openings,
    get_open_claims,
    get_race,
)
from paceline.ledger.state import State, Table
from paceline.protocol.messages import ACCEPTED, REJECTED, CommitSeed, PostPartials, RevealSeed
from paceline.protocol.params import NetworkParams

__all__ = [
    "CHECKS",
    "CLAIMS",
    "CLAIMS_TABLE",
    "COMMIT",
    "CONFIRM",
    "DONE",
    "OPENINGS",
    "RACING",
    "REVEAL",
    "SAMPLE",
    "SEED",
    "STATE",
    "VERDICTS",
    "RaceRecord",
    "RaceState",
    "apply_seed_commit",
    "apply_seed_partials",
    "apply_seed_reveal",
    "begin_epoch",
    "compute_length",
    "end_block",
    "get_race",
]


WEIGHED: Table[int] = Table("race/weighed", int)
"""Number of the last Race that set weights; absent while those of genesis rule."""


def begin_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    """Open the commit phase of a new epoch. A Race that never ended leaves the weights as they are."""
    former = get_race(state)
    if former is not None and former.phase not in (DONE, CONFIRM):
        beacon.forget_partials(state, beacon.RACE, former.epoch)
        state.emit("race-failed", epoch=former.epoch, reason="it did not end within its epoch; former weights stay")
        # It waited for the beacon: without a new group it would wait for ever.
        ceremony.begin(state, epoch)
    _clear(state)
    seeds.begin(state)
    number = 0 if former is None else former.number + 1
    _enter(state, RaceState(epoch, COMMIT, state.height + params.race.commit_blocks, number=number))


def apply_seed_commit(state: State, sender: bytes, message: CommitSeed) -> None:
    """A node commits a contribution to the seed, in its window only."""
    _expect_seed_phase(state, message.epoch, COMMIT)
    seeds.apply_commit(state, sender, message)


def apply_seed_reveal(state: State, sender: bytes, message: RevealSeed) -> None:
    """A node reveals its contribution, in its window only."""
    _expect_seed_phase(state, message.epoch, REVEAL)
    seeds.apply_reveal(state, sender, message)


def apply_seed_partials(
    state: State, params: NetworkParams, chain_id: str, sender: bytes, message: PostPartials
) -> None:
    """A member signs the epoch, once no contribution can be withheld any more."""
    race = _expect_seed_phase(state, message.number, SEED)
    late = state.height - race.deadline > params.fallback_blocks
    seeds.apply_partials(state, chain_id, sender, message, late=late)


def compute_length(params: NetworkParams) -> int:
    """Most heights that a Race takes from its seed on, if its claims are drawn once."""
    race = params.race
    windows = race.race_blocks + race.claim_blocks + race.opening_blocks + race.check_blocks + race.verdict_blocks
    return windows + 2 * params.beacon_interval


def end_block(state: State, params: NetworkParams) -> list[tuple[bytes, int]]:
    """Move to the next phase when its time has come; returns validator updates when new weights take effect."""
    race = STATE.get(state)
    if race is None:
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
    elif race.phase == CLAIMS and over:
        # Never earlier, though everybody may have claimed: the length of the Race is what the votes measure.
        _request_sample(state, params, race)
    elif race.phase in (DONE, CONFIRM):
        _try_surprise(state, params, race)
    else:
        return _end_checking(state, params, race)
    return []


def _end_checking(state: State, params: NetworkParams, race: RaceState) -> list[tuple[bytes, int]]:
    over = state.height >= race.deadline
    if race.phase == SAMPLE and beacon.get_value(state, race.round_index) is not None:
        race_checks.draw_checkers(state, params, race)
        _enter(state, _move(race, OPENINGS, state.height + params.race.opening_blocks))
    elif race.phase == OPENINGS and (over or all(record.is_opened() for _, record in get_open_claims(state))):
        race_checks.open_checks(state, race)
        _enter(state, _move(race, CHECKS, state.height + params.race.check_blocks))
    elif race.phase == CHECKS and (over or race_checks.have_all_acted(state)):
        _enter(state, _move(race, VERDICTS, state.height + params.race.verdict_blocks))
    elif race.phase == VERDICTS and (over or _is_all_judged(state, params, race)):
        if race_checks.conclude(state, params, race):
            _request_sample(state, params, race)
        else:
            return _install_weights(state, params, race)
    return []


def _is_all_judged(state: State, params: NetworkParams, race: RaceState) -> bool:
    accused = race_checks.get_accusations(state) or race_reviews.get_report_accusations(state)
    return not accused and race_reviews.is_review_over(state, params, race)


def _leave_seed(state: State, params: NetworkParams, race: RaceState) -> None:
    waited = state.height - race.deadline
    found = seeds.compute_seed(state, params, race.epoch, waited)
    if found is not None:
        seed, source = found
        beacon.forget_partials(state, beacon.RACE, race.epoch)
        closes = state.height + params.race.race_blocks
        _enter(state, _move(race, RACING, closes, seed=seed, seed_source=source))
        state.emit("race-open", epoch=race.epoch, closes=closes + params.race.claim_blocks, seed=source)
    elif waited > 3 * params.fallback_blocks:
        beacon.forget_partials(state, beacon.RACE, race.epoch)
        _enter(state, _move(race, DONE, 0))
        state.emit("race-failed", epoch=race.epoch, reason="nobody signed the seed; former weights stay")
        ceremony.begin(state, race.epoch)


def _request_sample(state: State, params: NetworkParams, race: RaceState) -> None:
    index = beacon.request_round(state)
    deadline = state.height + params.beacon_interval
    _enter(state, _move(race, SAMPLE, deadline, round_index=index, draws=race.draws + 1))


def _install_weights(state: State, params: NetworkParams, race: RaceState) -> list[tuple[bytes, int]]:
    claims = CLAIMS_TABLE.items(state)
    accepted = {address: record.count for address, record in claims if record.outcome == ACCEPTED}
    for address, record in claims:
        if record.outcome == REJECTED:
            _punish(state, race, address)
    weights = _compute_weights(state, params, race, accepted)
    race_checks.drop_accusations(state)
    race_reviews.forget_reports(state)
    forget_openings(state)
    _enter(state, _plan_surprise(state, params, _move(race, DONE, 0, accepted_hits=sum(accepted.values()))))
    updates: list[tuple[bytes, int]] = []
    if weights:
        state.emit("race-weights", epoch=race.epoch, hits=sum(accepted.values()), nodes=len(weights))
        updates = nodes.set_weights(state, params, weights)
        WEIGHED.put(state, b"", race.number)
    else:
        state.emit("race-failed", epoch=race.epoch, reason="no claim was accepted; former weights stay")
    ceremony.begin(state, race.epoch)
    return updates


def _compute_weights(
    state: State, params: NetworkParams, race: RaceState, accepted: dict[bytes, int]
) -> dict[bytes, int]:
    former = nodes.get_weights(state)
    if race.confirmation:
        lowered = {address: min(count, former.get(address, 0)) for address, count in accepted.items()}
        return {address: weight for address, weight in lowered.items() if weight > 0}
    # The founders' weights end with the first Race and are never carried on.
    carried = {} if WEIGHED.get(state) is None else former
    return compute_race_weights(accepted, carried, params.race.carried_ppm)


def _punish(state: State, race: RaceState, address: bytes) -> None:
    if race.confirmation:
        # A surprise Race takes weight and standing; what this epoch's finished work earned stays.
        nodes.update_node(state, address, reputation=0)
    else:
        nodes.update_node(state, address, guilty=race.epoch, reputation=0)


def _plan_surprise(state: State, params: NetworkParams, race: RaceState) -> RaceState:
    """The height of the next draw; draws are spread evenly over the heights that leave room for a whole Race."""
    left = params.race.confirmation_draws - race.surprise_draws
    room = clock.compute_last_height(params, race.epoch) - compute_length(params) - state.height
    none = race.confirmation or params.race.confirmation_ppm == 0 or left <= 0 or room < left
    # After a failed Race the weights of another time rule, which a count of hits cannot be compared with.
    if none or race.accepted_hits == 0:
        return msgspec.structs.replace(race, surprise_at=0)
    return msgspec.structs.replace(race, surprise_at=state.height + room // left)


def _try_surprise(state: State, params: NetworkParams, race: RaceState) -> None:
    """One beacon value says both whether a surprise Race opens and what its seed is, so that nobody sees it coming."""
    if race.phase == DONE:
        if 0 < race.surprise_at <= state.height:
            index = beacon.request_round(state)
            _enter(state, _move(race, CONFIRM, state.height + params.beacon_interval, round_index=index))
        return
    value = beacon.derive_at(state, race.round_index, "race-surprise", race.number.to_bytes(8, "big"))
    if value is None:
        return
    # Drawn without replacement: the chances of all draws together are the stated one per epoch.
    chances = params.race.confirmation_draws * PPM - race.surprise_draws * params.race.confirmation_ppm
    if draw_happens(value, params.race.confirmation_ppm, chances):
        _begin_surprise(state, params, race)
    else:
        _enter(
            state,
            _plan_surprise(state, params, _move(race, DONE, 0, surprise_draws=race.surprise_draws + 1)),
        )


def _begin_surprise(state: State, params: NetworkParams, race: RaceState) -> None:
    seed = beacon.derive_at(state, race.round_index, "race-seed", race.number.to_bytes(8, "big"))
    assert seed is not None
    _clear(state)
    opened = RaceState(
        race.epoch,
        RACING,
        state.height + params.race.race_blocks,
        seed=seed,
        number=race.number + 1,
        confirmation=True,
    )
    _enter(state, opened)
    state.emit("race-open", epoch=race.epoch, closes=opened.deadline + params.race.claim_blocks)


def _clear(state: State) -> None:
    race_checks.drop_accusations(state)
    race_reviews.forget_reports(state)
    forget_openings(state)
    for key, _ in CLAIMS_TABLE.items(state):
        CLAIMS_TABLE.delete(state, key)


def _expect_seed_phase(state: State, epoch: int, phase: str) -> RaceState:
    race = STATE.get(state)
    if race is None or race.epoch != epoch:
        raise InvalidTransaction("wrong-epoch", f"epoch {epoch} is not the running one")
    if race.phase != phase:
        raise InvalidTransaction("wrong-phase", f"the Race is in phase {race.phase}, this needs {phase}")
    return race


def _move(race: RaceState, phase: str, deadline: int, **changes: int | bytes | str) -> RaceState:
    return msgspec.structs.replace(race, phase=phase, deadline=deadline, **changes)


def _enter(state: State, race: RaceState) -> None:
    STATE.put(state, b"", race)
    state.emit("race-phase", epoch=race.epoch, phase=race.phase, deadline=race.deadline)
