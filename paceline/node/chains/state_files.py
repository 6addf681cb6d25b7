"""One node's committed state while the node does not run: look, export, import, prune, compact.

It opens the store exclusively, so it can never meddle with a running node. Invariant: an import changes an empty node or
nothing, and a state under the solo engine comes in only with the block in which the network's sequencer signed its app hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError
from paceline.engine.blocks import decode_block, verify_block
from paceline.node.home import Home
from paceline.node.settings import COMETBFT, load_settings
from paceline.protocol.genesis import compute_chain_id
from paceline.store.snapshots import ExportHead, InvalidSnapshot, export_state, import_state, read_export_head
from paceline.store.state import SqliteStateStore


class StateFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Where one node's store stands."""

    name: str
    height: int
    app_hash: str
    keys: int
    first_block: int
    """Lowest height whose block is kept; one above the height when none is."""
    file_bytes: int


def describe_state(home: Home, name: str) -> StateFigures:
    """Errors: as `open_idle_store`."""
    with open_idle_store(home, name) as store:
        return _measure(home, name, store)


def export_node_state(home: Home, name: str, path: Path) -> StateFigures:
    """Write a node's state, and the block that led to it, to one file.

    Errors: as `open_idle_store`; ConfigError when the node has no block yet, the file exists, or the disk refuses.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already: an export overwrites nothing; name another file")
    with open_idle_store(home, name) as store:
        if store.height == 0:
            raise ConfigError(f"{name} has no block yet: there is nothing to export")
        try:
            export_state(path, store.height, store.app_hash, list(store.iterate(b"")), store.get_block(store.height))
        except OSError as problem:
            raise ConfigError(f"{path} cannot be written: {problem.strerror}") from None
        return _measure(home, name, store)


def import_node_state(home: Home, name: str, path: Path) -> StateFigures:
    """Take an exported state over into an empty node.

    Errors: ConfigError when the node runs, is not empty, or its engine cannot go on from a state alone; InvalidSnapshot,
    InvalidBlock, WorkError when the file is damaged or its state is not of this network. The node stays empty then.
    """
    _require_idle(home, name)
    head = read_export_head(path)
    _require_origin(home, name, head)
    store = SqliteStateStore(get_store_path(home, name), durable=True)
    try:
        if store.height > 0:
            raise ConfigError(
                f"{name} is at height {store.height} already: a state is imported into an empty node only; "
                f"move {get_store_path(home, name)} away first"
            )
        import_state(path, store, home.node_path(name) / "import")
        home.get_awaits_state_path(name).unlink(missing_ok=True)
        return _measure(home, name, store)
    finally:
        store.close()


def prune_node_state(home: Home, name: str, keep_blocks: int) -> StateFigures:
    """Drop all blocks but the last ones; the state itself stays.

    Errors: as `open_idle_store`.
    """
    with open_idle_store(home, name) as store:
        store.prune(store.height - keep_blocks + 1)
        return _measure(home, name, store)


def compact_node_state(home: Home, name: str) -> StateFigures:
    """Give space that is not used any more back to the disk.

    Errors: as `open_idle_store`; WorkError when the disk is too full to do it.
    """
    with open_idle_store(home, name) as store:
        store.compact()
        return _measure(home, name, store)


@contextmanager
def open_idle_store(home: Home, name: str) -> Iterator[SqliteStateStore]:
    """The store of a node that does not run, closed at the end.

    Errors: ConfigError when it runs, does not exist or is damaged.
    """
    _require_idle(home, name)
    path = get_store_path(home, name)
    if not path.exists():
        raise ConfigError(f"{name} has no state yet ({path} is missing)")
    store = SqliteStateStore(path, durable=True)
    try:
        yield store
    finally:
        store.close()


def get_store_path(home: Home, name: str) -> Path:
    """Where a node keeps its state."""
    return home.node_path(name) / "chain.sqlite"


def _require_idle(home: Home, name: str) -> None:
    names = home.node_names()
    if name not in names:
        raise ConfigError(f"no node {name!r} in {home.path}; it holds {', '.join(names) or 'none'}")
    running = home.load_running()
    if running is not None:
        raise ConfigError(
            f"the network in {home.path} runs (process {running.pid}): stop it first; `paceline status` tells where it stands"
        )


def _require_origin(home: Home, name: str, head: ExportHead) -> None:
    """Refuse a state that this node could not go on from, or that is provably not this network's."""
    settings = load_settings(home.node_path(name) / "node.toml")
    if settings.engine == COMETBFT:
        _require_engine_blocks(home, name)
        return
    if head.block is None:
        raise InvalidSnapshot("no-block", "the state came without its last block, to which the next one links")
    genesis = home.load_genesis()
    block = decode_block(head.block)
    verify_block(block, compute_chain_id(genesis), genesis.sequencer)
    if (block.height, block.app_hash) != (head.info.height, head.info.app_hash):
        raise InvalidSnapshot("app-hash", "the state is not the one whose app hash the sequencer signed in its block")


def _require_engine_blocks(home: Home, name: str) -> None:
    # The engine compares heights at its start: it replays blocks that it holds, and refuses an Application that is ahead.
    if not (home.node_path(name) / "engine" / "data" / "blockstore.db").exists():
        raise ConfigError(
            f"the engine of {name} holds no blocks, so it cannot go on from an imported state: start {name} without one; "
            "it takes a snapshot over from the network when node.toml names sync_rpc, sync_trust_height and sync_trust_hash, "
            "and replays all blocks otherwise"
        )


def _measure(home: Home, name: str, store: SqliteStateStore) -> StateFigures:
    return StateFigures(
        name=name,
        height=store.height,
        app_hash=store.app_hash.hex(),
        keys=sum(1 for _ in store.iterate(b"")),
        first_block=store.first_block_height,
        file_bytes=get_store_path(home, name).stat().st_size,
    )
