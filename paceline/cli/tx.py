"""`paceline tx`: pay an account, and look beforehand at what would move. Parses; `transfers` acts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import NumberCommand, run_command
from paceline.cli.environment import get_default_home

tx_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Transactions: pay, and see what moves before it moves."
)

To = Annotated[str, typer.Argument(help="Who gets it: 40 hex digits, a contact, a name of this home, or a node.")]
From = Annotated[str, typer.Option("--from", help="Whose account pays: `user`, a node or another key of the home.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would move and what the ledger would say; send nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@tx_app.command(cls=NumberCommand)
def send(
    *,
    to: To,
    amount: Annotated[str, typer.Argument(help='How much, such as "1.5 icon" or "300 micoin".')],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Pay coins to an account."""
    _run("coins", to, amount, author, home, dry_run=dry_run, yes=yes, json=json)


@tx_app.command("send-dollars", cls=NumberCommand)
def send_dollars(
    *,
    to: To,
    amount: Annotated[str, typer.Argument(help='How much of the test asset, such as "12.5 tUSD".')],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Pay tUSD to an account: a test asset without value."""
    _run("dollars", to, amount, author, home, dry_run=dry_run, yes=yes, json=json)


@tx_app.command("send-asset")
def send_asset(
    *,
    to: To,
    amount: Annotated[str, typer.Argument(help='How much of which test asset, such as "0.5 tETH".')],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Pay tUSD, tETH or tBTC to an account: test assets without value."""
    _run("any", to, amount, author, home, dry_run=dry_run, yes=yes, json=json)


def _run(
    asset: str, to: str, amount: str, author: str, home: Path | None, *, dry_run: bool, yes: bool, json: bool
) -> None:
    from paceline.cli.transfers import TransferOptions, send_transfer  # noqa: PLC0415 - loads the node

    options = TransferOptions(
        home=home or get_default_home(),
        asset=asset,
        to=to,
        amount=amount,
        author=author,
        dry_run=dry_run,
        yes=yes,
        as_json=json,
    )
    run_command(lambda: send_transfer(options))
