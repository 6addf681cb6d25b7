"""`paceline bridge`: test dollars from another chain and back to it. Parses; `bridge_moves` and `bridge_calls` act."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

bridge_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Test dollars from another chain and back to it, in networks whose genesis names a contract there.",
)

AmountArgument = Annotated[str, typer.Argument(help='How many, such as "12.5 tUSD".')]
RpcOption = Annotated[str, typer.Option("--rpc", help="JSON-RPC server of the other chain.")]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="Key over there that pays for it. Default: print what a wallet sends.")
]
FromOption = Annotated[str, typer.Option("--from", help="Account of this home that signs.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
DryFlag = Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@bridge_app.command()
def status(
    *,
    name: Annotated[str, typer.Option("--name", help="Account of this home to show.")] = "user",
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Contract, chain, last attested block, what waits, newest withdrawals; and what an account of this home holds."""
    from paceline.cli.bridge_moves import print_status  # noqa: PLC0415 - loads the node

    run_command(lambda: print_status(home or get_default_home(), name, as_json=json))


@bridge_app.command()
def deposit(
    *,
    amount: AmountArgument,
    rpc: RpcOption,
    to: Annotated[str, typer.Option(help="Account here that gets it.")] = "user",
    key_file: KeyFileOption = None,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Pay into the contract over there: print the two transactions for a wallet, or send them by a key."""
    from paceline.cli.bridge_calls import CallOptions, deposit  # noqa: PLC0415 - loads the node

    options = CallOptions(home=home or get_default_home(), rpc=rpc, key_file=key_file, yes=yes, as_json=json)
    run_command(lambda: deposit(options, amount, to))


@bridge_app.command()
def claim(
    *,
    transaction: Annotated[str, typer.Argument(metavar="TXHASH", help="The deposit's transaction over there.")],
    rpc: RpcOption,
    author: FromOption = "user",
    dry_run: DryFlag = False,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Show a deposit to this network, which credits the account that it names. The proof is made on this machine."""
    from paceline.cli.bridge_moves import MoveOptions, claim  # noqa: PLC0415 - loads the node

    options = MoveOptions(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes, as_json=json)
    run_command(lambda: claim(options, transaction, rpc))


@bridge_app.command()
def withdraw(
    *,
    amount: AmountArgument,
    to: Annotated[str, typer.Argument(metavar="TO", help="Address over there: 0x and 40 hex digits.")],
    author: FromOption = "user",
    dry_run: DryFlag = False,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Burn test dollars here, to be paid over there."""
    from paceline.cli.bridge_moves import MoveOptions, withdraw  # noqa: PLC0415 - loads the node

    options = MoveOptions(home=home or get_default_home(), author=author, dry_run=dry_run, yes=yes, as_json=json)
    run_command(lambda: withdraw(options, amount, to))


@bridge_app.command()
def collect(
    *,
    number: Annotated[int, typer.Argument(min=0, max=2**48, help="Number of the withdrawal.")],
    rpc: RpcOption,
    key_file: KeyFileOption = None,
    yes: YesFlag = False,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Gather the attesters' signatures under a withdrawal: print the transaction that pays it, or send it by a key."""
    from paceline.cli.bridge_calls import CallOptions, collect  # noqa: PLC0415 - loads the node

    options = CallOptions(home=home or get_default_home(), rpc=rpc, key_file=key_file, yes=yes, as_json=json)
    run_command(lambda: collect(options, number))


@bridge_app.command()
def key(
    *,
    file: Annotated[Path, typer.Argument(help="File of a key of the other chain; made when it is not there.")],
    attester: Annotated[
        str | None, typer.Option(help="Node of this home that signs withdrawals with it from its next start on.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Make or show a key of the other chain, and let a node sign withdrawals with it."""
    from paceline.cli.bridge_setup import print_key  # noqa: PLC0415 - loads the node

    run_command(lambda: print_key(file, home or get_default_home(), attester))


@bridge_app.command()
def watch(
    *,
    rpc: Annotated[list[str], typer.Argument(help="JSON-RPC servers of the other chain; all of them must agree.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Node that reads there. Default: all of this home.")
    ] = None,
    start_block: Annotated[int, typer.Option(min=0, max=2**48, help="First block to look at.")] = 0,
    home: HomeOption = None,
) -> None:
    """Let nodes of this home read the other chain and attest, from their next start on."""
    from paceline.cli.bridge_setup import set_watch  # noqa: PLC0415 - loads the node

    run_command(lambda: set_watch(home or get_default_home(), tuple(rpc), name, start_block))
