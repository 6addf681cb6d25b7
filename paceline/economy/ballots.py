"""How votes become a decision: weights added up, a quorum, a veto, a majority. Whole numbers against whole numbers.

A proposal passes when enough of all weight votes, no third of the votes is a veto, more than half of the decided votes are
yes, and these yes are also more than a third of all weight there is: by the assumption under which blocks are signed, some
honest node is then among them, whoever stays away. Rules that stop other software ask for two thirds. It knows weights only,
no nodes and no coins. Invariant: an identity split into many decides the same as before.
Source: decision 036.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.integers import PPM
from paceline.protocol.codec import Record
from paceline.protocol.proposals import ABSTAIN, NO, VETO, YES

PASSED, REJECTED, VETOED, NO_QUORUM = "passed", "rejected", "vetoed", "no-quorum"
MORE_THAN_A_THIRD, MORE_THAN_TWO_THIRDS = 1, 2
"""Thirds of all weight that the yes votes must exceed."""


class Tally(Record, frozen=True, kw_only=True):
    """Weight behind each choice, and all weight there was."""

    yes: int = 0
    no: int = 0
    abstain: int = 0
    veto: int = 0
    total: int = 0

    @property
    def voted(self) -> int:
        """Weight that voted at all."""
        return self.yes + self.no + self.abstain + self.veto


def count_ballots(choices: Mapping[bytes, str], weights: Mapping[bytes, int]) -> Tally:
    """Add up the weights that rule when voting ends; whoever has none left counts nothing."""
    counted = dict.fromkeys((YES, NO, ABSTAIN, VETO), 0)
    for address, choice in choices.items():
        counted[choice] += weights.get(address, 0)
    return Tally(
        yes=counted[YES],
        no=counted[NO],
        abstain=counted[ABSTAIN],
        veto=counted[VETO],
        total=sum(weights.values()),
    )


def judge_tally(tally: Tally, quorum_ppm: int, thirds: int) -> str:
    """PASSED, REJECTED, VETOED or NO_QUORUM, in the order quorum, veto, majority."""
    if tally.voted == 0 or PPM * tally.voted < quorum_ppm * tally.total:
        return NO_QUORUM
    if 3 * tally.veto >= tally.voted:
        return VETOED
    most_of_decided = 2 * tally.yes > tally.yes + tally.no + tally.veto
    return PASSED if most_of_decided and 3 * tally.yes > thirds * tally.total else REJECTED
