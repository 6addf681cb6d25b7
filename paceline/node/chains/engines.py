"""Puts the engine that a node's settings name under its chain: solo in this process, CometBFT as a child process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.cometbft import (
    EngineGenesis,
    EngineProcess,
    EngineSettings,
    StateSync,
    find_binary,
    write_engine_folder,
)
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger.application import Application
from paceline.node.chains.chain import ChainService
from paceline.node.chains.comet import CometChain, Engine
from paceline.node.chains.links import derive_link_key
from paceline.node.chains.snapshots import NodeSnapshots
from paceline.node.chains.solo import SoloChain
from paceline.node.home import Home
from paceline.node.peers import Peers
from paceline.node.settings import COMETBFT, NodeSettings
from paceline.store.state import SqliteStateStore

HASH_DIGITS = 64
MAX_SOCKET_PATH = 100
"""Unix socket paths end at 108 bytes on Linux, 104 elsewhere."""


def build_chain(
    home: Home, settings: NodeSettings, application: Application, store: SqliteStateStore, key: AccountKey, peers: Peers
) -> ChainService:
    """The chain of one node.

    Errors: ConfigError when the engine cannot be started with these settings.
    """
    if settings.engine == COMETBFT:
        return _build_comet(home, settings, application, store, key, peers)
    orders = settings.sequencer == settings.name
    if orders:
        _require_state(home, settings.name, store)
    replica = Sequencer(application, store, key) if orders else Replica(application, store)
    return SoloChain(settings, replica, key, peers)


def _require_state(home: Home, name: str, store: SqliteStateStore) -> None:
    path = home.get_awaits_state_path(name)
    if store.height == 0 and path.exists():
        raise ConfigError(
            f"{name} orders this network's blocks and has its keys back, but no state: it would begin a second chain. "
            f"`paceline state import` one that another node exported; if no block was ever made, remove {path}"
        )


def _build_comet(
    home: Home, settings: NodeSettings, application: Application, store: SqliteStateStore, key: AccountKey, peers: Peers
) -> CometChain:
    if not settings.engine_rpc or not settings.engine_p2p:
        raise ConfigError("engine_rpc and engine_p2p must name host:port under CometBFT")
    folder = home.node_path(settings.name) / "engine"
    engine = EngineSettings(
        folder=folder,
        moniker=settings.name,
        socket=_choose_socket(folder),
        rpc=settings.engine_rpc,
        p2p=settings.engine_p2p,
        external=settings.engine_external,
        peers=tuple(peer.engine for peer in settings.peers if peer.engine and peer.name != settings.name),
        exchange_peers=settings.engine_exchange_peers,
        block_seconds=settings.block_seconds,
        state_sync=_choose_state_sync(settings, store),
    )
    genesis = EngineGenesis(chain_id=application.chain_id, validators=application.get_validators())
    write_engine_folder(engine, genesis, home.load_consensus_key(settings.name), derive_link_key(key))
    parts = Engine(
        settings=engine,
        process=EngineProcess(find_binary(), engine),
        snapshots=NodeSnapshots(store, folder.parent / "snapshots", settings.snapshot_blocks),
        keep_blocks=settings.keep_blocks,
    )
    return CometChain(settings, application, store, key, peers, parts)


def _choose_state_sync(settings: NodeSettings, store: SqliteStateStore) -> StateSync | None:
    """Only a node without any state takes one over; every other goes on from its own."""
    if store.height > 0 or not settings.sync_rpc:
        return None
    if settings.sync_trust_height < 1 or len(settings.sync_trust_hash) != HASH_DIGITS:
        raise ConfigError("sync_rpc needs sync_trust_height and sync_trust_hash of a header that you trust")
    return StateSync(
        rpc_servers=settings.sync_rpc, trust_height=settings.sync_trust_height, trust_hash=settings.sync_trust_hash
    )


def _choose_socket(folder: Path) -> Path:
    """Beside the engine's folder; in the system's temporary folder when that path is too long for a socket."""
    near = folder.resolve() / "abci.sock"
    if len(str(near)) <= MAX_SOCKET_PATH:
        return near
    name = hash_parts("engine-socket", str(near).encode("utf-8")).hex()[:24]
    return Path(tempfile.gettempdir()) / f"paceline-{name}.sock"
