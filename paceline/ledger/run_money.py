"""What a run costs that somebody else than its opener pays for, what is withheld until it is published, and where the rest goes.

An update earns its units of compute at the price of the opening, an audit the part of them that it replays. A round begins only
when the budget covers all of it, so nobody trains for nothing. It refuses to know phases and states.
Invariant: what a run has left never goes to the account that opened it.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

from collections.abc import Collection

from paceline.base.integers import PPM, mul_div_floor
from paceline.economy.prices import compute_token_price
from paceline.ledger.accounts import HELD_PAY, RUN_ESCROW, TRAINING_FUND, move_coins
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams

ID_BYTES = 16


class Funding(Record, frozen=True, kw_only=True):
    """How a run is paid that its opener does not pay for. Units: nicoin."""

    experiment: int
    """Number of the proposal that reserved its budget, 0 when participants pay."""
    code_hash: bytes
    audit_pay: int
    """What an auditor earns for one update that it judged."""
    instalment_ppm: int
    """Share of an update's pay that is withheld until the run is published."""
    withheld: int = 0
    """All that is withheld so far."""
    goal: int = 0
    """Coins with which a run of participants begins; 0 when the network pays."""
    fee_ppm: int = 0
    """Part of later fees that its participants' shares split."""


WITHHELD: Table[int] = Table("training/withheld", int)
"""By run and trainer: the last instalments, until somebody has published the run."""
RELEASED: Table[int] = Table("training/released", int)
"""The same once they are in held pay, until the settlement."""


def compute_update_pay(unit_price: int, micro_units: int) -> int:
    """Nicoin for one accepted update, rounded up."""
    return compute_token_price(unit_price, micro_units)


def compute_audit_pay(params: NetworkParams, update_pay: int, segments: int) -> int:
    """Nicoin for one audit: the drawn segments' part of the update, rounded up."""
    return -(-update_pay * min(params.audit_segments, segments) // segments)


def compute_round_cost(params: NetworkParams, funding: Funding, update_pay: int, trainers: int) -> int:
    """Nicoin that a round costs at most."""
    return trainers * (update_pay + params.auditors * funding.audit_pay)


def withhold(state: State, run_id: bytes, trainer: bytes, funding: Funding, pay: int) -> int:
    """Keep back an accepted update's part of the last instalment; nicoin."""
    amount = mul_div_floor(pay, funding.instalment_ppm, PPM)
    if amount:
        WITHHELD.put(state, run_id + trainer, (WITHHELD.get(state, run_id + trainer) or 0) + amount)
    return amount


def end_instalments(state: State, run_id: bytes, forfeited: Collection[bytes] | None) -> None:
    """Hold the last instalments for the settlement, but for those of `forfeited` trainers; all return to the fund when it is None."""
    for key, amount in WITHHELD.items(state, run_id):
        WITHHELD.delete(state, key)
        trainer = key[ID_BYTES:]
        if forfeited is None or trainer in forfeited or NODES.get(state, trainer) is None:
            move_coins(state, RUN_ESCROW, TRAINING_FUND, amount)
        else:
            move_coins(state, RUN_ESCROW, HELD_PAY, amount)
            RELEASED.put(state, key, amount)


def return_rest(state: State, budget: int) -> None:
    """What nobody earned goes back to the training fund, whoever added it."""
    move_coins(state, RUN_ESCROW, TRAINING_FUND, budget)
