"""Where compute and rewards go: useful work, Race or other mining, checking, dummies, capital; in three kinds of network.

It refuses to judge which network is better and to measure anything. Invariant: each row's shares add up to one, and every input says
whose it is: the paper's claim about other networks, a rule of this one, a measurement of `bench/README.md`, or given.

Source: seed 001, section 1 and Appendix C; SPEC section 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paceline.base.errors import ConfigError
from paceline.base.integers import PPM
from paceline.protocol.params import TINY

MINUTES_PER_DAY = 1440.0
CHECKERS_SHARE = 0.5
"""Of a checked task's pay, to all its checkers together."""
GOAL_RACE = 0.01
GOAL_CHECKING = (0.01, 0.10)
PAPER, RULE, MEASURED, GIVEN = "paper", "rule", "measured", "given"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """An input and the bounds within which it may be given."""

    value: float
    least: float
    most: float
    origin: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of one whole."""

    useful: float = 0.0
    race: float = 0.0
    checking: float = 0.0
    dummies: float = 0.0
    capital: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Network:
    """One row."""

    name: str
    compute: Shares
    rewards: Shares


@dataclass(frozen=True, kw_only=True)
class Usefulness:
    """The comparison. Units: `locked` in years of all rewards, 0 when nobody stakes."""

    inputs: Mapping[str, Stated]
    networks: tuple[Network, ...]
    capital_per_useful: float
    """What the staking network pays to capital for each coin that useful work gets."""
    locked: float
    """Capital that stands still in the staking network for its return."""
    sentences: tuple[str, ...]


def _state(value: float, most: float, origin: str, source: str, *, least: float = 0.0) -> Stated:
    return Stated(value=value, least=least, most=most, origin=origin, source=source)


INPUTS: Mapping[str, Stated] = {
    "bitcoin_useful": _state(
        0.0, 1.0, PAPER, "Appendix C: 0 % go to productive tasks, all computation is for security"
    ),
    "staking": _state(0.6, 1.0, PAPER, "section 1: 60 % of rewards go to staking"),
    "staking_return": _state(0.18, 10.0, PAPER, "section 3: stakers earn 18 % a year", least=1e-6),
    "staking_repeats": _state(
        1.0, 1000.0, PAPER, 'section 1: tasks are "often" repeated, without a number; 1 is none at all', least=1.0
    ),
    "race_minutes": _state(10.0, MINUTES_PER_DAY, RULE, "a Race takes about 10 minutes"),
    "races_a_day": _state(1.0, MINUTES_PER_DAY, RULE, "one a day"),
    "race_checking": _state(0.0196, 10.0, MEASURED, "bench/README.md: checking a Race over searching, at most"),
    "checking": _state(0.0079, 0.99, MEASURED, "bench/README.md, of all compute: 1 % of the nodes replaced each epoch"),
    "checked": _state(0.078, 1.0, MEASURED, "bench/README.md, of all tasks: the same"),
    "dummies": _state(TINY.dummies.rate_ppm / PPM, 1.0, RULE, "chance of a task to be a dummy"),
    "fund": _state(TINY.fund_ppm / PPM, 1.0, RULE, "of fees and new coins, to training"),
    "new_coins": _state(0.9, 1.0, RULE, "batch 1: of what hosts are paid; shared by weight among those who worked"),
}
PHASES: Sequence[tuple[str, float, float]] = (
    ("this network, first epochs: every task is checked", 0.089, 1.0),
    ("this network, nodes that stay", 0.0036, 0.033),
)
"""Beside the stated case: share of compute that checks take, and of tasks that are checked. Source: bench/README.md."""


def compare_usefulness(given: Mapping[str, float] | None = None) -> Usefulness:
    """The comparison with some inputs replaced. Errors: ConfigError naming the input that is unknown or out of bounds."""
    inputs = dict(INPUTS)
    for name, value in (given or {}).items():
        inputs[name] = _replace_input(name, value)
    values = {name: entry.value for name, entry in inputs.items()}
    ours = [("this network", values["checking"], values["checked"])]
    # Who gives figures of a network of their own is not shown the phases of another one.
    ours += [] if given and {"checking", "checked"} & given.keys() else list(PHASES)
    networks = (
        _make_bitcoin(values),
        _make_staking(values),
        *(_make_own(name, values | {"checking": checking, "checked": checked}) for name, checking, checked in ours),
    )
    staking = networks[1].rewards
    return Usefulness(
        inputs=inputs,
        networks=networks,
        capital_per_useful=staking.capital / staking.useful if staking.useful else float("inf"),
        locked=staking.capital / values["staking_return"],
        sentences=_describe(networks, values),
    )


def _replace_input(name: str, value: float) -> Stated:
    if name not in INPUTS:
        raise ConfigError(f"--set {name}: unknown; the inputs are {', '.join(INPUTS)}")
    entry = INPUTS[name]
    if not entry.least <= value <= entry.most:
        raise ConfigError(f"--set {name}: {value:g} must be at least {entry.least:g} and at most {entry.most:g}")
    return replace(entry, value=value, origin=GIVEN, source=f"--set {name}")


def _make_bitcoin(values: Mapping[str, float]) -> Network:
    shares = Shares(useful=values["bitcoin_useful"], race=1 - values["bitcoin_useful"])
    return Network(name="Bitcoin", compute=shares, rewards=shares)


def _make_staking(values: Mapping[str, float]) -> Network:
    """Staking takes rewards and no compute; every repetition of a task is its check."""
    useful = 1 / values["staking_repeats"]
    paid = 1 - values["staking"]
    return Network(
        name=f"staking network, {values['staking']:.0%} to stake",
        compute=Shares(useful=useful, checking=1 - useful),
        rewards=Shares(useful=paid * useful, checking=paid * (1 - useful), capital=values["staking"]),
    )


def _make_own(name: str, values: Mapping[str, float]) -> Network:
    """The Race pays nobody by itself: rewards follow work. The fund's share pays for training, which is useful.

    Of fees a checked task gives half to its checkers; new coins go to all who worked, so in proportion to their compute.
    """
    race = values["race_minutes"] * values["races_a_day"] / MINUTES_PER_DAY
    race_checks = race * values["race_checking"]
    rest = 1 - race - race_checks
    if rest <= 0:
        raise ConfigError("--set race_minutes, races_a_day, race_checking: the Race takes the whole day")
    worked = rest * (1 - values["checking"])
    compute = Shares(
        useful=worked * (1 - values["dummies"]),
        race=race,
        checking=race_checks + rest * values["checking"],
        dummies=worked * values["dummies"],
    )
    coins = (1 - values["fund"]) * values["new_coins"]
    fees = (1 - values["fund"]) * (1 - values["new_coins"])
    checkers = values["checked"] * CHECKERS_SHARE
    each = coins / (1 - race)
    rewards = Shares(
        useful=values["fund"] + fees * (1 - checkers) * (1 - values["dummies"]) + each * compute.useful,
        checking=fees * checkers + each * compute.checking,
        dummies=fees * (1 - checkers) * values["dummies"] + each * compute.dummies,
    )
    return Network(name=name, compute=compute, rewards=rewards)


def _describe(networks: Sequence[Network], values: Mapping[str, float]) -> tuple[str, ...]:
    told = []
    for found in networks[2:]:
        compute = found.compute
        race = "within" if compute.race <= GOAL_RACE else "above"
        low, high = GOAL_CHECKING
        checking = "below" if compute.checking < low else "above" if compute.checking > high else "within"
        told.append(
            f"{found.name}: Race {compute.race:.2%} ({race} the goal of at most 1 %), checking {compute.checking:.2%} "
            f"({checking} the goal of 1 to 10 %), capital {found.rewards.capital:.0%}."
        )
    staking = networks[1].rewards
    ratio = (
        "no useful work is paid"
        if not staking.useful
        else f"{staking.capital / staking.useful:.2f} to each for useful work"
    )
    told.append(
        f"The staking network pays capital {staking.capital:.0%} of its rewards ({ratio}); at {values['staking_return']:.0%} a year "
        f"{staking.capital / values['staking_return']:.2f} years of all its rewards stand still for that."
    )
    told.append(
        "Shares are of compute that was used; idle machines count nowhere. The other networks' inputs are the paper's claims."
    )
    told.append("160 M founders' coins (16 % of the supply) pay for no work here, and are no reward of an epoch.")
    return tuple(told)
