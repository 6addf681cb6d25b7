"""`paceline credits`: units of compute paid ahead, and what is left of them. Parses, signs, sends and prints."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.base.errors import ConfigError, Invalid
from paceline.cli.command import NumberCommand, run_command
from paceline.cli.environment import get_default_home
from paceline.economy.denominations import format_coins, parse_coins, parse_dollars
from paceline.protocol.credits import COINS, DOLLARS, MAX_MICRO_UNITS, BuyCredits, ReturnCredits

if TYPE_CHECKING:
    from paceline.node.chains.accounts import AccountStatus

credits_app = typer.Typer(
    no_args_is_help=True, help="Compute paid ahead at today's price; sessions and channels take it before coins."
)
MICRO_UNITS = 1_000_000

From = Annotated[str, typer.Option("--from", help="Whose account: `user`, a node or another key of the home.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would move; send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@credits_app.command()
def show(*, author: From = "user", home: HomeOption = None, json: JsonFlag = False) -> None:
    """Units of compute that an account has paid ahead, and the price that it paid."""
    run_command(lambda: _show(home or get_default_home(), author, as_json=json))


@credits_app.command(cls=NumberCommand)
def buy(
    *,
    units: Annotated[str, typer.Argument(help="Units of compute, with up to six digits after the point.")],
    most: Annotated[str, typer.Option(help='Most to pay: "30 icon", or "0.2 tUSD" of the test asset.')],
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Pay for units of compute at the epoch's price."""
    run_command(lambda: _send(home or get_default_home(), author, read_order(units, most), dry_run=dry_run, yes=yes))


@credits_app.command(name="return")
def return_(*, author: From = "user", dry_run: DryRun = False, yes: Yes = False, home: HomeOption = None) -> None:
    """Give all unused credits back for the coins that were paid."""
    run_command(lambda: _send(home or get_default_home(), author, ReturnCredits(), dry_run=dry_run, yes=yes))


def read_order(units: str, most: str) -> BuyCredits:
    """What is bought, and for how much at most. Errors: ConfigError naming the argument."""
    try:
        micro_units = Decimal(units) * MICRO_UNITS
        whole = micro_units.is_finite() and micro_units == int(micro_units)
    except InvalidOperation:
        whole, micro_units = False, Decimal(0)
    if not whole or not 0 < micro_units <= MAX_MICRO_UNITS:
        raise ConfigError(f"UNITS: {units!r} is no number above 0 with up to six digits after the point")
    try:
        if most.endswith("tUSD"):
            return BuyCredits(int(micro_units), DOLLARS, parse_dollars(most))
        return BuyCredits(int(micro_units), COINS, parse_coins(most))
    except Invalid as problem:
        raise ConfigError(f"--most: {problem.message}") from None


def describe_credits(found: AccountStatus) -> list[str]:
    """Lines for people."""
    if not found.credit_micro_units:
        return ["no compute credits"]
    price = found.credit_coins * MICRO_UNITS // found.credit_micro_units
    units = f"{found.credit_micro_units / MICRO_UNITS:,.6f}".rstrip("0").rstrip(".")
    return [
        f"{units} unit{'' if units == '1' else 's'} of compute, paid with {format_coins(found.credit_coins)}: {format_coins(price)} a unit"
    ]


def _show(path: Path, author: str, *, as_json: bool) -> None:
    from paceline.cli.printing import print_found  # noqa: PLC0415 - loads the node
    from paceline.cli.signing import load_signer  # noqa: PLC0415
    from paceline.cli.standing import find_standing  # noqa: PLC0415
    from paceline.node.chains.accounts import AccountStatus, build_account  # noqa: PLC0415
    from paceline.node.home import Home  # noqa: PLC0415

    home = Home(path)
    address = load_signer(home, author).address.hex()
    found = find_standing(
        home,
        lambda client: client.get(f"/account?account={address}", AccountStatus),
        lambda state: build_account(state, address),
    )
    print_found(found, describe_credits, as_json=as_json)


def _send(path: Path, author: str, message: BuyCredits | ReturnCredits, *, dry_run: bool, yes: bool) -> None:
    from paceline.cli.signing import (  # noqa: PLC0415 - loads the node
        describe_moves,
        load_signer,
        open_control,
        send_signed,
        sign_message,
        try_signed,
    )
    from paceline.node.home import Home  # noqa: PLC0415

    home = Home(path)
    key = load_signer(home, author)
    with open_control(home) as client:
        signed = sign_message(home, client, key, message)
        told = {"core reserve": "the fee", "compute credits": "behind the credits"}
        for line in describe_moves(try_signed(client, signed), told):
            print(line)
        if dry_run or not (yes or typer.confirm("Do it?")):
            print("Nothing was sent.")
            return
        print(f"Done at height {send_signed(client, signed)}.")
