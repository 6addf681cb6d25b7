"""Judges opened Race claims: every number is recomputed exactly, so one wrong hit is proof and not noise.

It knows nothing of samples, bonds or votes. Invariant: the same numbers give the same verdict on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict
from paceline.race.check import check_nonces
from paceline.race.plan import RaceChallenge


def find_wrong_hits(challenge: RaceChallenge, public_key: bytes, opened: Mapping[int, int]) -> list[int]:
    """Positions of a claim whose opened number is no hit of this node, in the order given.

    Right hits cost one pass of the search each; what that path refuses, the plain twin decides before anybody is accused.
    """
    answers = check_nonces(challenge, public_key, list(opened.values()), "cpu")
    return [position for position, right in zip(opened, answers, strict=True) if not right]


def judge_hit(challenge: RaceChallenge, public_key: bytes, race_nonce: int) -> Verdict:
    """Verdict on one accused number. Evidence: (1, right)."""
    if check_nonces(challenge, public_key, [race_nonce])[0]:
        return Verdict(ACCEPTED, "the number is a hit", (1, 1))
    return Verdict(REJECTED, "the number is no hit", (1, 0))
