"""`paceline price quotes` and `vote-quote`: what the test assets that the pool takes count for. Parses; `economy` acts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON array.")]


def quotes(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Quotes of tETH and tBTC in tUSD: recorded when, the votes, and what comes next."""
    from paceline.cli.economy import print_quotes  # noqa: PLC0415 - loads the node

    run_command(lambda: print_quotes(home or get_default_home(), as_json=json))


def vote_quote(
    *,
    asset: Annotated[str, typer.Argument(help="eth or btc.")],
    amount: Annotated[str, typer.Argument(help='Of one whole of it, such as "2500 tUSD".')],
    node: Annotated[str | None, typer.Option("--name", help="Node that votes. Default: the home's first.")] = None,
    owner: Annotated[
        str | None, typer.Option("--for", help="Node that granted this message to the key that --name gives.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the ledger would say; send nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what a test asset counts for; the weighted median of all votes is the quote of the next epoch."""
    from paceline.cli.economy import vote_quote as send  # noqa: PLC0415 - loads the node

    run_command(lambda: send(home or get_default_home(), node, (asset, amount), owner, dry_run=dry_run))
