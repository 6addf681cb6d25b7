"""New coins of an epoch: how many the fees and the floor issue, and whose they are.

Fees of drawn work issue coins, whoever paid them; seats of a training run are taken, not drawn, so their pay issues nothing.
What is issued is shared by race weight among those who worked, never given to who answered a request: so asking one's own
nodes brings back no more than one's share of all weight. It moves the fund's share and leaves the rest in the reserve
until the settlement releases it; what is not released stays there and counts as issued.
Invariant: the batches advance by exactly what is issued.

Source: seed 001, Appendix F; SPEC section 3; decision 035.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from paceline.base.integers import PPM, mul_div_floor, split_proportionally
from paceline.economy.issuance import Epoch, Issued, compute_issuance
from paceline.ledger import clock
from paceline.ledger.accounts import RESERVE, TRAINING_FUND, get_account, move_coins
from paceline.ledger.state import State, Table
from paceline.protocol.params import NetworkParams

ISSUED: Table[Issued] = Table("issuance/issued", Issued)


def get_issued(state: State) -> Issued:
    """Where the twelve batches stand."""
    return ISSUED.get(state) or Issued()


class NewCoins(NamedTuple):
    """What an epoch issued beyond the fund's share, by who worked. Units: nicoin."""

    shares: dict[bytes, int]
    by_floor: dict[bytes, int]
    """Of these, what would have been issued without any fee."""


def issue_coins(state: State, params: NetworkParams, epoch: int, fees: int, weights: Mapping[bytes, int]) -> NewCoins:
    """Issue an epoch's coins by the fees of its drawn work, for those who worked by weight. Nobody worked: none are issued."""
    rules = Epoch(
        fees=fees,
        reserve=get_account(state, RESERVE).balance,
        worked=bool(weights),
        first_height=clock.compute_first_height(params, epoch),
        epoch_blocks=params.epoch_blocks,
        blocks_per_day=params.blocks_per_day,
        reduction_ppm=params.reduction_ppm,
    )
    coins, issued = compute_issuance(get_issued(state), rules)
    if not coins:
        return NewCoins({}, {})
    floor, _ = compute_issuance(get_issued(state), replace(rules, fees=0))
    ISSUED.put(state, b"", issued)
    fund = mul_div_floor(coins, params.fund_ppm, PPM)
    move_coins(state, RESERVE, TRAINING_FUND, fund)
    state.emit("issued", epoch=epoch, coins=coins, fees=fees, batch=issued.batch)
    rest = coins - fund
    return NewCoins(
        split_proportionally(rest, weights),
        split_proportionally(min(rest, floor - mul_div_floor(floor, params.fund_ppm, PPM)), weights),
    )
