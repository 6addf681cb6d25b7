"""Judges an opened Race claim: every sampled hit is recomputed exactly, so one wrong hit is proof and not noise."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict
from paceline.race.check import check_nonces
from paceline.race.plan import RaceChallenge


def judge_race(challenge: RaceChallenge, public_key: bytes, race_nonces: Sequence[int]) -> Verdict:
    """Verdict on the opened hits of one node. Evidence: (opened, right)."""
    right = sum(check_nonces(challenge, public_key, race_nonces))
    evidence = (len(race_nonces), right)
    if right == len(race_nonces):
        return Verdict(ACCEPTED, "every opened hit is one", evidence)
    return Verdict(REJECTED, f"{len(race_nonces) - right} of {len(race_nonces)} opened hits are none", evidence)
