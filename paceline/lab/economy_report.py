"""What a finished simulation says: tables of classes and cheats with intervals, days as CSV, and one self-contained page.

It reads a simulation and decides nothing. Units: dollars and coins as the columns name them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from paceline.base.integers import PPM
from paceline.economy.issuance import BATCHES, to_coins
from paceline.economy.self_dealing import compute_most_gain, compute_self_dealing
from paceline.lab.economy import HONEST, Economy, Floats, compute_gini

Z95 = 1.96
COALITIONS_PPM = (200_000, 330_000, 500_000)


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
class CheatLine:
    """One way of cheating against honest hosts of the same class: extra profit per dollar of an honest host's income."""

    name: str
    hosts: int
    caught: int
    gain: float
    low: float
    high: float
    """Bounds of the 95 % interval of `gain`."""
    break_even_rate: float
    """Check rate below which it would pay, once a host holds a full vesting period of pay."""

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
    gini_weight: float
    gini_coins: float
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
        gini_coins=compute_gini(economy.hosts.paid),
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


def write_page(economy: Economy, summary: Summary) -> str:
    """A page that needs no network: charts, tables, and what was assumed."""
    charts = "\n".join(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        for figure in _draw(economy)
    )
    tables = _write_totals(summary) + _write_classes(summary) + _write_cheats(summary) + _write_shares(economy)
    return PAGE.format(title=escape(summary.name), library=get_plotlyjs(), tables=tables, charts=charts)


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
    mean = float(values.mean()) if len(values) else 0.0
    error = Z95 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return CheatLine(
        name=cheat.name,
        hosts=int((hosts.cheat == index).sum()),
        caught=int(hosts.caught[hosts.cheat == index].sum()),
        gain=mean,
        low=mean - error,
        high=mean + error,
        break_even_rate=_compute_break_even_rate(economy, index),
    )


def _compute_break_even_rate(economy: Economy, index: int) -> float:
    """Saving of one task / (detection * what a host stands to lose), both in the pay of one task.

    Source: SPEC section 3: check rate >= saving / (detection x (pending + vesting + reward)).
    """
    scenario, hosts = economy.scenario, economy.hosts
    cheat, honest = scenario.cheats[index], hosts.cheat == HONEST
    tasks = max(1.0, float(hosts.worked[honest].sum()))
    used = sum(min(day.demand, day.capacity) for day in economy.days) / scenario.demand.units_per_task
    tasks_a_day = used / max(1.0, float(hosts.worked.sum())) if tasks else 0.0
    income, cost = float(_get_income(economy)[honest].sum()), float(hosts.cost_dollars[honest].sum())
    if income <= 0 or tasks_a_day <= 0 or cheat.detection <= 0:
        return 1.0
    saving = cheat.saving * cost / income
    held = (scenario.rules.vesting_epochs + 1) / 2 * tasks_a_day + 1
    return min(1.0, saving / (cheat.detection * held))


def _get_income(economy: Economy) -> Floats:
    """Dollars, with what is still vesting at the last day's price."""
    hosts = economy.hosts
    return np.asarray(hosts.income_dollars + hosts.vesting.sum(0) * economy.days[-1].coin_dollars, np.float64)


def _count_days(economy: Economy) -> Floats:
    return np.maximum(1.0, len(economy.days) - economy.hosts.joins.astype(np.float64))


def _draw(economy: Economy) -> list[go.Figure]:
    days = list(range(len(economy.days)))

    def column(name: str) -> list[float]:
        return [getattr(day, name) for day in economy.days]

    charts = [
        _chart("Coins a day", "coins", days, {"fees": column("fees"), "issued": column("issued")}),
        _chart("Price of a unit of compute", "US dollars", days, {"price": column("price_dollars")}),
        _chart(
            "Compute a day", "units", days, {"asked for and done": column("demand"), "capacity": column("capacity")}
        ),
        _chart(
            "Checking",
            "share",
            days,
            {"of used compute": column("checking"), "of tasks checked": column("check_rate")},
        ),
        _chart("Inequality of votes (Gini)", "", days, {"race weight": column("gini_weight")}),
        _chart("Found guilty a day", "hosts", days, {"hosts": column("caught")}),
    ]
    return charts


