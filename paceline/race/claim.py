"""From hits to a claim: re-check with the plain twin, then bind root and count.

A machine fault during the search costs the hits it touched, never the whole claim: what the twin does not confirm is
left out before anything is committed.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.range_tree import RangeTree
from paceline.race.check import check_nonces
from paceline.race.plan import RaceChallenge


def recheck_hits(challenge: RaceChallenge, public_key: bytes, hits: Sequence[int]) -> list[int]:
    """The hits that the plain twin confirms, in increasing order, each once."""
    distinct = sorted(dict.fromkeys(hits))
    confirmed = check_nonces(challenge, public_key, distinct)
    return [hit for hit, right in zip(distinct, confirmed, strict=True) if right]


def build_claim(hits: Sequence[int]) -> RangeTree:
    """The tree whose root and count are committed.

    Errors: InvalidClaim when hits do not strictly increase.
    """
    return RangeTree(hits)
