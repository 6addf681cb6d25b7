"""What a finished simulation says in numbers: classes and cheats with intervals, years, and days as CSV.

It reads a simulation and decides nothing. Units: dollars and coins as the columns name them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from paceline.lab.economy import HONEST, Day, Economy, Floats
from paceline.lab.scenario import DAYS_PER_YEAR

Z95 = 1.96


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """Honest hosts of one class, means over hosts and their days."""

    name: str
    hosts: int
    coins_a_day: float
    dollars_a_day: float
    cost_a_day: float
    profit_a_day: float


@dataclass(frozen=True, kw_only=True)
class Stakes:
    """What a host weighs before it cheats in one task. Units: the pay of one task."""

    saving: float
    detection: float
    held: float
    """Pay that is not free yet, of a host that worked through a full vesting period."""

    def expect(self, rate: float, held: float) -> float:
        """Expected value of one cheated task at a check rate; below 0 it loses."""
        return self.saving - rate * self.detection * (held + 1.0)

    def break_even(self, held: float) -> float:
        """Check rate below which it pays, at most 1."""
        lost = self.detection * (held + 1.0)
        return min(1.0, self.saving / lost) if lost > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class YearLine:
    """Coins of one year."""

    year: int
    fees: float
    issued: float
    subsidy_share: float
    """New coins, of fees and new coins together: of all that hosts and the fund get."""
    unmet_share: float
    """Of the compute asked for at the day's price, what hosts could not do."""


@dataclass(frozen=True, kw_only=True)
class CheatLine:
    """One way of cheating against honest hosts of the same class: extra profit per dollar of an honest host's income."""

    name: str
    hosts: int
    caught: int
    gain: float
    low: float
    high: float
    """Bounds of the 95 % interval of `gain`."""
    stakes: Stakes
    break_even_rate: float
    """Check rate below which it would pay, once a host holds a full vesting period of pay."""
    fresh_break_even_rate: float
    """The same for a host that holds nothing yet: only the pay of the task itself is at stake."""

    @property
    def pays(self) -> bool:
        """True when a gain cannot be ruled out."""
        return self.high > 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole in numbers."""

    name: str
    hosts: int
    epochs: int
    fees: float
    issued: float
    paid: float
    forfeited: float
    to_fund: float
    checking_first: float
    """Share of used compute that went into checks, over the first 30 epochs …"""
    checking_last: float
    """… and over the last 30."""
    price_first: float
    price_last: float
    unmet_share: float
    """Of the compute asked for at the day's price, what hosts could not do."""
    gini_weight: float
    gini_coins: float
    years: tuple[YearLine, ...]
    classes: tuple[ClassLine, ...]
    cheats: tuple[CheatLine, ...]


def summarise(economy: Economy) -> Summary:
    """The tables of a simulation."""
    days, scenario = economy.days, economy.scenario
    return Summary(
        name=scenario.name,
        hosts=scenario.hosts,
        epochs=len(days),
        fees=sum(day.fees for day in days),
        issued=sum(day.issued for day in days),
        paid=sum(day.paid for day in days),
        forfeited=sum(day.forfeited for day in days),
        to_fund=sum(day.to_fund for day in days),
        checking_first=float(np.mean([day.checking for day in days[:30]])),
        checking_last=float(np.mean([day.checking for day in days[-30:]])),
        price_first=days[0].price,
        price_last=days[-1].price,
        gini_weight=days[-1].gini_weight,
        gini_coins=days[-1].gini_coins,
        unmet_share=_compute_unmet(days),
        years=tuple(_describe_year(economy, first) for first in range(0, len(days), DAYS_PER_YEAR)),
        classes=tuple(_describe_class(economy, index) for index in range(len(scenario.classes))),
        cheats=tuple(_describe_cheat(economy, index) for index in range(len(scenario.cheats))),
    )


