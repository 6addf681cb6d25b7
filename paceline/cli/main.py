"""Commands: demo, up, status, doctor, race. Each parses, wires and prints; errors end with one clear line and code 1 or 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paceline.base.errors import ConfigError, PacelineError
from paceline.cli.environment import get_default_home
from paceline.cli.race import race_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(race_app, name="race")

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def demo(
    *,
    nodes: Annotated[int, typer.Option(help="Node processes, at least 5.")] = 5,
    seed: Annotated[int | None, typer.Option(help="Fixes keys, reveals, prompts and data order.")] = None,
    data: Annotated[Path | None, typer.Option(help="Text to train on. Default: the works of Shakespeare.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the web endpoint; 0 takes a free one.")] = 0,
    home: HomeOption = None,
) -> None:
    """Play the whole job: race, answer, train, check, settle, with three cheaters that get caught."""
    from paceline.cli.demo import DemoOptions, run_demo  # noqa: PLC0415 - loads torch

    options = DemoOptions(nodes=nodes, seed=seed, data=data, json_path=json, keep=keep, port=port, home=home)
    run_command(lambda: run_demo(options, Console()))


@app.command()
def up(
    *,
    nodes: Annotated[int | None, typer.Option(help="Node processes of a new network. Default: 5")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of API and dashboard; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback needs --api-key.")
    ] = "127.0.0.1",
    api_key: Annotated[list[str] | None, typer.Option(help="Key that requests must carry; may be repeated.")] = None,
    home: HomeOption = None,
) -> None:
    """Run a network on this machine until Ctrl-C: OpenAI-compatible API and dashboard."""
    from paceline.cli.up import UpOptions, run_up  # noqa: PLC0415 - loads the node

    keys = tuple(api_key or ())
    options = UpOptions(nodes=nodes, port=port, host=host, api_keys=keys, home=home or get_default_home())
    run_command(lambda: run_up(options, Console()))


@app.command()
def status(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Where the network stands: height, app hash, every node."""
    from paceline.cli.status import print_status  # noqa: PLC0415 - loads the node

    run_command(lambda: print_status(home or get_default_home(), as_json=json))


@app.command()
def doctor(*, home: HomeOption = None) -> None:
    """What this machine lacks, and the line that mends it."""
    from paceline.cli.doctor import run_doctor  # noqa: PLC0415 - probes heavy libraries

    if not run_doctor(home or get_default_home(), Console()):
        raise typer.Exit(1)


@app.command(hidden=True)
def node(
    *,
    home: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option()],
    web_host: Annotated[str, typer.Option()] = "127.0.0.1",
    web_port: Annotated[int, typer.Option()] = 0,
) -> None:
    """Run one node of a home; `up` starts these."""
    from paceline.cli.process import run_node  # noqa: PLC0415 - loads torch

    run_command(lambda: run_node(home, name, web_host, web_port))


def run_command(command: Callable[[], None]) -> None:
    """Run one command; errors become one clear line and a code."""
    # SIGTERM ends a command the same way as Ctrl-C, so that its children end too. Ctrl-C is set as well, because a
    # shell that starts a command in the background hands it down ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        command()
    except ConfigError as problem:
        print(f"paceline: {problem}", file=sys.stderr)
        raise typer.Exit(2) from None
    except PacelineError as problem:
        print(f"paceline: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
