"""Judges opened Race claims and the reports on them: everything is recomputed exactly, so a difference is proof and not noise.

It knows nothing of samples, bonds or votes. Invariant: the same numbers give the same verdict on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict
from paceline.race.check import check_nonces, compute_report_digest, examine_nonces
from paceline.race.plan import RaceChallenge


@dataclass(frozen=True, kw_only=True)
class Duty:
    """One checker's positions of one claim with the numbers opened there. Addresses of 20 bytes, a key of 32."""

    prover: bytes
    prover_key: bytes
    checker: bytes
    opened: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What recomputing a duty gave: positions whose number is no hit, in order, and the digest of all outputs."""

    wrong: list[int]
    digest: bytes


def examine_duty(challenge: RaceChallenge, duty: Duty) -> Examined:
    """Recompute every number of a duty, on the search's own path with the plain twin's eye on it."""
    found = examine_nonces(challenge, duty.prover_key, list(duty.opened.values()), "cpu")
    return Examined(
        wrong=[position for position, (hit, _) in zip(duty.opened, found, strict=True) if not hit],
        digest=compute_report_digest(challenge, duty.prover, duty.checker, [output for _, output in found]),
    )


def judge_report(challenge: RaceChallenge, duty: Duty, digest: bytes) -> Verdict:
    """Verdict on a report that found nothing wrong. Evidence: (numbers, wrong numbers, digest as recomputed)."""
    examined = examine_duty(challenge, duty)
    same = examined.digest == digest
    evidence = (len(duty.opened), len(examined.wrong), int(same))
    if examined.wrong:
        return Verdict(REJECTED, f"the number at position {examined.wrong[0]} is no hit", evidence)
    if not same:
        return Verdict(REJECTED, "the digest is not that of the outputs", evidence)
    return Verdict(ACCEPTED, "the report is what recomputing gives", evidence)


def judge_hit(challenge: RaceChallenge, public_key: bytes, race_nonce: int) -> Verdict:
    """Verdict on one accused number. Evidence: (1, right)."""
    if check_nonces(challenge, public_key, [race_nonce])[0]:
        return Verdict(ACCEPTED, "the number is a hit", (1, 1))
    return Verdict(REJECTED, "the number is no hit", (1, 0))
