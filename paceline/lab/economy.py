"""The whole economy in floats, a day at a time, one array entry a host: demand, price, work, checks, pay, forfeits, issuance.

Issuance and the price follow `paceline.economy` itself; sharing and checking follow its formulas with floats, which a test holds
against each other. It knows nothing of ledgers, and never decides anything for a node.
Invariant: the same scenario gives the same numbers, bit for bit; coins paid, forfeited and in the fund add up to fees and issuance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paceline.base.integers import PPM
from paceline.economy.issuance import Epoch, Issued, compute_issuance
from paceline.economy.prices import MAX_PRICE, compute_next_price
from paceline.lab.scenario import DAYS_PER_YEAR, Scenario
from paceline.protocol.params import NICOIN_PER_COIN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
HONEST = -1
MOST_REPUTATION = 4096


@dataclass(kw_only=True)
class Hosts:
    """One entry a host. Units: compute units a day; coins; `reputation` in honest epochs."""

    kind: Ints
    cheat: Ints
    units: Floats
    joins: Ints
    reputation: Ints
    out_until: Ints
    vesting: Floats
    """Shapes: (vesting_epochs, hosts); row `day % vesting_epochs` comes free on that day."""
    paid: Floats
    forfeited: Floats
    income_dollars: Floats
    """Coins that came free, at the price of their day."""
    cost_dollars: Floats
    """Less what cheating saved."""
    caught: Ints
    worked: Floats
    """Days with a share of the work."""


@dataclass(kw_only=True)
class Day:
    """Network totals of one epoch. Units: coins, units of compute; `price` in coins a unit."""

    price: float
    price_dollars: float
    coin_dollars: float
    asked: float
    """Compute asked for at this price …"""
    demand: float
    """… and as much of it as the hosts can do."""
    capacity: float
    fees: float
    issued: float
    to_fund: float
    paid: float
    forfeited: float
    checking: float
    """Share of the network's used compute that went into checks."""
    check_rate: float
    caught: int
    gini_weight: float
    gini_coins: float
    """Of all coins that came free to hosts so far."""
    batch: int


@dataclass(kw_only=True)
class Economy:
    """A finished simulation."""

    scenario: Scenario
    hosts: Hosts
    days: list[Day] = field(default_factory=list)


def simulate(scenario: Scenario, on_day: Callable[[int], None] = lambda _: None) -> Economy:
    """Run all epochs. `on_day` hears of every finished one."""
    chance = np.random.default_rng(scenario.seed)
    economy = Economy(scenario=scenario, hosts=make_hosts(scenario, chance))
    issued, price = Issued(), round(scenario.first_price * NICOIN_PER_COIN)
    for day in range(scenario.epochs):
        price = _vote(scenario, economy.hosts, day, price)
        issued = _play_day(economy, day, price, issued, chance)
        on_day(day)
    return economy


def make_hosts(scenario: Scenario, chance: np.random.Generator) -> Hosts:
    """Hosts by their shares, to the nearest whole number, in an order that is shuffled once."""
    count = scenario.hosts
    kind = _assign([entry.share for entry in scenario.classes], count)
    cheat = _assign([1.0 - sum(c.share for c in scenario.cheats), *(c.share for c in scenario.cheats)], count) - 1
    chance.shuffle(cheat)
    base = np.array([entry.units_per_day for entry in scenario.classes])
    later = chance.random(count) >= scenario.start_share
    joins = np.where(later, chance.integers(1, DAYS_PER_YEAR, count), 0)
    zeros, counts = np.zeros(count), np.zeros(count, np.int64)
    return Hosts(
        kind=kind,
        cheat=cheat,
        units=base[kind] * np.exp(scenario.spread * chance.standard_normal(count) - scenario.spread**2 / 2),
        joins=joins,
        reputation=counts.copy(),
        out_until=counts.copy(),
        vesting=np.zeros((scenario.rules.vesting_epochs, count)),
        paid=zeros.copy(),
        forfeited=zeros.copy(),
        income_dollars=zeros.copy(),
        cost_dollars=zeros.copy(),
        caught=counts.copy(),
        worked=zeros.copy(),
    )


def compute_check_rates(reputation: Ints, floor: float, halving: int) -> Floats:
    """Share of tasks checked, by reputation: all at 0, what is above the floor halving. Twin of `ledger.check_rates`."""
    return np.asarray(floor + (1.0 - floor) * 0.5 ** np.minimum(64, reputation // halving), np.float64)


def compute_gini(values: Floats) -> float:
    """Inequality of values that are not negative: 0 all equal, towards 1 one has everything."""
    total = values.sum()
    if total <= 0:
        return 0.0
    ordered = np.sort(values)
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))


def _assign(shares: list[float], count: int) -> Ints:
    edges = np.rint(np.cumsum(shares) * count).astype(np.int64)
    edges[-1] = count
    return np.asarray(np.searchsorted(edges, np.arange(count), side="right"), np.int64)


def _vote(scenario: Scenario, hosts: Hosts, day: int, last: int) -> int:
    """The network's own median over one vote a class and the cartel, by the weight that is there."""
    coin = scenario.compute_coin_dollars(day)
    present = (hosts.joins <= day) & (hosts.out_until <= day)
    sums = np.bincount(hosts.kind[present], hosts.units[present], len(scenario.classes))
    weights: dict[bytes, int] = {}
    votes: dict[bytes, int] = {}
    for index, entry in enumerate(scenario.classes):
        key = b"class-%02d" % index
        weights[key] = round(float(sums[index]) * (1.0 - scenario.cartel.share) * PPM)
        if not entry.silent:
            cost = entry.dollars_per_day / entry.units_per_day / coin
            votes[key] = _make_vote(cost * (1.0 + entry.margin) * NICOIN_PER_COIN)
    weights[b"cartel"] = round(float(sums.sum()) * scenario.cartel.share * PPM)
    votes[b"cartel"] = _make_vote(last * scenario.cartel.multiple)
    return compute_next_price(weights, votes, last)


