"""Cloud against network in three estimates, who wins, where the answer turns, and which inputs move it most.

It refuses to know files and printing. The rule of the estimates: low takes every input at its cheaper end, median every median, high every
dearer end, for both sides at once. Invariant: a verdict "in every estimate" holds for each pair of estimates of the two sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paceline.lab.cost import SECONDS_PER_HOUR, Bill, Values, Work, bill_alone, bill_cloud, bill_network
from paceline.lab.cost_inputs import KNOWN, TOKENS, Range

CLOUD, NETWORK = "cloud", "network"
LOW, MEDIAN, HIGH = "low", "median", "high"
ESTIMATES = (LOW, MEDIAN, HIGH)
HOURS_PER_MONTH = 730.0
TURNS = {
    TOKENS: ("cloud_price", "network_price", "cloud_utilisation", "network_utilisation", "network_checking", "subsidy"),
    "training": ("cloud_price", "network_price", "tokens", "network_link_mbits", "network_audits", "subsidy"),
}
_HALVINGS = 200
_LEAST_TOKENS, _MOST_TOKENS = 1e3, 1e16


@dataclass(frozen=True, kw_only=True)
class Input:
    """A range and the values that it sets: the speed of one GPU may stand for both sides."""

    name: str
    range: Range
    keys: tuple[str, ...]

    @property
    def dearer(self) -> bool:
        """True when its larger end costs more."""
        return KNOWN[self.keys[0]].dearer

    @property
    def unit(self) -> str:
        """Of its values."""
        return KNOWN[self.keys[0]].unit

    def get_end(self, estimate: str) -> float:
        """What an estimate takes."""
        if estimate == MEDIAN:
            return self.range.median
        return self.range.high if (estimate == HIGH) == self.dearer else self.range.low


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Three bills of one side."""

    low: Bill
    median: Bill
    high: Bill


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where both sides cost the same, all other inputs at their medians; `at` None: nowhere between the bounds."""

    name: str
    unit: str
    at: float | None
    here: float
    above: str
    """Who wins above; without a turn, who wins everywhere between the bounds."""


@dataclass(frozen=True, kw_only=True)
class Swing:
    """Network's cost over the cloud's with one input at its ends and all others at their medians."""

    name: str
    at_low: float
    at_high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison. Without `network` the work cannot be done there, and `problem` says why."""

    work: Work
    inputs: tuple[Input, ...]
    cloud: Estimates
    alone: Estimates | None
    network: Estimates | None
    problem: str = ""
    turns: tuple[Turn, ...] = ()
    swings: tuple[Swing, ...] = ()

    @property
    def winner(self) -> str:
        """By the medians; the cloud when the network cannot do the work at all. A tie goes to the cloud."""
        if self.network is None:
            return CLOUD
        return NETWORK if self.network.median.dollars < self.cloud.median.dollars else CLOUD

    @property
    def is_clear(self) -> bool:
        """True when the winner's dearest estimate lies below the other's cheapest, or the other has none."""
        if self.network is None:
            return True
        winner, other = (self.network, self.cloud) if self.winner == NETWORK else (self.cloud, self.network)
        return winner.high.dollars < other.low.dollars


def compare(work: Work, inputs: Sequence[Input], problem: str = "") -> Comparison:
    """Bills of both sides in three estimates, turns and swings. With a `problem` there is no network to compare with."""
    cloud = _estimate(bill_cloud, work, inputs)
    if problem:
        return Comparison(
            work=work, inputs=tuple(inputs), cloud=cloud, alone=None, network=None, problem=problem, turns=(), swings=()
        )
    medians = get_values(inputs, MEDIAN)
    names = TURNS[TOKENS if work.kind == TOKENS else "training"]
    return Comparison(
        work=work,
        inputs=tuple(inputs),
        cloud=cloud,
        alone=_estimate(bill_alone, work, inputs),
        network=_estimate(bill_network, work, inputs),
        turns=tuple(find_turn(work, medians, name) for name in names),
        swings=_compute_swings(work, inputs),
    )


def get_values(inputs: Sequence[Input], estimate: str) -> dict[str, float]:
    """Every value as an estimate takes it."""
    return {key: entry.get_end(estimate) for entry in inputs for key in entry.keys}


def find_turn(work: Work, values: Values, name: str) -> Turn:
    """Where the answer turns when one value changes alone. Halves the stretch between its bounds until no float is left."""
    least, most = (_LEAST_TOKENS, _MOST_TOKENS) if name == "tokens" else (KNOWN[name].least, KNOWN[name].most)

    def wins(value: float) -> bool:
        changed = {**values, name: value}
        return bill_network(work, changed).dollars < bill_cloud(work, changed).dollars

    at = None if wins(least) == wins(most) else _halve(wins, least, most)
    return Turn(name=name, unit=KNOWN[name].unit, at=at, here=values[name], above=NETWORK if wins(most) else CLOUD)


def compute_monthly_tokens(values: Mapping[str, float], utilisation: float) -> float:
    """Tokens that one rented GPU answers in a month at a utilisation."""
    return values["cloud_speed"] * utilisation * HOURS_PER_MONTH * SECONDS_PER_HOUR


def _estimate(bill: Callable[[Work, Values], Bill], work: Work, inputs: Sequence[Input]) -> Estimates:
    low, median, high = (bill(work, get_values(inputs, estimate)) for estimate in ESTIMATES)
    return Estimates(low=low, median=median, high=high)


def _halve(wins: Callable[[float], bool], least: float, most: float) -> float:
    """The border between two answers; in steps of equal factors where the bounds allow it."""
    at_least = wins(least)
    for _ in range(_HALVINGS):
        middle = math.sqrt(least) * math.sqrt(most) if least > 0 else (least + most) / 2
        if not least < middle < most:
            break
        if wins(middle) == at_least:
            least = middle
        else:
            most = middle
    return most


def _compute_swings(work: Work, inputs: Sequence[Input]) -> tuple[Swing, ...]:
    medians = get_values(inputs, MEDIAN)
    swings = [
        Swing(
            name=entry.name,
            at_low=_compute_ratio(work, {**medians, **dict.fromkeys(entry.keys, entry.range.low)}),
            at_high=_compute_ratio(work, {**medians, **dict.fromkeys(entry.keys, entry.range.high)}),
        )
        for entry in inputs
        if not entry.range.is_single
    ]
    return tuple(sorted(swings, key=_get_width, reverse=True))


def _compute_ratio(work: Work, values: Values) -> float:
    cloud, network = bill_cloud(work, values).dollars, bill_network(work, values).dollars
    if math.isinf(cloud):
        return 1.0 if math.isinf(network) else 0.0
    return network / cloud


def _get_width(swing: Swing) -> float:
    return abs(math.log(max(swing.at_high, 1e-300)) - math.log(max(swing.at_low, 1e-300)))
