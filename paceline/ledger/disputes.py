"""Majority verification: once a checker flags a piece of work, everybody with weight may judge it.

Guilt is final at more than half of all voting weight, never earlier; so is innocence. A single flag punishes nobody.
Source: seed 001, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paceline.protocol.codec import Record
from paceline.protocol.messages import ACCEPTED, REJECTED


class Vote(Record, frozen=True):
    """One node's verdict on one piece of work, with its reason and numbers kept for anybody to look at."""

    voter: bytes
    outcome: str
    reason: str
    evidence: tuple[int, ...]


def compute_majority(votes: Iterable[tuple[bytes, str]], weights: Mapping[bytes, int]) -> str:
    """The outcome, accepted or rejected, when more than half of all weight says so, else empty."""
    total = sum(weights.values())
    listed = list(votes)
    for outcome in (ACCEPTED, REJECTED):
        if 2 * sum(weights.get(voter, 0) for voter, vote in listed if vote == outcome) > total:
            return outcome
    return ""


def get_outcomes(votes: Iterable[Vote]) -> list[tuple[bytes, str]]:
    """Voters with their outcomes."""
    return [(vote.voter, vote.outcome) for vote in votes]


def has_voted(votes: Iterable[Vote], voter: bytes) -> bool:
    """True when this node has judged already."""
    return any(vote.voter == voter for vote in votes)
