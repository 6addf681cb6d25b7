"""What an economy is simulated from: hosts by class, demand, prices, cheats and rules, read from a TOML file.

Unknown keys and impossible values are refused by name. It holds no state and computes nothing but the demand of a day.
Every number has bounds within which a simulation ends with finite ones.
Units: money in US dollars where named so, else coins; an epoch is a day; compute in units (what the price is for).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table
from paceline.economy.prices import MAX_PRICE
from paceline.lab.check_costs import MEAN_CHECK_COST
from paceline.lab.files import read_toml
from paceline.protocol.params import NICOIN_PER_COIN

DAYS_PER_YEAR = 365
LEAST_COIN_DOLLARS, MOST_COIN_DOLLARS = 1e-9, 1e9
# Bounds leave orders of magnitude around any economy that means something, and keep every product of them within a float.
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Units = Annotated[float, Meta(ge=1e-6, le=1e6)]
"""Of compute: the fastest card of the example delivers 190 a day, a task takes a fifth of one."""
AllUnits = Annotated[float, Meta(ge=0.0, le=1e15)]
"""Of all users together: a thousand times what a million of the fastest hosts could deliver."""
Dollars = Annotated[float, Meta(ge=0.0, le=1e6)]
"""Of a host's day: a rack of a hundred GPUs costs thousands."""
CoinDollars = Annotated[float, Meta(ge=LEAST_COIN_DOLLARS, le=MOST_COIN_DOLLARS)]
"""At 1e9 the supply of a thousand million coins would be worth more than ten thousand times the world's yearly product."""
UnitCoins = Annotated[float, Meta(ge=1 / NICOIN_PER_COIN, le=MAX_PRICE / NICOIN_PER_COIN)]
"""A price of the ledger: one nicoin to what may be voted for."""
UnitDollars = Annotated[float, Meta(ge=1e-9, le=1e6)]
Growth = Annotated[float, Meta(ge=0.0, le=100.0)]
"""A factor a year; a hundredfold every year outgrows the bounds of all else within a decade."""
CoinGrowth = Annotated[float, Meta(ge=0.01, le=100.0)]
"""The same, and never to nothing: a coin without a price buys no compute."""
Factor = Annotated[float, Meta(ge=0.0, le=1000.0)]
"""Above cost, or of the last price: a thousand is further than any vote counts."""
Elasticity = Annotated[float, Meta(ge=0.0, le=10.0)]
"""At 10 a price that is a tenth too high loses six tenths of the demand."""
Sigma = Annotated[float, Meta(ge=0.0, le=2.0)]
"""At 2 the fastest of a million hosts has ten thousand times the median; beyond it one host is the network."""
Epochs = Annotated[int, Meta(ge=0, le=20_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}\Z",
        description="1 to 40 letters, digits, blanks and . _ + -, beginning with a letter or digit",
    ),
]


class HostClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hosts of one kind of hardware."""

    name: Name
    share: Share
    """Of all hosts."""
    units_per_day: Units
    """Compute that one host delivers; its Race weight too."""
    dollars_per_day: Dollars
    """What it costs while it works; idle hosts pay `idle_share` of it."""
    idle_share: Share = 0.3
    margin: Factor = 0.2
    """Above cost, in its price vote."""
    silent: bool = False
    """It never votes, so it counts with the last price."""


class Cheat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hosts of every class that cheat in one way."""

    name: Name
    share: Share
    """Of all hosts."""
    cheated: Share
    """Of their tasks."""
    saving: Share
    """Of a cheated task's cost."""
    detection: Share
    """Probability that one check of a cheated task finds it."""


class Cartel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weight that votes together for a multiple of the last price."""

    share: Share = 0.0
    multiple: Factor = 10.0


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compute asked for: `start_units` a day, growing by `yearly_growth` until `most_units`; a dearer price lowers it."""

    start_units: AllUnits
    yearly_growth: Growth = 2.0
    most_units: AllUnits = 1e15
    elasticity: Elasticity = 0.5
    reference_dollars: UnitDollars
    """Price of a unit at which demand is as stated."""
    units_per_task: Units


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network's numbers, as in its parameters."""

    fund: Annotated[float, Meta(ge=0.0, le=0.99)] = 0.2
    """Of fees and new coins; hosts that get nothing at all would not be hosts."""
    check_floor: Share = 0.01
    check_halving_epochs: Annotated[int, Meta(ge=1, le=20_000)] = 4
    check_cost: Share = MEAN_CHECK_COST
    """Of the checked task's compute."""
    vesting_epochs: Annotated[int, Meta(ge=1, le=64)] = 4
    out_epochs: Epochs = 30
    """How long a host that was found guilty stays without work, before it comes back without reputation."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that determines a simulation, to the bit."""

    name: Name
    hosts: Annotated[int, Meta(ge=1, le=1_000_000)]
    epochs: Annotated[int, Meta(ge=1, le=20_000)]
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    start_share: Share = 1.0
    """Of the hosts that are there on the first day; the others come evenly over the first year."""
    spread: Sigma = 0.25
    """How far hosts of one class differ: sigma of a lognormal factor."""
    coin_dollars: CoinDollars
    """Price of a coin on the first day …"""
    coin_yearly_growth: CoinGrowth = 1.0
    """… and its factor a year: an assumption, never a forecast."""
    first_price: UnitCoins
    """Coins a unit of compute on the first day."""
    demand: Demand
    classes: Annotated[tuple[HostClass, ...], Meta(min_length=1, max_length=32)]
    cheats: Annotated[tuple[Cheat, ...], Meta(max_length=16)] = ()
    cartel: Cartel = Cartel()
    rules: Rules = Rules()

    def compute_coin_dollars(self, day: int) -> float:
        """Price of a coin on a day."""
        return float(self.coin_dollars * self.coin_yearly_growth ** (day / DAYS_PER_YEAR))

    def compute_demand(self, day: int, price_dollars: float) -> float:
        """Units asked for on a day at a price."""
        asked = min(
            self.demand.most_units, self.demand.start_units * self.demand.yearly_growth ** (day / DAYS_PER_YEAR)
        )
        return float(asked * (price_dollars / self.demand.reference_dollars) ** -self.demand.elasticity)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Errors: ConfigError naming the key that is wrong.
    """
    return parse_scenario(read_toml(path), str(path))


def parse_scenario(data: object, source: str) -> Scenario:
    """A scenario from plain values. Errors: ConfigError naming the key that is wrong."""
    scenario = convert_table(data, Scenario, source)
    classes = sum(kind.share for kind in scenario.classes)
    if abs(classes - 1.0) > 1e-9:
        raise ConfigError(f"{source}: the shares of `classes` add up to {classes}, not to 1")
    if sum(cheat.share for cheat in scenario.cheats) > 1.0:
        raise ConfigError(f"{source}: the shares of `cheats` add up to more than 1")
    last = scenario.compute_coin_dollars(scenario.epochs)
    if not LEAST_COIN_DOLLARS <= last <= MOST_COIN_DOLLARS:
        raise ConfigError(
            f"{source}: coin_yearly_growth {scenario.coin_yearly_growth:g}: after {scenario.epochs} epochs a coin would "
            f"cost {last:.3g} $; it must stay between {LEAST_COIN_DOLLARS:g} and {MOST_COIN_DOLLARS:g}"
        )
    return scenario
