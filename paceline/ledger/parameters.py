"""Which of the network's numbers a vote may change, within which bounds, and which of them hold at a height.

A number is in the table when a network is sound with every value between its bounds, and when whoever reads it does so from
the application: windows of the Race, thresholds and whatever two nodes must agree on across an epoch's edge are not. It
refuses to know votes. Invariant: values change between the last block of an epoch and the first of the next, never inside one.
Source: seed 001, Appendices I and K; SPEC section 3; decision 036.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.economy.supply import DAYS_PER_YEAR
from paceline.ledger.state import State, Table
from paceline.protocol.params import NICOIN_PER_COIN, NetworkParams

FUND_YEARS = 5
"""The training fund's share stays as it is for so long."""


@dataclass(frozen=True)
class Bounds:
    """Least and most that a number may be, in which unit, and what it is."""

    low: int
    high: int
    unit: str
    sentence: str


PARAMETERS: Mapping[str, Bounds] = MappingProxyType(
    {
        "check_floor_ppm": Bounds(10_000, 100_000, "ppm", "lowest check rate, reached at full reputation"),
        "check_halving_epochs": Bounds(2, 64, "epochs", "honest epochs in which the rate above the floor halves"),
        "fund_ppm": Bounds(0, 500_000, "ppm", "share of fees and issuance that goes to the training fund first"),
        "funding.instalment_ppm": Bounds(
            0, 500_000, "ppm", "share of a paid run's training that is paid once it is published; of runs opened later"
        ),
        "governance.deposit": Bounds(
            NICOIN_PER_COIN, 10_000 * NICOIN_PER_COIN, "nicoin", "what stands beside a proposal while it is voted on"
        ),
        "reduction_ppm": Bounds(50_000, 500_000, "ppm", "how much the subsidy falls at the next edges of batches"),
        "session_tasks": Bounds(16, 1_024, "tasks", "most tasks of one session"),
        "tasks.jackpot": Bounds(0, 100 * NICOIN_PER_COIN, "nicoin", "most that one found forced error earns"),
        "tasks.report_limit": Bounds(1, 64, "reports", "reports of answers by one account per epoch"),
        "tasks.report_reward": Bounds(0, 10 * NICOIN_PER_COIN, "nicoin", "most that a proven report earns"),
        "transfer_fee": Bounds(100, NICOIN_PER_COIN // 100, "nicoin", "what a transaction pays that is no duty"),
    }
)

VALUES: Table[int] = Table("parameters/value", int)
"""By name: what votes made of genesis' numbers."""


def get_params(state: State, genesis_params: NetworkParams) -> NetworkParams:
    """The numbers that hold in the block after this state."""
    params = genesis_params
    for name, value in VALUES.items(state):
        params = _replace(params, name.decode("ascii"), value)
    return params


def get_value(params: NetworkParams, name: str) -> int:
    """One number of a preset by its name in the table."""
    found: object = params
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, int)
    return found


def compute_fund_opening(params: NetworkParams) -> int:
    """First height at which the training fund's share may be proposed to change."""
    return FUND_YEARS * DAYS_PER_YEAR * params.blocks_per_day


def require_change(params: NetworkParams, name: str, value: int, height: int) -> None:
    """A change that may be proposed. Errors: InvalidTransaction unknown-parameter, not-yet, out-of-bounds."""
    bounds = PARAMETERS.get(name)
    if bounds is None:
        raise InvalidTransaction("unknown-parameter", f"{name} is none of {', '.join(PARAMETERS)}")
    if name == "fund_ppm" and height < compute_fund_opening(params):
        opening = compute_fund_opening(params)
        raise InvalidTransaction("not-yet", f"the fund's share stays until year five is over at height {opening}")
    if not bounds.low <= value <= bounds.high:
        raise InvalidTransaction(
            "out-of-bounds", f"{name} lies between {bounds.low} and {bounds.high} {bounds.unit}, {value} is given"
        )


def set_value(state: State, name: str, value: int) -> None:
    """Change a number from the next height on; only the last block of an epoch does."""
    VALUES.put(state, name.encode("ascii"), value)
    state.emit("parameter", name=name, value=value)


def _replace(params: NetworkParams, name: str, value: int) -> NetworkParams:
    group, _, field = name.rpartition(".")
    if not group:
        return msgspec.structs.replace(params, **{field: value})
    return msgspec.structs.replace(params, **{group: msgspec.structs.replace(getattr(params, group), **{field: value})})
