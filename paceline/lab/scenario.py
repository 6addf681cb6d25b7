"""What an economy is simulated from: hosts by class, demand, prices, cheats and rules, read from a TOML file.

Unknown keys and impossible values are refused by name. It holds no state and computes nothing but the demand of a day.
Units: money in US dollars where named so, else coins; an epoch is a day; compute in units (what the price is for).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
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
    units_per_day: Positive
    """Compute that one host delivers; its Race weight too."""
    dollars_per_day: NotNegative
    """What it costs while it works; idle hosts pay `idle_share` of it."""
    idle_share: Share = 0.3
    margin: NotNegative = 0.2
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
    multiple: Positive = 10.0


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compute asked for: `start_units` a day, growing by `yearly_growth` until `most_units`; a dearer price lowers it."""

    start_units: NotNegative
    yearly_growth: NotNegative = 2.0
    most_units: Positive = 1e15
    elasticity: NotNegative = 0.5
    reference_dollars: Positive
    """Price of a unit at which demand is as stated."""
    units_per_task: Positive


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network's numbers, as in its parameters."""

    fund: Share = 0.2
    check_floor: Share = 0.01
    check_halving_epochs: Annotated[int, Meta(ge=1)] = 4
    check_cost: Share = 0.15
    """Of the checked task's compute."""
    vesting_epochs: Annotated[int, Meta(ge=1, le=64)] = 4
    out_epochs: Annotated[int, Meta(ge=0)] = 30
    """How long a host that was found guilty stays without work, before it comes back without reputation."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that determines a simulation, to the bit."""

    name: Name
    hosts: Annotated[int, Meta(ge=1, le=1_000_000)]
    epochs: Annotated[int, Meta(ge=1, le=20_000)]
    seed: int = 1
    start_share: Share = 1.0
    """Of the hosts that are there on the first day; the others come evenly over the first year."""
    spread: NotNegative = 0.25
    """How far hosts of one class differ: sigma of a lognormal factor."""
    coin_dollars: Positive
    """Price of a coin on the first day …"""
    coin_yearly_growth: NotNegative = 1.0
    """… and its factor a year: an assumption, never a forecast."""
    first_price: Positive
    """Coins a unit of compute on the first day."""
    demand: Demand
    classes: Annotated[tuple[HostClass, ...], Meta(min_length=1, max_length=32)]
    cheats: Annotated[tuple[Cheat, ...], Meta(max_length=16)] = ()
    cartel: Cartel = Cartel()
    rules: Rules = Rules()

    def compute_demand(self, day: int, price_dollars: float) -> float:
        """Units asked for on a day at a price."""
        asked = min(self.demand.most_units, self.demand.start_units * self.demand.yearly_growth ** (day / 365))
        return float(asked * (price_dollars / self.demand.reference_dollars) ** -self.demand.elasticity)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Errors: ConfigError naming the key that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError(f"{path}: {problem}") from None
    return parse_scenario(data, str(path))


def parse_scenario(data: object, source: str) -> Scenario:
    """A scenario from plain values. Errors: ConfigError naming the key that is wrong."""
    scenario = convert_table(data, Scenario, source)
    classes = sum(kind.share for kind in scenario.classes)
    if abs(classes - 1.0) > 1e-9:
        raise ConfigError(f"{source}: the shares of `classes` add up to {classes}, not to 1")
    if sum(cheat.share for cheat in scenario.cheats) > 1.0:
        raise ConfigError(f"{source}: the shares of `cheats` add up to more than 1")
    return scenario
