"""`paceline api-key`: keys for the users of this home's endpoint. Parses and prints; rules are in `node.api_keys`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.base.errors import ConfigError
from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home

api_key_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keys for users of the API: add, list, revoke."
)

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
MAX_NAME_CHARS = 64
SHOWN = ("key_id", "name", "ending", "created", "revoked", "limits")


@api_key_app.command()
def add(
    *,
    name: Annotated[str, typer.Argument(help="What to call it: whose it is, or what for.")],
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Default: no limit.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Read and written. Default: no limit.")] = None,
    nicoin_per_day: Annotated[int | None, typer.Option(min=1, help="Spending. Default: no limit.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; repeatable. Default: all.")] = None,
    home: HomeOption = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept. From the first key on, every request needs one."""
    from paceline.node.api.keys import KeyRing  # noqa: PLC0415 - loads the node
    from paceline.node.views import KeyLimits  # noqa: PLC0415 - loads the node

    def command() -> None:
        if not (1 <= len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise ConfigError(f"the name of an API key has 1 to {MAX_NAME_CHARS} printable characters")
        limits = KeyLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day,
            nicoin_per_day=nicoin_per_day,
            models=tuple(model or ()),
        )
        secret, made = KeyRing(_find_home(home)).add(name, limits, int(time.time()))
        print(secret)
        typer.echo(f"{made.key_id} for {name}; it is not shown again.", err=True)

    run_command(command)


@api_key_app.command("list")
def list_(
    *, home: HomeOption = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """Names, limits and state of all keys; no key is shown, since none is kept."""
    from paceline.node.api.keys import KeyRing  # noqa: PLC0415 - loads the node

    def command() -> None:
        keys = KeyRing(_find_home(home)).list_keys()
        if json:
            print(msgspec.json.encode([{name: getattr(key, name) for name in SHOWN} for key in keys]).decode())
            return
        for key in keys:
            shown = {name: value for name, value in msgspec.to_builtins(key.limits).items() if value}
            told = ", ".join(f"{name}={value}" for name, value in shown.items()) or "no limits"
            state = "revoked" if key.revoked else "good"
            print(f"{key.name:<24} {key.key_id}  …{key.ending}  {state:<7}  {told}")

    run_command(command)


@api_key_app.command()
def revoke(*, name: Annotated[str, typer.Argument(help="Name or id of the key.")], home: HomeOption = None) -> None:
    """Refuse a key from now on, without a restart. Its files and its usage stay."""
    from paceline.node.api.keys import KeyRing  # noqa: PLC0415 - loads the node

    def command() -> None:
        key = KeyRing(_find_home(home)).revoke(name)
        print(f"{key.key_id} ({key.name}) is refused from now on.")

    run_command(command)


def _find_home(path: Path | None) -> Path:
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node

    home = Home(path or get_default_home())
    if not home.exists:
        raise ConfigError(f"{home.path} holds no network; `paceline up --home {home.path}` makes one")
    return home.path
