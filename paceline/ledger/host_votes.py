"""Votes of hosts on a number, of which the weighted median counts: one per host, by Race weight.

A vote stands until its host changes it or leaves; who never voted counts with the last number. It knows neither what the number
means nor its bounds.
Source: seed 001, Appendix J; SPEC section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction
from paceline.economy.prices import compute_next_price
from paceline.ledger import nodes
from paceline.ledger.state import State, Table


@dataclass(frozen=True)
class Ballot:
    """What is voted on. `votes`: by `prefix` and address."""

    votes: Table[int]
    what: str
    unit: str
    prefix: bytes = b""

    def list_votes(self, state: State) -> dict[bytes, int]:
        """What each host that ever voted wants, by address."""
        return {key[len(self.prefix) :]: number for key, number in self.votes.items(state, self.prefix)}

    def apply_vote(self, state: State, sender: bytes, number: int) -> None:
        """A host's former word is gone. Errors: InvalidTransaction no-vote, already-voted."""
        node = nodes.NODES.get(state, sender)
        if node is None or node.weight == 0:
            raise InvalidTransaction(
                "no-vote", f"only nodes with weight vote on {self.what}: it takes part from the next Race on"
            )
        if self.votes.get(state, self.prefix + sender) == number:
            raise InvalidTransaction("already-voted", f"{node.name} votes for {number} {self.unit} already")
        self.votes.put(state, self.prefix + sender, number)

    def compute_median(self, state: State, last: int) -> int:
        """What half of the weight at least would not put lower or higher."""
        return compute_next_price(nodes.get_weights(state), self.list_votes(state), last)

    def forget_leavers(self, state: State) -> None:
        """Who is no node any more has no vote."""
        for address in self.list_votes(state):
            if nodes.NODES.get(state, address) is None:
                self.votes.delete(state, self.prefix + address)
