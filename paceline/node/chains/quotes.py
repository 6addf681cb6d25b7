"""The quotes of the test assets for people: what is recorded, since when, who voted for what, and what comes next.

Read from committed state. It changes nothing and judges nothing.
"""

from __future__ import annotations

import msgspec

from paceline.base.integers import PPM, mul_div_floor
from paceline.ledger import nodes, quotes
from paceline.ledger.state import State


class QuoteVote(msgspec.Struct, frozen=True, kw_only=True):
    """One node with weight: its vote in micro-dollars a whole one, 0 when it never gave one and counts with the last quote."""

    node: str
    weight_ppm: int
    quote: int


class QuoteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What one whole of a test asset counts for. Units: micro-dollars; 0 while there is no quote."""

    asset: str
    quote: int
    former: int
    coming: int
    """If the epoch ended now."""
    epoch: int
    """In which the quote is in force."""
    height: int
    """At which it was recorded."""
    votes: list[QuoteVote]


def build_quotes(state: State) -> list[QuoteStatus]:
    """Every quoted test asset."""
    return [_build(state, asset) for asset in quotes.BALLOTS]


def _build(state: State, asset: str) -> QuoteStatus:
    quote, votes, weights = (
        quotes.get_quote(state, asset),
        quotes.BALLOTS[asset].list_votes(state),
        nodes.get_weights(state),
    )
    total = max(1, sum(weights.values()))
    everybody = dict(nodes.NODES.items(state))
    return QuoteStatus(
        asset=asset,
        quote=quote.now if quote else 0,
        former=quote.former if quote else 0,
        coming=quotes.compute_coming(state, asset),
        epoch=quote.epoch if quote else 0,
        height=quote.height if quote else 0,
        votes=[
            QuoteVote(
                node=everybody[address].name,
                weight_ppm=mul_div_floor(weight, PPM, total),
                quote=votes.get(address, 0),
            )
            for address, weight in weights.items()
        ],
    )