def write_csv(economy: Economy) -> str:
    """One row a day."""
    text = io.StringIO()
    rows = [{"day": index, **asdict(day)} for index, day in enumerate(economy.days)]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _describe_class(economy: Economy, index: int) -> ClassLine:
    hosts = economy.hosts
    mine = (hosts.kind == index) & (hosts.cheat == HONEST)
    days = _count_days(economy)[mine]
    total = max(1.0, float(days.sum()))
    income, cost = float(_get_income(economy)[mine].sum()), float(hosts.cost_dollars[mine].sum())
    return ClassLine(
        name=economy.scenario.classes[index].name,
        hosts=int(mine.sum()),
        coins_a_day=float((hosts.paid + hosts.vesting.sum(0))[mine].sum()) / total,
        dollars_a_day=income / total,
        cost_a_day=cost / total,
        profit_a_day=(income - cost) / total,
    )


def _describe_cheat(economy: Economy, index: int) -> CheatLine:
    hosts, cheat = economy.hosts, economy.scenario.cheats[index]
    base = hosts.units * _count_days(economy)
    profit, income = _get_income(economy) - hosts.cost_dollars, _get_income(economy)
    gains = []
    for kind in range(len(economy.scenario.classes)):
        honest = (hosts.kind == kind) & (hosts.cheat == HONEST)
        mine = (hosts.kind == kind) & (hosts.cheat == index)
        if honest.any() and mine.any() and income[honest].sum() > 0:
            usual, earns = profit[honest].sum() / base[honest].sum(), income[honest].sum() / base[honest].sum()
            gains.append((profit[mine] / base[mine] - usual) / earns)
    values = np.concatenate(gains) if gains else np.zeros(0)
    stakes = _weigh(economy, index)
    mean = float(values.mean()) if len(values) else 0.0
    error = Z95 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return CheatLine(
        name=cheat.name,
        hosts=int((hosts.cheat == index).sum()),
        caught=int(hosts.caught[hosts.cheat == index].sum()),
        gain=mean,
        low=mean - error,
        high=mean + error,
        stakes=stakes,
        break_even_rate=stakes.break_even(stakes.held),
        fresh_break_even_rate=stakes.break_even(0.0),
    )


def _weigh(economy: Economy, index: int) -> Stakes:
    """What honest hosts earn and hold says what a cheat of theirs would save and lose.

    Source: SPEC section 3: check rate >= saving / (detection x (pending + vesting + reward)).
    """
    scenario, hosts = economy.scenario, economy.hosts
    cheat, honest = scenario.cheats[index], hosts.cheat == HONEST
    used = sum(day.demand for day in economy.days) / scenario.demand.units_per_task
    tasks_a_day = used / max(1.0, float(hosts.worked.sum()))
    income, cost = float(_get_income(economy)[honest].sum()), float(hosts.cost_dollars[honest].sum())
    if income <= 0 or tasks_a_day <= 0:
        return Stakes(saving=0.0, detection=0.0, held=0.0)
    return Stakes(
        saving=cheat.saving * cost / income,
        detection=cheat.detection,
        held=(scenario.rules.vesting_epochs + 1) / 2 * tasks_a_day,
    )


def _describe_year(economy: Economy, first: int) -> YearLine:
    days = economy.days[first : first + DAYS_PER_YEAR]
    fees, issued = sum(day.fees for day in days), sum(day.issued for day in days)
    return YearLine(
        year=first // DAYS_PER_YEAR + 1,
        fees=fees,
        issued=issued,
        subsidy_share=issued / (fees + issued) if fees + issued else 0.0,
        unmet_share=_compute_unmet(days),
    )


def _compute_unmet(days: Sequence[Day]) -> float:
    asked = sum(day.asked for day in days)
    return 1.0 - sum(day.demand for day in days) / asked if asked > 0 else 0.0


def _get_income(economy: Economy) -> Floats:
    """Dollars, with what is still vesting at the last day's price."""
    hosts = economy.hosts
    return np.asarray(hosts.income_dollars + hosts.vesting.sum(0) * economy.days[-1].coin_dollars, np.float64)


def _count_days(economy: Economy) -> Floats:
    return np.maximum(1.0, len(economy.days) - economy.hosts.joins.astype(np.float64))
