"""What the attacks on Race claims share: one small Race whose every nonce is known, and the real draws."""

from __future__ import annotations

import msgspec

from paceline.base.draws import WeightLine
from paceline.base.hashing import hash_parts
from paceline.base.range_tree import verify_range_opening
from paceline.ledger.race_claims import draw_slot_positions
from paceline.protocol.params import TINY, RaceParams
from paceline.race.check import check_nonces
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import Searcher

CHALLENGE = RaceChallenge(PRESETS["micro"], hash_parts("attacked-race"))
ALICE, MALLORY = hash_parts("alice"), hash_parts("mallory")
STANDARD = msgspec.structs.replace(
    TINY,
    race=RaceParams(
        preset="micro",
        commit_blocks=1,
        race_blocks=1,
        claim_blocks=1,
        opening_blocks=1,
        check_blocks=1,
        verdict_blocks=1,
        bond=1,
        bounty=1,
    ),
)
"""The checking as decision 016 derives it: 16 slots of 40 positions."""
SLOTS, POSITIONS = STANDARD.race.checker_slots, STANDARD.race.slot_positions


def search_all(challenge, key, nonces):
    """For each nonce whether it is a hit, by the fast path."""
    return Searcher(challenge, key).test_batch(nonces)


def trial_seed(trial):
    """The beacon's word on one claim, in one of many trials."""
    return hash_parts("trial", trial.to_bytes(4, "little"))


def draw_checked(trial, count, *, coalition_ppm=0, params=STANDARD, slots=None):
    """Positions that honest slots check, drawn by the ledger's own functions."""
    line = WeightLine({b"coalition": coalition_ppm, b"honest": 1_000_000 - coalition_ppm})
    seed, checked = trial_seed(trial), set()
    for slot, key in enumerate(line.draw_slots(seed, slots or params.race.checker_slots, b"prover")):
        if key == b"honest":
            checked.update(draw_slot_positions(params, seed, slot, count))
    return checked


def is_honest_at(tree, positions, key=ALICE):
    """What a checker finds at its positions: paths lead to the root and every number is a hit."""
    openings = [tree.open(position) for position in positions]
    paths = all(verify_range_opening(tree.root, tree.count, opening) for opening in openings)
    return paths and all(check_nonces(CHALLENGE, key, [opening.value for opening in openings]))
