"""`paceline econ`: what the rules of issuance come to, and what a whole economy does. Parses and prints, computes nothing."""

from __future__ import annotations

import json as encoder
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from paceline.base.integers import PPM
from paceline.cli.command import run_command
from paceline.cli.files import require_target, write_target
from paceline.cli.hypothesis import hypothesis
from paceline.cli.usefulness import usefulness
from paceline.economy.issuance import BATCHES, Batch, compute_batch, to_coins
from paceline.economy.self_dealing import compute_most_gain, compute_self_dealing
from paceline.economy.supply import CORE_RESERVE

if TYPE_CHECKING:
    from paceline.lab.economy_report import Summary

econ_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The economy: issuance, and a simulator.")
USUAL_FUND_PPM = 200_000
USUAL_COALITIONS = (10, 20, 33, 50)
AMOUNTS = ("coins", "developer_fees", "paid_to_hosts", "to_training_fund", "net_to_hosts")
CHEATS = (
    "It pays below these check rates: for a host that holds a full vesting period of pay, and for a fresh one that would lose the "
    "task's pay alone (all tasks of a fresh host are checked)."
)
econ_app.command()(hypothesis)
econ_app.command()(usefulness)


@econ_app.command()
def table(
    *,
    fund_ppm: Annotated[
        int, typer.Option(min=0, max=PPM, help="The training fund's share of fees and of new coins, in millionths.")
    ] = USUAL_FUND_PPM,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array of rows.")] = False,
) -> None:
    """Print the twelve batches: subsidy, fees that issue each, what hosts are paid and what the training fund takes of it."""
    rows = [compute_batch(number, fund_ppm) for number in range(1, BATCHES + 1)]
    if json:
        print(encoder.dumps([show_row(row) for row in rows]))
        return
    heads = ("batch", "subsidy", "fees", "paid to hosts", "to the fund", "hosts keep")
    shown = Table(*(Column(head, justify="right", no_wrap=True) for head in heads))
    for row in rows:
        coins = [f"{to_coins(getattr(row, name)):,}" for name in AMOUNTS[1:]]
        percent, hundredths = divmod((row.subsidy_ppm + 50) // 100, 100)
        shown.add_row(str(row.number), f"{percent}.{hundredths:02} %", *coins)
    console = Console()
    console.print(shown)
    console.print(
        f"Each batch issues {to_coins(rows[0].coins):,} coins, {to_coins(CORE_RESERVE):,} in all; fees are what developers pay meanwhile. "
        "Whole coins, half up; --json has nicoin beside them.",
        highlight=False,
        soft_wrap=True,
    )


@econ_app.command(name="self-dealing")
def self_dealing(
    *,
    fund_ppm: Annotated[int, typer.Option(min=0, max=PPM - 1, help="The training fund's share, in millionths.")] = (
        USUAL_FUND_PPM
    ),
    share: Annotated[
        list[int] | None, typer.Option(min=1, max=100, help="A coalition's weight, in per cent; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array of rows.")] = False,
) -> None:
    """Print what a coalition gains by asking its own nodes, batch by batch, on the day that suits it best."""
    shares = share or list(USUAL_COALITIONS)
    rows = [_show_self_dealing(batch, fund_ppm, shares) for batch in range(1, BATCHES + 1)]
    if json:
        print(encoder.dumps(rows))
        return
    shown = Table("batch", "a coin", "steered", "a day", *(f"{part} %" for part in shares))
    for row in rows:
        gains = [f"{_round_coins(free)} / {_round_coins(paid)}" for free, paid in row["gains_nicoin"]]
        shares_ppm = (row["break_even_ppm"], row["steered_break_even_ppm"], row["daily_break_even_ppm"])
        breaks = [f"{share_ppm / 10_000:.1f} %" for share_ppm in shares_ppm]
        shown.add_row(str(row["batch"]), *breaks, *gains)
    console = Console()
    console.print(shown)
    console.print(
        "A coalition below these shares of all weight loses by each coin of fees, taking draws as they come or steering to its own nodes, "
        "and by each day. The other columns: the most coins "
        "that a day without other demand brings a coalition of that share, where work costs nothing / what it is paid.",
        soft_wrap=True,
    )


class SelfDealingRow(TypedDict):
    """One batch as printed. Units: millionths of all weight; nicoin a day, (work for nothing, work at full cost)."""

    batch: int
    break_even_ppm: int
    steered_break_even_ppm: int
    daily_break_even_ppm: int
    fees_nicoin: int
    shares_percent: list[int]
    gains_nicoin: list[tuple[int, int]]


def _show_self_dealing(batch: int, fund_ppm: int, shares: list[int]) -> SelfDealingRow:
    found = compute_self_dealing(batch, fund_ppm)
    gains = [
        (
            compute_most_gain(batch, fund_ppm, part * 10_000, 0),
            compute_most_gain(batch, fund_ppm, part * 10_000, PPM),
        )
        for part in shares
    ]
    return SelfDealingRow(
        batch=batch,
        break_even_ppm=found.break_even_ppm,
        steered_break_even_ppm=found.steered_break_even_ppm,
        daily_break_even_ppm=found.daily_break_even_ppm,
        fees_nicoin=found.fees,
        shares_percent=shares,
        gains_nicoin=gains,
    )


def _round_coins(nicoin: int) -> str:
    return f"{to_coins(nicoin):,}" if nicoin else "-"


@econ_app.command()
def simulate(
    scenario: Annotated[Path, typer.Argument(help="A TOML file; examples/econ/ has some.")],
    *,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts and tables.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row a day.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play years of an economy: who earns what, what cheating brings, what checking costs."""
    run_command(lambda: _simulate(scenario, html, csv, json))


def _simulate(path: Path, html: Path | None, csv: Path | None, json: bool) -> None:
    from paceline.lab.economy import simulate as play  # noqa: PLC0415 - loads numpy and plotly
    from paceline.lab.economy_page import write_page  # noqa: PLC0415
    from paceline.lab.economy_report import summarise, write_csv  # noqa: PLC0415
    from paceline.lab.scenario import load_scenario  # noqa: PLC0415

    scenario = load_scenario(path)
    for target in (html, csv):
        require_target(target)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("days", total=scenario.epochs)
        economy = play(scenario, lambda _: progress.advance(bar))
    summary = summarise(economy)
    if html is not None:
        write_target(html, write_page(economy, summary))
    if csv is not None:
        write_target(csv, write_csv(economy))
    if json:
        print(encoder.dumps(asdict(summary)))
        return
    _print_summary(summary, Console())


def _print_summary(summary: Summary, console: Console) -> None:
    from paceline.lab.economy_page import show_break_even  # noqa: PLC0415 - loads numpy and plotly

    for line in _describe_summary(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    classes = Table("class", "honest hosts", "coins a day", "profit $ a day")
    for kind in summary.classes:
        classes.add_row(kind.name, f"{kind.hosts:,}", f"{kind.coins_a_day:,.3f}", f"{kind.profit_a_day:,.2f}")
    console.print(classes)
    heads = ("cheat", "hosts", "times caught", "gain over honest (95 %)", "pays below, holding", "pays below, fresh")
    cheats = Table(*heads)
    for cheat in summary.cheats:
        gain = f"{cheat.gain:+.1%} ({cheat.low:+.1%} to {cheat.high:+.1%})"
        cheats.add_row(cheat.name, f"{cheat.hosts:,}", f"{cheat.caught:,}", gain, *show_break_even(cheat))
    if summary.cheats:
        console.print(cheats)
        console.print(CHEATS, markup=False, highlight=False, soft_wrap=True)


def _describe_summary(summary: Summary) -> Iterator[str]:
    first, last = summary.years[0], summary.years[-1]
    yield f"{summary.name}: {summary.hosts:,} hosts, {summary.epochs:,} days; prices and demand are assumptions."
    yield (
        f"Fees {summary.fees:,.0f} coins, issued {summary.issued:,.0f}, forfeited {summary.forfeited:,.0f}; "
        f"to the training fund {summary.to_fund:,.0f}."
    )
    yield f"New coins are {first.subsidy_share:.1%} of both in year {first.year}, {last.subsidy_share:.1%} in year {last.year}."
    yield f"Price of a unit: {summary.price_first:.6g} coins at first, {summary.price_last:.6g} at last."
    yield f"Of the compute asked for at the day's price {summary.unmet_share:.1%} was not done."
    yield f"Checking takes {summary.checking_first:.1%} of used compute at first, {summary.checking_last:.1%} at last."
    yield f"Gini of votes {summary.gini_weight:.3f}, of coins {summary.gini_coins:.3f}."


def show_row(row: Batch) -> dict[str, int]:
    """One row as JSON: whole coins by their plain names, nicoin beside them."""
    coins = {name: to_coins(getattr(row, name)) for name in AMOUNTS}
    exact = {f"{name}_nicoin": getattr(row, name) for name in AMOUNTS}
    return {"batch": row.number, "subsidy_ppm": row.subsidy_ppm, **coins, **exact}
