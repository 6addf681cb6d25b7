"""Where a network stands: what runs is asked; when nothing runs, the store of the node that got furthest is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TypeVar

from paceline.cli.network import ControlClient
from paceline.ledger.state import State
from paceline.node.home import Home
from paceline.store.state import MemoryStateStore, SqliteStateStore

Found = TypeVar("Found")


def find_standing(home: Home, ask: Callable[[ControlClient], Found], read: Callable[[State], Found]) -> Found:
    """What `ask` gets from the running network, or what `read` finds in the newest state on disk; an empty one before any block.

    Errors: ConfigError when the folder holds no network; TransportError when it runs but does not answer.
    """
    home.load_genesis()
    running = home.load_running()
    if running is not None:
        with closing(ControlClient(running.web_url, home.load_token())) as client:
            return ask(client)
    paths = [home.node_path(name) / "chain.sqlite" for name in home.node_names()]
    with ExitStack() as opened:
        stores = [opened.enter_context(closing(SqliteStateStore(p, durable=False))) for p in paths if p.exists()]
        best = max(stores, key=lambda store: store.height, default=None)
        return read(State(MemoryStateStore(), height=0) if best is None else State(best, height=best.height))
