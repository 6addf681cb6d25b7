"""`paceline status`: from the running network, or from the stores when nothing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from paceline.base.errors import TransportError
from paceline.cli.network import ControlClient
from paceline.engine.solo import LABEL
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State
from paceline.node.home import Home
from paceline.node.views import NodeLoad
from paceline.store.state import SqliteStateStore


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the status."""

    name: str
    alive: bool
    height: int
    app_hash: str
    voting_power: int
    load: NodeLoad | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The network of a home."""

    height: int
    app_hash: str
    engine: str
    nodes: list[NodeLine]


def print_status(path: Path, *, as_json: bool) -> None:
    """Print where the network stands.

    Errors: as `load_status`.
    """
    status = load_status(Home(path))
    if as_json:
        print(msgspec.json.encode(status).decode())
        return
    console = Console()
    console.print(f"height {status.height}   app hash {status.app_hash[:16]}…   {status.engine}")
    table = Table("node", "alive", "height", "app hash", "voting power", "answers", "tokens/s")
    for node in status.nodes:
        alive = "yes" if node.alive else "no"
        work, pace = _describe_load(node.load)
        power = f"{node.voting_power:,}"
        table.add_row(node.name, alive, str(node.height), node.app_hash[:16] + "…", power, work, pace)
    console.print(table)
    for name in sorted(set(Home(path).node_names()) - {node.name for node in status.nodes}):
        console.print(
            f"{name} is not registered yet, so it has no votes and earns nothing: `paceline sponsor` registers it"
        )


def _describe_load(load: NodeLoad | None) -> tuple[str, str]:
    """Answers in the making of those possible, and what waits; tokens per second."""
    if load is None:
        return "", ""
    waiting = f" + {load.waiting} waiting" if load.waiting else ""
    return f"{load.under_way} of {load.slots}{waiting}", f"{load.tokens_per_second:.1f}"


def load_status(home: Home) -> Status:
    """Where the network of a home stands: from the running network, else from the stores.

    Errors: ConfigError when the folder holds no network; TransportError when it runs but does not answer.
    """
    home.load_genesis()
    running = home.load_running()
    if running is not None:
        client = ControlClient(running.web_url, home.load_token())
        try:
            found = client.get("/status", dict[str, Any])
            return msgspec.convert(found, Status)
        except TransportError:
            # The nodes hold their stores, so only they can say where they stand.
            raise TransportError(f"the network in {home.path} is just starting or ending; try again") from None
        finally:
            client.close()
    return _read_stores(home)


def _read_stores(home: Home) -> Status:
    lines = []
    height, app_hash = 0, ""
    for name in home.node_names():
        line = _read_store(home, name, home.load_key(name).address)
        lines.append(line)
        if line.height > height or not app_hash:
            height, app_hash = line.height, line.app_hash
    return Status(height=height, app_hash=app_hash, engine=LABEL, nodes=lines)


def _read_store(home: Home, name: str, address: bytes) -> NodeLine:
    path = home.node_path(name) / "chain.sqlite"
    if not path.exists():
        return NodeLine(name=name, alive=False, height=0, app_hash="", voting_power=0)
    store = SqliteStateStore(path, durable=False)
    try:
        node = NODES.get(State(store, height=store.height), address)
        power = node.voting_power if node is not None else 0
        return NodeLine(name=name, alive=False, height=store.height, app_hash=store.app_hash.hex(), voting_power=power)
    finally:
        store.close()
