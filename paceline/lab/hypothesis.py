"""The paper's hypothesis about the price of a coin, computed again from its own inputs, with the corrected figure beside each slip.

Nothing here is a forecast or a promise of this project, and nothing else computes with it. It refuses to know what a coin is worth.
Invariant: exact fractions throughout; every input carries the appendix's wording; a printed figure is never an input of what corrects it.

Source: seed 001, Appendices E, F and G; SPEC section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from paceline.economy.issuance import compute_batch
from paceline.economy.supply import CORE_RESERVE, FOUNDERS, LIQUIDITY_POOL, TOP_HOSTS, TOTAL_SUPPLY
from paceline.protocol.params import NICOIN_PER_COIN

MARK = (
    "The paper's hypothesis, not a promise and not a forecast: its inputs are the paper's assumptions of December 2024."
)
NOT_A_SHARE = "nothing can be undervalued by more than 100 %; the difference is divided by the smaller value"
_ASSUMED = "Appendix G"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A number that the appendix starts from, in its wording."""

    wording: str
    value: Fraction
    unit: str
    source: str = _ASSUMED


@dataclass(frozen=True, kw_only=True)
class Step:
    """One printed figure, computed three times. Units: as `unit` says.

    `again` takes the operands as that line prints them, `exact` the appendix's inputs without rounding in between, `corrected` Appendix E's
    pool and Appendix F's row as well, and a share of the other's value where the text has per cent of its own. `slip` says what is wrong, empty where nothing is.
    """

    name: str
    formula: str
    unit: str
    printed: str
    again: Fraction
    exact: Fraction
    corrected: Fraction
    slip: str = ""

    @property
    def holds(self) -> bool:
        """True when the line's own operands give its figure, to the last digit that is printed."""
        digits = len(self.printed.partition(".")[2])
        return round_half_up(self.again, digits) == Fraction(self.printed)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of the two comparisons."""

    name: str
    inputs: Mapping[str, Input]
    steps: tuple[Step, ...]
    slips: tuple[str, ...]
    """Beyond single figures."""


@dataclass(frozen=True, kw_only=True)
class SupplyRow:
    """A line of Appendix E: coins, and the printed share of all of them."""

    name: str
    coins: int
    printed_percent: int

    @property
    def percent(self) -> Fraction:
        """Of the supply, exactly."""
        return Fraction(100 * self.coins * NICOIN_PER_COIN, TOTAL_SUPPLY)


@dataclass(frozen=True, kw_only=True)
class _Printed:
    """What a scenario prints beside its inputs, and what is wrong with it, step by step."""

    rounded_price: str
    rounded_coins: str
    coin_price: str
    valuation_price: str
    """The price of a coin as the valuation multiplies it …"""
    diluted_price: str
    """… and as the fully diluted one does."""
    valuation: str
    diluted: str
    behind: str
    """Printed "undervalued" in per cent, of market capitalisations …"""
    diluted_behind: str
    """… and of fully diluted valuations."""
    slips: Mapping[str, str]


def compute_hypothesis() -> tuple[Scenario, Scenario]:
    """Both scenarios of Appendix G."""
    return _make_first(), _make_second()


def list_supply() -> tuple[SupplyRow, ...]:
    """Appendix E's table, from the supply that the ledger is built on."""
    rows = (
        ("Incentives to Hardware Providers", CORE_RESERVE + TOP_HOSTS + LIQUIDITY_POOL, 84),
        ("Core incentive to hardware providers", CORE_RESERVE, 60),
        ("Additional Hardware Provider Reward", TOP_HOSTS, 12),
        ("Hardware provider liquidity pool", LIQUIDITY_POOL, 12),
        ("Founders allocation", FOUNDERS, 16),
    )
    return tuple(
        SupplyRow(name=name, coins=nicoin // NICOIN_PER_COIN, printed_percent=percent) for name, nicoin, percent in rows
    )


def round_half_up(value: Fraction, digits: int) -> Fraction:
    """To so many digits behind the point; of values that are not negative."""
    scale = 10**digits
    return Fraction((2 * value * scale + 1) // 2, scale)


def compute_missing_share(behind: Fraction) -> Fraction:
    """What one's own value lacks of the other's, in per cent of the other's; from the difference in per cent of one's own."""
    return 100 * behind / (100 + behind)


def _make_first() -> Scenario:
    inputs = _make_inputs(
        "Bittensor", 3, volume="7.8", cap="3100", diluted="8800", discount="57.6", fees="36.8", rewards="90"
    )
    slips = {
        "coins": "60 M coins of the pool; Appendix E has 120 M",
        "coin price": "two roundings before the division: without them it is 0.899, and with the line's own operands 0.894",
        "valuation": "0.89 x 460 M is 409.4 M; 410 M follows from the 0.892 of the next line",
        "diluted valuation": "0.892 follows from no figure before it: 4.2 / 4.7 is 0.894, the inputs give 0.899",
        "behind": f"3,100 M is 656 % above 410 M; {NOT_A_SHARE}",
        "diluted behind": f"8,820 M is 889 % above 892 M, and the inputs say 8.8 B; {NOT_A_SHARE}",
    }
    printed = _Printed(
        rounded_price="4.2",
        rounded_coins="4.7",
        coin_price="0.89",
        valuation_price="0.89",
        diluted_price="0.892",
        valuation="410",
        diluted="892",
        behind="655",
        diluted_behind="888",
        slips=slips,
    )
    more = (
        'The volume counts "millions AI-tokens", and the fees are divided by it "per 1M requests": tokens and requests are mixed.',
        'The discount stands as "57.6" without a unit, the founders\' coins as "160" without M.',
    )
    steps = _make_steps(inputs, printed, batch=3, shown_cap=Fraction(3100), shown_diluted=Fraction(8820))
    return Scenario(name="Scenario 1 - Bittensor by year 3", inputs=inputs, steps=steps, slips=more)


def _make_second() -> Scenario:
    inputs = _make_inputs(
        "OpenAI", 6, volume="370", cap="157000", diluted="157000", discount="30", fees="119", rewards="120"
    )
    slips = {
        "coins": "60 M coins of the pool; Appendix E has 120 M",
        "coin price": "7 / 0.32 is 21.88 and the printed inputs give 21.76; 21.82 follows from Appendix F's 29.4912 % and 119,542,101",
        "behind": NOT_A_SHARE,
        "diluted behind": NOT_A_SHARE,
    }
    printed = _Printed(
        rounded_price="7",
        rounded_coins="0.32",
        coin_price="21.82",
        valuation_price="21.823",
        diluted_price="21.823",
        valuation="13967",
        diluted="21823",
        behind="1024",
        diluted_behind="619",
        slips=slips,
    )
    more = (
        'The text says "$13.9B" of 13,967 M, which is 14.0.',
        "The fees of 119 M are Appendix F's 119,542,101 cut off, not rounded; the discount of 30 % is its 29.49 % rounded.",
        'The volume counts "millions AI-tokens", and the fees are divided by it "per 1M requests": tokens and requests are mixed.',
    )
    steps = _make_steps(inputs, printed, batch=6, shown_cap=Fraction(157_000), shown_diluted=Fraction(157_000))
    return Scenario(name="Scenario 2 - OpenAI by year 6", inputs=inputs, steps=steps, slips=more)


def _make_inputs(
    peer: str, year: int, *, volume: str, cap: str, diluted: str, discount: str, fees: str, rewards: str
) -> dict[str, Input]:
    def make(wording: str, value: str, unit: str) -> Input:
        return Input(wording=wording, value=Fraction(value), unit=unit)

    reward = (
        "First three years of additional hardware provider reward"
        if year == 3
        else "Additional hardware provider reward"
    )
    return {
        "volume": make(f"{peer}: Approximate request volume (in millions AI-tokens)", volume, "M"),
        "market cap": make(f"{peer}: Market Cap", cap, "M$"),
        "diluted": make(f"{peer}: FDV", diluted, "M$"),
        "market price": make("Market Price per 1M AI-tokens (2024)", "10", "$"),
        "discount": make("Approximate discount expected by developers", discount, "%"),
        "fees": make(f"Fees paid by Developers in Race Coins (Year {year}, not cumulative)", fees, "M coins"),
        "batches": make("batches issued by that year", str(year), ""),
        "batch": make("coins of a batch (50M)", "50", "M coins"),
        "pool": make("Hardware provider liquidity pool", "60", "M coins"),
        "rewards": make(reward, rewards, "M coins"),
        "founders": make("Founders allocation", "160", "M coins"),
        "supply": make("Total Supply of Race Coins", "1000", "M coins"),
    }


def _make_steps(
    inputs: Mapping[str, Input], printed: _Printed, *, batch: int, shown_cap: Fraction, shown_diluted: Fraction
) -> tuple[Step, ...]:
    given = {name: entry.value for name, entry in inputs.items()}
    row = compute_batch(batch, 0)
    exact = _compute_chain(given)
    right = {
        **given,
        "pool": _to_millions(LIQUIDITY_POOL),
        "fees": _to_millions(row.developer_fees),
        "discount": 100 * Fraction(9 * 4 ** (batch - 1), 10 * 5 ** (batch - 1)),
    }
    corrected = _compute_chain(right)
    for key in ("behind", "diluted behind"):
        corrected[key] = compute_missing_share(corrected[key])
    again = {
        "coins": exact["coins"],
        "adjusted price": exact["adjusted price"],
        "coins per million": exact["coins per million"],
        "coin price": Fraction(printed.rounded_price) / Fraction(printed.rounded_coins),
        "valuation": Fraction(printed.valuation_price) * exact["coins"],
        "diluted valuation": Fraction(printed.diluted_price) * given["supply"],
        "behind": 100 * (shown_cap / Fraction(printed.valuation) - 1),
        "diluted behind": 100 * (shown_diluted / Fraction(printed.diluted) - 1),
    }
    figures = {
        "coins": str(exact["coins"]),
        "adjusted price": printed.rounded_price,
        "coins per million": printed.rounded_coins,
        "coin price": printed.coin_price,
        "valuation": printed.valuation,
        "diluted valuation": printed.diluted,
        "behind": printed.behind,
        "diluted behind": printed.diluted_behind,
    }
    return tuple(
        Step(
            name=name,
            formula=formula,
            unit=unit,
            printed=figures[key],
            again=again[key],
            exact=exact[key],
            corrected=corrected[key],
            slip=printed.slips.get(key, ""),
        )
        for key, (name, formula, unit) in _STEPS.items()
    )


_STEPS = {
    "coins": ("Race Coins issued", "batches x 50M + pool + additional reward + founders", "M coins"),
    "adjusted price": ("Adjusted market price per 1M tokens", "market price - discount", "$"),
    "coins per million": ("Cost per 1M requests in Race Coins", "fees / request volume", "coins"),
    "coin price": ("Price per Race Coin", "adjusted price / coins per 1M requests", "$"),
    "valuation": ("Market valuation", "price per coin x coins issued", "M$"),
    "diluted valuation": ("Fully Diluted Valuation", "price per coin x total supply", "M$"),
    "behind": ("Market cap, undervalued by", "printed: other / own - 1; corrected: 1 - own / other", "%"),
    "diluted behind": ("FDV, undervalued by", "printed: other / own - 1; corrected: 1 - own / other", "%"),
}


def _compute_chain(values: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """The appendix's calculation without a rounding, its notion of undervalued included."""
    coins = values["batches"] * values["batch"] + values["pool"] + values["rewards"] + values["founders"]
    adjusted = values["market price"] * (1 - values["discount"] / 100)
    per_million = values["fees"] / values["volume"]
    price = adjusted / per_million
    valuation, diluted = price * coins, price * values["supply"]
    return {
        "coins": coins,
        "adjusted price": adjusted,
        "coins per million": per_million,
        "coin price": price,
        "valuation": valuation,
        "diluted valuation": diluted,
        "behind": 100 * (values["market cap"] / valuation - 1),
        "diluted behind": 100 * (values["diluted"] / diluted - 1),
    }


def _to_millions(nicoin: int) -> Fraction:
    return Fraction(nicoin, NICOIN_PER_COIN * 1_000_000)
