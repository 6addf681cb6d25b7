"""From hits to a claim: every hit is recomputed with the plain twin, then bound by a count-and-range tree.

One wrong opened hit voids a whole claim, so what a faulty machine or kernel found must be dropped before the root is
committed. It knows nothing of samples, ledgers or disks.
Invariant: a claim built here holds each hit once.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.range_tree import RangeTree
from paceline.race.check import check_nonces
from paceline.race.plan import RaceChallenge


def recheck_hits(challenge: RaceChallenge, public_key: bytes, hits: Sequence[int]) -> list[int]:
    """The hits that the plain twin confirms, in the given order: a machine's fault costs hits and not the claim."""
    answers = check_nonces(challenge, public_key, hits)
    return [number for number, right in zip(hits, answers, strict=True) if right]


def build_claim(hits: Sequence[int]) -> RangeTree:
    """The tree whose root and count are committed. Errors: InvalidClaim unless hits strictly increase within 64 bits."""
    return RangeTree(hits)
