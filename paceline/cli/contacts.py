"""`paceline contacts`: the address book of a home. Parses and prints; rules are in `node.membership.contacts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

contacts_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The address book: names for accounts that you pay or name."
)

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]


@contacts_app.command()
def add(
    *,
    name: Annotated[str, typer.Argument(help="What to call it: small letters, digits, '.', '_' and '-'.")],
    address: Annotated[str, typer.Argument(help="Its address: 40 hex digits.")],
    home: HomeOption = None,
) -> None:
    """Give an account a name, for every command that takes an address."""
    from paceline.cli.signing import account_names  # noqa: PLC0415 - loads the node
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership.contacts import add_contact  # noqa: PLC0415 - loads the node
    from paceline.node.membership.policies import load_policies  # noqa: PLC0415 - loads the node

    def command() -> None:
        where = Home(home or get_default_home())
        taken = [*account_names(where), *load_policies(where)]
        print(f"{name} is {add_contact(where, name, address, taken).hex()}")

    run_command(command)


@contacts_app.command("list")
def list_(
    *, home: HomeOption = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """All names with their addresses."""
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership.contacts import load_contacts  # noqa: PLC0415 - loads the node

    def command() -> None:
        found = {name: address.hex() for name, address in load_contacts(Home(home or get_default_home())).items()}
        if json:
            print(msgspec.json.encode(found).decode())
            return
        if not found:
            print("No contacts yet; `paceline contacts add NAME ADDRESS` adds one.")
        for name, address in found.items():
            print(f"{address}  {name}")

    run_command(command)


@contacts_app.command()
def remove(*, name: Annotated[str, typer.Argument(help="The name to forget.")], home: HomeOption = None) -> None:
    """Forget a name."""
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership.contacts import remove_contact  # noqa: PLC0415 - loads the node

    run_command(lambda: print(f"{name} was {remove_contact(Home(home or get_default_home()), name).hex()}"))
