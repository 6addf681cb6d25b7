"""Recorded quotes: what one whole of a test asset counts for in dollars, by the same votes as the price of a unit of compute.

Hosts vote, the weighted median of an epoch's end is the quote of the next epoch, silence keeps the last one. The first quote is that of
genesis, or the median once more than half of all weight has voted: without one, silence counts as none. Who trades gets the worst of three: the
quote in force, the one before, and the one that the votes of now would make. So a change that votes show is no secret to trade on, and a
quote that stood for one epoch alone buys nothing. It knows no balances.
Invariant: a quote changes between two epochs only, never beyond its bounds, and once there is one there always is.
Source: seed 001, Appendices E and J; SPEC sections 3 and 4; decision 044.
"""

from __future__ import annotations

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.economy.quotes import DOLLAR, LEAST_QUOTE, MOST_QUOTE, Rate, compute_worst, require_quote
from paceline.ledger.host_votes import Ballot
from paceline.ledger.state import State, Table
from paceline.protocol.assets import QUOTED, TUSD
from paceline.protocol.codec import Record
from paceline.protocol.genesis import Genesis
from paceline.protocol.pools import VoteQuote


class Quote(Record, frozen=True, kw_only=True):
    """What is recorded of an asset. Units: micro-dollars a whole one."""

    now: int
    former: int
    """Of the epoch before; the same as now when there was none."""
    epoch: int
    """In which `now` is in force."""
    height: int
    """At which it was recorded."""


QUOTES: Table[Quote] = Table("quotes/in-force", Quote)
"""By the asset's name."""
VOTES: Table[int] = Table("quotes/vote", int)
"""By the asset's name and address."""
BALLOTS = {asset: Ballot(VOTES, f"the quote of {asset}", "micro-dollars", asset.encode("ascii")) for asset in QUOTED}


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Errors: InvalidTransaction bad-genesis, bad-quote."""
    for given in genesis.quotes:
        if get_quote(state, given.asset) is not None:
            raise InvalidTransaction("bad-genesis", f"{given.asset} has two quotes")
        quote = _require(given.quote)
        _put(state, given.asset, Quote(now=quote, former=quote, epoch=0, height=0))


def get_quote(state: State, asset: str) -> Quote | None:
    """The quote in force, None before the first."""
    return QUOTES.get(state, asset.encode("ascii"))


def compute_coming(state: State, asset: str) -> int:
    """Micro-dollars a whole one in the next epoch, if this one ended now; 0 while there is none."""
    quote = get_quote(state, asset)
    return BALLOTS[asset].compute_median(state, quote.now if quote else 0)


def compute_rates(state: State, asset: str) -> tuple[Rate, Rate]:
    """What a buyer pays at and what a redeemer is paid at. Errors: InvalidTransaction no-quote."""
    if asset == TUSD:
        return DOLLAR, DOLLAR
    quote = get_quote(state, asset)
    if quote is None:
        raise InvalidTransaction("no-quote", f"{asset} has no quote yet: more than half of all weight must vote")
    low, high = compute_worst((quote.now, quote.former, compute_coming(state, asset)))
    return Rate(asset=asset, quote=low), Rate(asset=asset, quote=high)


def list_rates(state: State) -> list[Rate]:
    """What each asset with a quote counts for now, the dollar among them."""
    found = [(asset, get_quote(state, asset)) for asset in QUOTED]
    return [DOLLAR, *(Rate(asset=asset, quote=quote.now) for asset, quote in found if quote is not None)]


def apply_vote(state: State, sender: bytes, message: VoteQuote) -> None:
    """A host says what an asset counts for; its former word is gone.

    Errors: InvalidTransaction bad-quote, no-vote, already-voted.
    """
    BALLOTS[message.asset].apply_vote(state, sender, _require(message.quote))
    state.emit("quote-vote", node=sender.hex(), asset=message.asset, quote=message.quote)


def end_epoch(state: State, epoch: int) -> None:
    """The weighted medians become the quotes of the next epoch; who is no node any more has no vote."""
    for asset, ballot in BALLOTS.items():
        ballot.forget_leavers(state)
        last, coming = get_quote(state, asset), compute_coming(state, asset)
        if not coming:
            continue
        former = last.now if last else coming
        _put(state, asset, Quote(now=coming, former=former, epoch=epoch + 1, height=state.height))
        state.emit("quote", asset=asset, quote=coming, former=former)


def find_violations(state: State) -> list[str]:
    """Sentences about quotes beyond their bounds."""
    return [
        f"quote of {asset}: {number} micro-dollars"
        for asset in QUOTED
        if (quote := get_quote(state, asset)) is not None
        for number in (quote.now, quote.former)
        if not LEAST_QUOTE <= number <= MOST_QUOTE
    ]


def _put(state: State, asset: str, quote: Quote) -> None:
    QUOTES.put(state, asset.encode("ascii"), quote)


def _require(quote: int) -> int:
    try:
        return require_quote(quote)
    except Invalid as problem:
        raise InvalidTransaction(problem.code, problem.message) from None
