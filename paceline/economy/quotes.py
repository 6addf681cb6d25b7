"""What a test asset counts for in dollars: bounds of a quote, and amounts at a rate, each rounded against who trades.

It knows neither votes nor balances. Invariants: what is brought is worth at least what it pays for, at the rate; what is taken is
worth at most what is owed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paceline.base.errors import Invalid
from paceline.base.integers import mul_div_floor
from paceline.protocol.assets import DIGITS, TUSD

LEAST_QUOTE, MOST_QUOTE = 10**6, 10**13
"""Micro-dollars a whole: one dollar to ten million. A quote of a billion times too much or too little is outside, whatever it is of."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What an asset counts for in one trade. Units: micro-dollars a whole one."""

    asset: str = TUSD
    quote: int = 10 ** DIGITS[TUSD]

    @property
    def whole(self) -> int:
        """Smallest units that are a whole one."""
        units: int = 10 ** DIGITS[self.asset]
        return units


DOLLAR = Rate()


def require_quote(quote: int) -> int:
    """A quote that may be voted for. Errors: Invalid bad-quote."""
    if not LEAST_QUOTE <= quote <= MOST_QUOTE:
        raise Invalid("bad-quote", f"{quote} micro-dollars are not between {LEAST_QUOTE} and {MOST_QUOTE}")
    return quote


def compute_worst(quotes: Iterable[int]) -> tuple[int, int]:
    """The quote that buyers pay at and the one that redeemers are paid at: of several, the worst for each. 0 is none."""
    known = [quote for quote in quotes if quote]
    return min(known), max(known)


def compute_payment(dollars: int, rate: Rate) -> int:
    """Smallest units that pay so many micro-dollars, rounded up."""
    return -(-dollars * rate.whole // rate.quote)


def compute_payout(dollars: int, rate: Rate) -> int:
    """Smallest units that so many micro-dollars are paid out in, rounded down."""
    return mul_div_floor(dollars, rate.whole, rate.quote)


def compute_worth(units: int, rate: Rate) -> int:
    """Micro-dollars that so many smallest units count for, rounded down."""
    return mul_div_floor(units, rate.quote, rate.whole)
