"""The price of a unit of compute: the weighted median of the hosts' votes, and what a model's tokens cost by it.

Silence counts as a vote for the last price, a vote stands until it is changed, and the middle of all weight decides; so no
vote, however absurd, moves the price beyond what half of the weight wants. It knows votes and weights only.

Source: seed 001, Appendix J; SPEC section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.errors import Invalid
from paceline.base.integers import compute_weighted_median
from paceline.protocol.params import NICOIN_PER_COIN

MAX_PRICE = 1_000 * NICOIN_PER_COIN
"""Nicoin a unit of compute."""
MICRO_UNITS = 1_000_000


def require_price(price: int) -> int:
    """A price that may be voted for. Errors: Invalid bad-price."""
    if not 1 <= price <= MAX_PRICE:
        raise Invalid("bad-price", f"{price} nicoin a unit of compute is not between 1 and {MAX_PRICE}")
    return price


def compute_next_price(weights: Mapping[bytes, int], votes: Mapping[bytes, int], last: int) -> int:
    """Nicoin a unit of compute in the next epoch; nobody with weight leaves the last price."""
    counted = [(votes.get(address, last), weights[address]) for address in sorted(weights) if weights[address] > 0]
    return compute_weighted_median(counted) if counted else last


def compute_token_price(unit_price: int, micro_units: int) -> int:
    """Nicoin a token of a model that needs so many millionths of a unit of compute, rounded up: never free."""
    assert unit_price > 0 and micro_units > 0
    return -(-unit_price * micro_units // MICRO_UNITS)
