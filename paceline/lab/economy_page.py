"""A finished simulation as one page that needs no network: tables, charts, and what was assumed.

It reads a simulation and its summary and decides nothing. Invariant: nothing on the page is wider than the window; what does not
fit scrolls in a frame of its own. Units: dollars and coins as the columns name them.
"""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from paceline.base.integers import PPM
from paceline.economy.issuance import BATCHES, to_coins
from paceline.economy.self_dealing import compute_most_gain, compute_self_dealing
from paceline.lab.economy import Economy
from paceline.lab.economy_report import CheatLine, Summary

COALITIONS_PPM = (200_000, 330_000, 500_000)
RATES = tuple(float(rate) for rate in np.geomspace(1e-5, 1.0, 101))
"""Check rates of the chart of expected value."""
SHOWN_VALUES = (-1.5, 1.0)
"""In the pay of one task: what lies below is lost for sure."""
FRESH, HOLDING = "a host that holds nothing", "a host that holds a full vesting period of pay"


def write_page(economy: Economy, summary: Summary) -> str:
    """The whole page."""
    figures = [*_draw(economy, summary), *([_draw_expected(summary)] if summary.cheats else [])]
    charts = "\n".join(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
        for figure in figures
    )
    tables = _write_totals(summary) + _write_years(summary) + _write_classes(summary) + _write_cheats(summary)
    tables += _write_shares(economy)
    return PAGE.format(title=escape(summary.name), library=get_plotlyjs(), tables=tables, charts=charts)


def _draw(economy: Economy, summary: Summary) -> list[go.Figure]:
    days = list(range(len(economy.days)))

    def column(name: str) -> list[float]:
        return [getattr(day, name) for day in economy.days]

    charts = [
        _chart("Coins a day", "coins", days, {"fees": column("fees"), "issued": column("issued")}),
        _chart("Price of a unit of compute", "US dollars", days, {"price": column("price_dollars")}),
        _chart(
            "Compute a day",
            "units",
            days,
            {"asked for": column("asked"), "done": column("demand"), "capacity": column("capacity")},
        ),
        _draw_years(summary),
        _chart(
            "Checking",
            "share",
            days,
            {"of used compute": column("checking"), "of tasks checked": column("check_rate")},
        ),
        _chart(
            "Inequality (Gini)",
            "",
            days,
            {"votes: race weight": column("gini_weight"), "coins that came free": column("gini_coins")},
        ),
        _chart("Found guilty a day", "hosts", days, {"hosts": column("caught")}),
    ]
    return charts


def _chart(title: str, unit: str, days: list[int], lines: dict[str, list[float]]) -> go.Figure:
    figure = go.Figure([go.Scatter(x=days, y=values, name=name, mode="lines") for name, values in lines.items()])
    figure.update_layout(
        title=title,
        height=340,
        margin=MARGIN,
        template="simple_white",
        yaxis={"title": unit, "rangemode": "tozero"},
        xaxis={"title": "epoch"},
        showlegend=True,
        legend=LEGEND,
    )
    return figure


def _draw_years(summary: Summary) -> go.Figure:
    years = [f"year {line.year}" for line in summary.years]
    shares = [f"{line.subsidy_share:.0%} new" for line in summary.years]
    figure = go.Figure(
        [
            go.Bar(x=years, y=[line.fees for line in summary.years], name="fees"),
            go.Bar(x=years, y=[line.issued for line in summary.years], name="issued", text=shares),
        ]
    )
    figure.update_layout(
        title="Fees and new coins by year",
        height=340,
        margin=MARGIN,
        template="simple_white",
        barmode="stack",
        yaxis={"title": "coins"},
        legend=LEGEND,
    )
    return figure


def _draw_expected(summary: Summary) -> go.Figure:
    """Where a line lies above 0, cheating pays; it crosses at the break-even rates of the table."""
    figure = go.Figure()
    for line in summary.cheats:
        for held, who, dash in ((line.stakes.held, "holding", "solid"), (0.0, "fresh", "dot")):
            values = [line.stakes.expect(rate, held) for rate in RATES]
            figure.add_scatter(
                x=[rate * 100 for rate in RATES],
                y=values,
                name=f"{line.name}, {who}",
                mode="lines",
                line={"dash": dash},
            )
    figure.add_hline(y=0.0, line={"width": 1})
    figure.update_layout(
        title="Expected value of one cheated task, for a host that holds a vesting period of pay and a fresh one",
        height=420,
        margin=MARGIN,
        template="simple_white",
        yaxis={"title": "pay of a task", "range": SHOWN_VALUES},
        xaxis={"title": "check rate, %", "type": "log"},
        legend=LEGEND,
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
        ["asked for at the day's price and not done", f"{summary.unmet_share:.1%} of compute"],
        ["price a unit: first, last", f"{summary.price_first:.6g}, {summary.price_last:.6g} coins"],
        ["Gini of votes, of coins", f"{summary.gini_weight:.3f}, {summary.gini_coins:.3f}"],
    ]
    return _table("In all", ["", ""], rows)


def _write_years(summary: Summary) -> str:
    rows = [
        [
            f"{line.year}",
            f"{line.fees:,.0f}",
            f"{line.issued:,.0f}",
            f"{line.subsidy_share:.1%}",
            f"{line.unmet_share:.1%}",
        ]
        for line in summary.years
    ]
    return _table("Fees and new coins", ["year", "fees", "issued", "new coins of both", "asked for and not done"], rows)


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
            *show_break_even(line),
        ]
        for line in summary.cheats
    ]
    head = [
        "cheat",
        "hosts",
        "times caught",
        "gain over honest, of its income (95 %)",
        "",
        f"pays {HOLDING} below a check rate of",
        f"pays {FRESH} below",
    ]
    note = (
        "Who is caught loses what it holds and the task's pay. A newcomer holds nothing, and all its tasks are checked: the "
        "network's rate begins at 100 % and falls with honest epochs."
    )
    return _table("What cheating brings", head, rows) + f"<p>{note}</p>" if rows else ""


def show_break_even(line: CheatLine) -> tuple[str, str]:
    """Check rates below which a cheat pays: for a host that holds a full vesting period of pay, and for one with nothing."""
    return f"{line.break_even_rate:.3%}", f"{line.fresh_break_even_rate:.1%}"


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
    return f'<h2>{escape(title)}</h2><div class="wide"><table><tr>{top}</tr>{body}</table></div>'


MARGIN = {"l": 60, "r": 20, "t": 50, "b": 40}
LEGEND = {"orientation": "h", "y": -0.25}
"""Below the chart: beside it, a narrow window would have no room left."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin: 1.6rem 0 .4rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #dde2ea; font-variant-numeric: tabular-nums; }}
p {{ color: #4a5568; }} .wide {{ overflow-x: auto; }} .plotly-graph-div {{ max-width: 100%; }}
</style><script>{library}</script></head><body>
<h1>{title}</h1>
<p>A simulation from stated assumptions; coin prices and demand are inputs, not forecasts.</p>
{tables}
<h2>Day by day</h2>
{charts}
</body></html>
"""
