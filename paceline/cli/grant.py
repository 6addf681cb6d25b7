"""`paceline grant`: let another key act for an account, within bounds. Parses; `granting` acts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

grant_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Grants: another key sends some messages for an account, up to a height and a limit.",
)

To = Annotated[str, typer.Argument(help="Whose key: 40 hex digits, a contact, a name of this home.")]
From = Annotated[str, typer.Option("--from", help="Whose account grants: `user`, a node or another key of the home.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would move and what the ledger would say; send nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]


@grant_app.command()
def give(
    *,
    to: To,
    kinds: Annotated[list[str], typer.Argument(help="Which messages, such as vote-price or open-session.")],
    lasts: Annotated[int, typer.Option("--lasts", min=1, help="For how many heights.")],
    limit: Annotated[str, typer.Option("--limit", help="What may be spent, fees included.")] = "0 icon",
    author: From = "user",
    dry_run: DryRun = False,
    yes: Yes = False,
    home: HomeOption = None,
) -> None:
    """Let another key send these messages on the account's behalf. It can never transfer and never grant."""
    from paceline.cli.granting import give_grant  # noqa: PLC0415 - loads the node

    place = home or get_default_home()
    run_command(lambda: give_grant(place, author, to, kinds, lasts, limit, dry_run=dry_run, yes=yes))


@grant_app.command()
def revoke(
    *, to: To, author: From = "user", dry_run: DryRun = False, yes: Yes = False, home: HomeOption = None
) -> None:
    """End a grant: from the next block on the key can do nothing for the account."""
    from paceline.cli.granting import revoke_grant  # noqa: PLC0415 - loads the node

    run_command(lambda: revoke_grant(home or get_default_home(), author, to, dry_run=dry_run, yes=yes))


@grant_app.command("list")
def list_(
    *,
    account: Annotated[str, typer.Argument(help="Whose grants: an address, a contact, a name of this home.")] = "user",
    home: HomeOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What an account holds and whom it lets act."""
    from paceline.cli.granting import print_grants  # noqa: PLC0415 - loads the node

    run_command(lambda: print_grants(home or get_default_home(), account, as_json=json))
