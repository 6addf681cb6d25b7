"""`paceline up`: the network without the story."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.cli.bridge_setup import parse_bridge
from paceline.cli.environment import get_cache_path
from paceline.cli.models import resolve_models
from paceline.cli.run import RunOptions, run_home
from paceline.engine.cometbft import find_binary
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.node.home import Home, NewHome, create_home
from paceline.node.membership.joining import open_doors, require_host
from paceline.node.settings import COMETBFT, SOLO, load_settings
from paceline.node.supervisor import Listen, require_closed_door

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
    models: tuple[str, ...]
    """Names or folders; empty: the default for a new network, as they are for a continued one."""
    advertise: str | None
    """Under what host others reach the nodes; None leaves it as it was, on this machine only for a new network."""
    peer_port: int
    bridge: str | None = None
    """CHAIN:0xCONTRACT, for a new network; None for one without a bridge, or as it is."""


def run_up(options: UpOptions, console: Console) -> None:
    """Make or continue the home's network and stay until Ctrl-C.

    Errors: ConfigError before anything is started; TransportError when a node does not come up.
    """
    listen = Listen(host=options.host, port=options.port, api_keys=options.api_keys)
    require_closed_door(listen, options.home)
    home = Home(options.home)
    models = resolve_models(options.models, get_cache_path(), console.print)
    if home.exists:
        _require_same(options, home)
        _change_models(home, models)
        console.print(f"Continuing the network in {home.path} ({len(home.node_names())} nodes)")
    else:
        nodes = DEFAULT_NODES if options.nodes is None else options.nodes
        engine = options.engine or SOLO
        if engine == COMETBFT:
            find_binary()
        bridge = None if options.bridge is None else parse_bridge(options.bridge)
        new = NewHome(nodes=nodes, engine=engine, models=models or (DEFAULT_MODEL,), bridge=bridge)
        home = create_home(options.home, new)
        console.print(f"New network in {home.path} ({nodes} nodes, engine {engine})")
    lines: tuple[str, ...] = ()
    if options.advertise is not None:
        url = open_doors(home, require_host(options.advertise), options.peer_port)
        lines = (f"Others join paceline join {url}",)
    run_home(home, RunOptions(listen=listen, lines=lines), console)


def _change_models(home: Home, models: tuple[str, ...]) -> None:
    """Every node serves these from now on; each tells the ledger itself."""
    for name in home.node_names() if models else ():
        settings = load_settings(home.node_path(name) / "node.toml")
        home.save_settings(msgspec.structs.replace(settings, models=models))


def _require_same(options: UpOptions, home: Home) -> None:
    engine = load_settings(home.node_path(home.node_names()[0]) / "node.toml").engine
    if options.engine not in {None, engine}:
        raise ConfigError(
            f"--engine {options.engine}: the network in {home.path} runs on {engine}; leave --engine out or use another --home"
        )
    if options.bridge is not None and parse_bridge(options.bridge) != home.load_genesis().params.bridge:
        raise ConfigError(
            f"--bridge: the network in {home.path} has another one; leave --bridge out or use another --home"
        )
    held = len(home.node_names())
    if options.nodes not in {None, held}:
        raise ConfigError(
            f"--nodes {options.nodes}: the network in {home.path} has {held}; leave --nodes out or use another --home"
        )
