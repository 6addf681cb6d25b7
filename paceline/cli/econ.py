"""`paceline econ`: what the rules of issuance come to. Parses and prints; `economy` computes."""

from __future__ import annotations

import json as encoder
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from paceline.base.integers import PPM
from paceline.economy.issuance import BATCHES, Batch, compute_batch, to_coins
from paceline.economy.supply import CORE_RESERVE

econ_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The economy: issuance by batch.")
USUAL_FUND_PPM = 200_000
AMOUNTS = ("coins", "developer_fees", "paid_to_hosts", "to_training_fund", "net_to_hosts")


@econ_app.callback()
def econ() -> None:
    """Keep `table` a word of its own: a group with one command would drop it."""


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
    shown = Table(
        "batch", "subsidy", "coins issued", "fees of developers", "paid to hosts", "to the fund", "hosts keep"
    )
    for row in rows:
        coins = [f"{to_coins(getattr(row, name)):,}" for name in AMOUNTS]
        percent, hundredths = divmod((row.subsidy_ppm + 50) // 100, 100)
        shown.add_row(str(row.number), f"{percent}.{hundredths:02} %", *coins)
    console = Console()
    console.print(shown)
    console.print(f"{to_coins(CORE_RESERVE):,} coins in all. Whole coins, half up; --json has nicoin beside them.")


def show_row(row: Batch) -> dict[str, int]:
    """One row as JSON: whole coins by their plain names, nicoin beside them."""
    coins = {name: to_coins(getattr(row, name)) for name in AMOUNTS}
    exact = {f"{name}_nicoin": getattr(row, name) for name in AMOUNTS}
    return {"batch": row.number, "subsidy_ppm": row.subsidy_ppm, **coins, **exact}
