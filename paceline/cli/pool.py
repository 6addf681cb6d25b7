"""`paceline pool`: where the liquidity pool stands, and trades with it by a key of this home. Parses; `pool_trades` acts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.command import NumberCommand, refuse_before, run_command
from paceline.cli.environment import get_default_home

if TYPE_CHECKING:
    from paceline.node.chains.pools import Side

pool_app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    help="The liquidity pool: coins for test assets, and earned coins back. Alone it shows where the pool stands.",
)

CoinsArgument = Annotated[str, typer.Argument(help='How many, such as "12.5 icon" or "300 micoin".')]
NameOption = Annotated[str | None, typer.Option("--name", help="Node whose account it is. Default: the home's user.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
DryFlag = Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@pool_app.callback()
def status(
    context: typer.Context,
    *,
    name: NameOption = None,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Price, coins sold and returned, assets with their quotes, coverage; and what an account of this home holds."""
    word = context.invoked_subcommand
    if word is not None:
        run_command(lambda: refuse_before(word, {"--home": home, "--name": name, "--json": json}))
    else:
        from paceline.cli.pool_trades import print_pool  # noqa: PLC0415 - loads the node

        run_command(lambda: print_pool(home or get_default_home(), name or "user", as_json=json))


@pool_app.command(cls=NumberCommand)
def buy(
    *,
    coins: CoinsArgument,
    most: Annotated[
        str | None, typer.Option(help='Most to pay, such as "0.5 tUSD". Default: what it costs now.')
    ] = None,
    pays: Annotated[str, typer.Option("--with", help="Test asset to pay in: usd, eth or btc.")] = "usd",
    name: NameOption = None,
    dry_run: DryFlag = False,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Buy coins of the pool with a test asset."""
    _run("buy", coins, (most, pays), name, home, dry_run=dry_run, yes=yes, json=json)


@pool_app.command(cls=NumberCommand)
def redeem(
    *,
    coins: CoinsArgument,
    least: Annotated[
        str | None, typer.Option(help='Least to get, such as "0.5 tUSD". Default: what it brings now.')
    ] = None,
    paid: Annotated[
        str, typer.Option("--for", help="Test asset to be paid in: usd; or eth, btc where the dollars do not suffice.")
    ] = "usd",
    name: NameOption = None,
    dry_run: DryFlag = False,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Give coins that were issued to a node for hosting back to the pool, for a test asset."""
    _run("redeem", coins, (least, paid), name, home, dry_run=dry_run, yes=yes, json=json)


def _run(
    side: Side,
    coins: str,
    bound: tuple[str | None, str],
    name: str | None,
    home: Path | None,
    *,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> None:
    from paceline.cli.pool_trades import TradeOptions, trade  # noqa: PLC0415 - loads the node

    options = TradeOptions(
        home=home or get_default_home(),
        side=side,
        coins=coins,
        limit=bound[0],
        asset=bound[1],
        name=name or "user",
        dry_run=dry_run,
        yes=yes,
        as_json=json,
    )
    run_command(lambda: trade(options))