def _chart(title: str, unit: str, days: list[int], lines: dict[str, list[float]]) -> go.Figure:
    figure = go.Figure([go.Scatter(x=days, y=values, name=name, mode="lines") for name, values in lines.items()])
    figure.update_layout(
        title=title,
        height=340,
        margin={"l": 60, "r": 20, "t": 50, "b": 40},
        template="simple_white",
        yaxis={"title": unit, "rangemode": "tozero"},
        xaxis={"title": "epoch"},
        showlegend=True,
    )
    return figure


def _write_totals(summary: Summary) -> str:
    rows = [
        ["hosts, epochs", f"{summary.hosts:,}, {summary.epochs:,}"],
        ["fees, issued", f"{summary.fees:,.0f} coins, {summary.issued:,.0f} coins"],
        ["came free to hosts, forfeited", f"{summary.paid:,.0f} coins, {summary.forfeited:,.0f} coins"],
        ["to the training fund", f"{summary.to_fund:,.0f} coins"],
        [
            "checking, share of used compute: first 30, last 30 epochs",
            f"{summary.checking_first:.1%}, {summary.checking_last:.1%}",
        ],
        ["price a unit: first, last", f"{summary.price_first:.6g}, {summary.price_last:.6g} coins"],
        ["Gini of votes, of coins", f"{summary.gini_weight:.3f}, {summary.gini_coins:.3f}"],
    ]
    return _table("In all", ["", ""], rows)


def _write_classes(summary: Summary) -> str:
    rows = [
        [line.name, f"{line.hosts:,}", f"{line.coins_a_day:,.3f}"]
        + [f"{value:,.2f}" for value in (line.dollars_a_day, line.cost_a_day, line.profit_a_day)]
        for line in summary.classes
    ]
    head = ["class", "honest hosts", "coins a day", "income $ a day", "cost $ a day", "profit $ a day"]
    return _table("What an honest host earns", head, rows)


def _write_cheats(summary: Summary) -> str:
    rows = [
        [
            line.name,
            f"{line.hosts:,}",
            f"{line.caught:,}",
            f"{line.gain:+.2%} ({line.low:+.2%} to {line.high:+.2%})",
            "may pay" if line.pays else "loses",
            f"{line.break_even_rate:.2%}",
        ]
        for line in summary.cheats
    ]
    head = [
        "cheat",
        "hosts",
        "times caught",
        "gain over honest, of its income (95 %)",
        "",
        "pays below a check rate of",
    ]
    return _table("What cheating brings", head, rows) if rows else ""


def _write_shares(economy: Economy) -> str:
    fund = round(economy.scenario.rules.fund * 1_000_000)
    rows = []
    for batch in range(1, BATCHES + 1):
        found = compute_self_dealing(batch, fund)
        gains = [
            " / ".join(f"{to_coins(compute_most_gain(batch, fund, share, cost)):,}" for cost in (0, PPM))
            for share in COALITIONS_PPM
        ]
        shares = (found.break_even_ppm, found.steered_break_even_ppm, found.daily_break_even_ppm)
        rows.append([str(batch), *(f"{share / 1e4:.1f} %" for share in shares), *gains])
    head = [
        "batch",
        "loses by the coin below",
        "steered below",
        "by the day below",
        *(f"most of {share / 1e4:g} %" for share in COALITIONS_PPM),
    ]
    title = "Asking one's own nodes: shares of all work below which it loses; most coins a day, where work costs nothing / its price"
    return _table(title, head, rows)


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{top}</tr>{body}</table>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin: 1.6rem 0 .4rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #dde2ea; font-variant-numeric: tabular-nums; }}
p {{ color: #4a5568; }}
</style><script>{library}</script></head><body>
<h1>{title}</h1>
<p>A simulation from stated assumptions; coin prices and demand are inputs, not forecasts.</p>
{tables}
<h2>Day by day</h2>
{charts}
</body></html>
"""
