"""`paceline up`: the network without the story."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.engine.cometbft import find_binary
from paceline.node.home import Home, NewHome, create_home
from paceline.node.settings import COMETBFT, SOLO, load_settings
from paceline.node.supervisor import Listen, Supervisor, require_closed_door

DEFAULT_NODES = 5


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What the command line asked for."""

    nodes: int | None
    """None: five for a new network, those it has for a continued one."""
    port: int
    host: str
    api_keys: tuple[str, ...]
    home: Path
    engine: str | None
    """None: solo for a new network, its own for a continued one."""


def run_up(options: UpOptions, console: Console) -> None:
    """Make or continue the home's network and stay until Ctrl-C.

    Errors: ConfigError before anything is started; TransportError when a node does not come up.
    """
    listen = Listen(host=options.host, port=options.port, api_keys=options.api_keys)
    require_closed_door(listen)
    home = Home(options.home)
    if home.exists:
        _require_same(options, home)
        console.print(f"Continuing the network in {home.path} ({len(home.node_names())} nodes)")
    else:
        nodes = DEFAULT_NODES if options.nodes is None else options.nodes
        engine = options.engine or SOLO
        if engine == COMETBFT:
            find_binary()
        home = create_home(options.home, NewHome(nodes=nodes, engine=engine))
        console.print(f"New network in {home.path} ({nodes} nodes, engine {engine})")
    supervisor = Supervisor(home, listen)
    with ExitStack() as stack:
        with console.status("Starting nodes (the very first start converts the model once)"):
            stack.enter_context(supervisor)
        stack.callback(console.print, "Stopped.")
        console.print(f"Dashboard   {supervisor.web_url}/")
        console.print(f"OpenAI API  {supervisor.web_url}/v1   ({'your keys' if options.api_keys else 'any key'})")
        console.print(f"Logs        {home.path}/nodes/*/node.log")
        console.print("Ctrl-C ends everything.")
        supervisor.watch(lambda: False, lambda name, code: console.print(f"{name} ended ({code}); restarting it"))


def _require_same(options: UpOptions, home: Home) -> None:
    engine = load_settings(home.node_path(home.node_names()[0]) / "node.toml").engine
    if options.engine not in {None, engine}:
        raise ConfigError(
            f"--engine {options.engine}: the network in {home.path} runs on {engine}; leave --engine out or use another --home"
        )
    held = len(home.node_names())
    if options.nodes not in {None, held}:
        raise ConfigError(
            f"--nodes {options.nodes}: the network in {home.path} has {held}; leave --nodes out or use another --home"
        )
