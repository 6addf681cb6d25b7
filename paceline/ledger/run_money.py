"""What a run costs that somebody else than its opener pays for: the price of a round, and where coins go that nobody earned.

An update earns its units of compute at the price of the opening, an audit the part of them that it replays. A round begins only
when the budget covers all of it, so nobody trains for nothing. It refuses to know phases and states.
Invariant: what a run has left never goes to the account that opened it.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

from paceline.economy.prices import compute_token_price
from paceline.ledger.accounts import RUN_ESCROW, TRAINING_FUND, move_coins
from paceline.ledger.state import State
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams


class Funding(Record, frozen=True, kw_only=True):
    """How a run is paid that its opener does not pay for. Units: nicoin."""

    experiment: int
    """Number of the proposal that reserved its budget."""
    code_hash: bytes
    audit_pay: int
    """What an auditor earns for one update that it judged."""


def compute_update_pay(unit_price: int, micro_units: int) -> int:
    """Nicoin for one accepted update, rounded up."""
    return compute_token_price(unit_price, micro_units)


def compute_audit_pay(params: NetworkParams, update_pay: int, segments: int) -> int:
    """Nicoin for one audit: the drawn segments' part of the update, rounded up."""
    return -(-update_pay * min(params.audit_segments, segments) // segments)


def compute_round_cost(params: NetworkParams, funding: Funding, update_pay: int, trainers: int) -> int:
    """Nicoin that a round costs at most."""
    return trainers * (update_pay + params.auditors * funding.audit_pay)


def return_rest(state: State, budget: int) -> None:
    """What nobody earned goes back to the training fund, whoever added it."""
    move_coins(state, RUN_ESCROW, TRAINING_FUND, budget)