def _make_vote(nicoin: float) -> int:
    """What the ledger takes as a vote."""
    return min(MAX_PRICE, max(1, round(nicoin)))


def _play_day(economy: Economy, day: int, price_nicoin: int, issued: Issued, chance: np.random.Generator) -> Issued:
    scenario, hosts = economy.scenario, economy.hosts
    rules = scenario.rules
    price = price_nicoin / NICOIN_PER_COIN
    coin = scenario.compute_coin_dollars(day)
    weight = np.where((hosts.joins <= day) & (hosts.out_until <= day), hosts.units, 0.0)
    capacity = float(weight.sum())
    asked = scenario.compute_demand(day, price * coin)
    demand = min(capacity, asked)
    shares = weight / capacity if capacity > 0 else weight
    tasks = chance.poisson(demand / scenario.demand.units_per_task * shares).astype(np.float64)
    fee = scenario.demand.units_per_task * price
    fees = fee * float(tasks.sum())
    minted, issued = compute_issuance(
        issued,
        Epoch(
            fees=round(fees * NICOIN_PER_COIN),
            worked=bool(fees > 0),
            first_height=day,
            epoch_blocks=1,
            blocks_per_day=1,
        ),
    )
    rates = compute_check_rates(hosts.reputation, rules.check_floor, rules.check_halving_epochs)
    checks = tasks * rates
    caught = _find_caught(scenario, hosts, tasks, rates, chance)
    earned = _compute_earned(shares, tasks, checks, fee, minted / NICOIN_PER_COIN, rules.fund)
    free, forfeited = _settle(hosts, earned, caught, day, rules.out_epochs)
    hosts.paid += free
    hosts.income_dollars += free * coin
    hosts.cost_dollars += _compute_costs(scenario, hosts, tasks, weight)
    hosts.reputation[:] = np.where(caught, 0, np.minimum(MOST_REPUTATION, hosts.reputation + (tasks > 0)))
    hosts.worked += tasks > 0
    used = float(tasks.sum())
    economy.days.append(
        Day(
            price=price,
            price_dollars=price * coin,
            coin_dollars=coin,
            asked=asked,
            demand=demand,
            capacity=capacity,
            fees=fees,
            issued=minted / NICOIN_PER_COIN,
            to_fund=(fees + minted / NICOIN_PER_COIN) * rules.fund,
            paid=float(free.sum()),
            forfeited=forfeited,
            checking=rules.check_cost
            * float(checks.sum())
            / (used * (1 + rules.check_cost * float(checks.sum()) / used))
            if used
            else 0.0,
            check_rate=float(checks.sum()) / used if used else 0.0,
            caught=int(caught.sum()),
            gini_weight=compute_gini(weight[weight > 0]) if capacity > 0 else 0.0,
            gini_coins=compute_gini(hosts.paid),
            batch=issued.batch,
        )
    )
    return issued


def _compute_earned(shares: Floats, tasks: Floats, checks: Floats, fee: float, minted: float, fund: float) -> Floats:
    """Coins of the day: a checked task pays its executor half, all checkers together half; issuance goes by weight."""
    net = fee * (1.0 - fund)
    executors = net * (tasks - checks / 2)
    checkers = net * float(checks.sum()) / 2 * shares
    working = np.where(tasks > 0, shares, 0.0)
    total = working.sum()
    subsidy = minted * (1.0 - fund) * working / total if total > 0 else working
    return np.asarray(executors + checkers + subsidy, np.float64)


def _find_caught(
    scenario: Scenario, hosts: Hosts, tasks: Floats, rates: Floats, chance: np.random.Generator
) -> npt.NDArray[np.bool_]:
    caught = np.zeros(len(tasks), bool)
    for index, cheat in enumerate(scenario.cheats):
        mine = np.flatnonzero(hosts.cheat == index)
        escape = (1.0 - rates[mine] * cheat.detection * cheat.cheated) ** tasks[mine]
        caught[mine] = chance.random(len(mine)) >= escape
    return caught


def _settle(
    hosts: Hosts, earned: Floats, caught: npt.NDArray[np.bool_], day: int, out_epochs: int
) -> tuple[Floats, float]:
    """Coins that came free today, and how many the caught lost: the day's pay and all that was still vesting."""
    periods = len(hosts.vesting)
    lost = np.where(caught, earned + hosts.vesting.sum(0), 0.0)
    hosts.vesting[:, caught] = 0.0
    free = hosts.vesting[day % periods].copy()
    hosts.vesting[day % periods] = 0.0
    hosts.vesting += np.where(caught, 0.0, earned / periods)
    hosts.forfeited += lost
    hosts.caught += caught
    hosts.out_until[caught] = day + 1 + out_epochs
    return free, float(lost.sum())


def _compute_costs(scenario: Scenario, hosts: Hosts, tasks: Floats, weight: Floats) -> Floats:
    """Dollars of the day: a share while idle, the rest by use; a cheated task costs less, an absent host nothing."""
    used = tasks * scenario.demand.units_per_task
    for index, cheat in enumerate(scenario.cheats):
        used = np.where(hosts.cheat == index, used * (1.0 - cheat.cheated * cheat.saving), used)
    per_unit = np.array([entry.dollars_per_day / entry.units_per_day for entry in scenario.classes])[hosts.kind]
    idle = np.array([entry.idle_share for entry in scenario.classes])[hosts.kind]
    return np.asarray(per_unit * (idle * weight + (1.0 - idle) * used), np.float64)
