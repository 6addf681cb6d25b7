"""`paceline state`: one node's committed state while the node does not run. Parses and prints; `node.state_files` acts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

if TYPE_CHECKING:
    from paceline.node.chains.state_files import StateFigures
    from paceline.node.home import Home

state_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="A node's state while it does not run: look, carry, make smaller."
)

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
NameOption = Annotated[str | None, typer.Option("--name", help="Which node. Default: the home's first.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@state_app.command()
def info(*, home: HomeOption = None, name: NameOption = None, json: JsonFlag = False) -> None:
    """Height, app hash, keys, blocks and size on disk."""
    from paceline.node.chains.state_files import describe_state  # noqa: PLC0415 - loads the node

    _print(home, name, describe_state, as_json=json)


@state_app.command()
def export(
    *,
    to: Annotated[Path, typer.Option("--to", help="File to write; nothing may be there.")],
    home: HomeOption = None,
    name: NameOption = None,
    json: JsonFlag = False,
) -> None:
    """Write the whole state, and the block that led to it, to one file. There is no secret in it."""
    from paceline.node.chains.state_files import export_node_state  # noqa: PLC0415 - loads the node

    _print(home, name, lambda where, node: export_node_state(where, node, to), as_json=json)


@state_app.command("import")
def import_(
    *,
    file: Annotated[Path, typer.Argument(help="What `paceline state export` wrote, on any node of the network.")],
    home: HomeOption = None,
    name: NameOption = None,
    json: JsonFlag = False,
) -> None:
    """Take an exported state over into an empty node; height and app hash are the same afterwards.

    Under CometBFT only a node whose engine still holds the blocks after that height can go on from it. The node that orders
    a solo network needs the NEWEST state: from an older one it would order heights a second time, and nobody follows it.
    """
    from paceline.node.chains.state_files import import_node_state  # noqa: PLC0415 - loads the node

    _print(home, name, lambda where, node: import_node_state(where, node, file), as_json=json)


@state_app.command()
def prune(
    *,
    keep_blocks: Annotated[int, typer.Option(min=1, help="How many of the last blocks stay.")],
    home: HomeOption = None,
    name: NameOption = None,
    json: JsonFlag = False,
) -> None:
    """Drop old blocks. The state stays; nodes that still need those blocks must get them elsewhere."""
    from paceline.node.chains.state_files import prune_node_state  # noqa: PLC0415 - loads the node

    _print(home, name, lambda where, node: prune_node_state(where, node, keep_blocks), as_json=json)


@state_app.command()
def compact(*, home: HomeOption = None, name: NameOption = None, json: JsonFlag = False) -> None:
    """Give the space of what was dropped back to the disk; needs as much free space as the state takes."""
    from paceline.node.chains.state_files import compact_node_state  # noqa: PLC0415 - loads the node

    _print(home, name, compact_node_state, as_json=json)


def _print(path: Path | None, name: str | None, act: Callable[[Home, str], StateFigures], *, as_json: bool) -> None:
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node

    def command() -> None:
        home = Home(path or get_default_home())
        figures = act(home, name or home.get_first_name())
        if as_json:
            print(msgspec.json.encode(figures).decode())
            return
        kept = max(0, figures.height - figures.first_block + 1)
        print(f"node      {figures.name}")
        print(f"height    {figures.height}")
        print(f"app hash  {figures.app_hash}")
        print(f"keys      {figures.keys:,}")
        print(f"blocks    {kept:,}" + (f", from {figures.first_block}" if kept else ""))
        print(f"on disk   {figures.file_bytes:,} bytes")

    run_command(command)
