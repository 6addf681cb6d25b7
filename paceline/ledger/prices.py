"""The price of a unit of compute: hosts vote, the weighted median of an epoch's end is the price of the next epoch.

A vote stands until its host changes it or leaves; who never voted counts with the last price. Whoever opens a session or a
channel keeps the price of that height to its end, so nobody's price changes in the middle of its escrow. It knows what a model's
token costs, not who serves the model.
Invariant: the price changes between two epochs only, and only to what half of the weight at least would not put lower or higher.
Source: seed 001, Appendix J; SPEC section 4.
"""

from __future__ import annotations

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.economy.prices import compute_token_price, require_price
from paceline.ledger import model_registry
from paceline.ledger.host_votes import Ballot
from paceline.ledger.state import State, Table
from paceline.protocol.params import NetworkParams
from paceline.protocol.prices import VotePrice

PRICE: Table[int] = Table("prices/unit", int)
VOTES: Table[int] = Table("prices/vote", int)
"""By address: one per node."""
BALLOT = Ballot(VOTES, "the price", "nicoin")


def get_unit_price(state: State, params: NetworkParams) -> int:
    """Nicoin a unit of compute in this epoch."""
    return PRICE.get(state) or params.unit_price


def get_token_price(state: State, params: NetworkParams, model: str) -> int:
    """Nicoin a token of a model, for what is opened at this height."""
    return compute_token_price(get_unit_price(state, params), model_registry.get_micro_units(state, model))


def get_votes(state: State) -> dict[bytes, int]:
    """What each host that ever voted wants, by address. Units: nicoin a unit of compute."""
    return BALLOT.list_votes(state)


def apply_vote(state: State, sender: bytes, message: VotePrice) -> None:
    """A host says what a unit of compute should cost; its former word is gone.

    Errors: InvalidTransaction no-vote, bad-price, already-voted.
    """
    try:
        price = require_price(message.price)
    except Invalid as problem:
        raise InvalidTransaction(problem.code, problem.message) from None
    BALLOT.apply_vote(state, sender, price)
    state.emit("price-vote", node=sender.hex(), price=price)


def end_epoch(state: State, params: NetworkParams) -> None:
    """The weighted median becomes the price of the next epoch; who is no node any more has no vote."""
    BALLOT.forget_leavers(state)
    last = get_unit_price(state, params)
    price = BALLOT.compute_median(state, last)
    if price != last:
        PRICE.put(state, b"", price)
    state.emit("price", unit=price, former=last)
