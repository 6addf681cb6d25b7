"""Runs one CometBFT node beside an Application: its folder, its settings, its process.

The engine's keys and its record of what it signed live in its folder and are never overwritten: signing one height twice
is the one mistake that costs voting power. It knows nothing of blocks and transactions.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from paceline.base.errors import ConfigError
from paceline.base.keys import ADDRESS_BYTES, AccountKey
from paceline.engine.abci.adapter import EVIDENCE_BLOCKS, EVIDENCE_SECONDS, MAX_BLOCK_BYTES, MAX_EVIDENCE_BYTES

VERSION = "0.38.25"
LABEL = f"cometbft {VERSION}: Byzantine fault tolerant while less than a third of the power lies"
GENESIS_UNIX_SECONDS = 1_767_225_600
"""2026-01-01T00:00:00Z."""
STOP_SECONDS = 5.0
VERSION_SECONDS = 10.0
TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "cometbft"
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class StateSync:
    """Where a node without state gets one: two or more RPC servers and a header that its operator trusts."""

    rpc_servers: tuple[str, ...]
    trust_height: int
    trust_hash: str


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """One engine. Addresses are `host:port`, peers are `id@host:port`."""

    folder: Path
    moniker: str
    socket: Path
    rpc: str
    p2p: str
    external: str = ""
    """What other nodes dial; empty for the address that it listens on."""
    peers: tuple[str, ...] = ()
    exchange_peers: bool = False
    """Learn of further peers from peers; off where every link is listed."""
    block_seconds: float = 1.0
    state_sync: StateSync | None = None
    prometheus: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineGenesis:
    """What all engines of one network start from."""

    chain_id: str
    validators: Sequence[tuple[bytes, int]] = field(default=())
    """(consensus key, power)."""


def find_binary() -> Path:
    """The engine's program: what `make tools` installed, else the one on PATH.

    Errors: ConfigError when it is missing or of another version.
    """
    found = str(TOOLS) if TOOLS.is_file() else shutil.which("cometbft")
    if found is None:
        raise ConfigError(f"CometBFT {VERSION} is not installed: run `make tools`, or put `cometbft` on PATH")
    try:
        told = subprocess.run([found, "version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ConfigError(f"{found} does not run ({problem}): install it again with `make tools`") from None
    version = told.stdout.strip().partition("+")[0].removeprefix("v")
    if version != VERSION:
        raise ConfigError(
            f"{found} is CometBFT {version or 'of an unknown version'}, {VERSION} is needed: `make tools`"
        )
    return Path(found)


def compute_node_id(key: AccountKey) -> str:
    """How other engines name a node: 20 bytes of SHA-256 of its link key, in hex."""
    return hashlib.sha256(key.public_key).digest()[:ADDRESS_BYTES].hex()


def compute_consensus_address(consensus_key: bytes) -> str:
    """How the engine names a validator: 20 bytes of SHA-256 of its consensus key, in upper-case hex."""
    return hashlib.sha256(consensus_key).digest()[:ADDRESS_BYTES].hex().upper()


def write_engine_folder(
    settings: EngineSettings, genesis: EngineGenesis, consensus_key: AccountKey, link_key: AccountKey
) -> None:
    """Bring the engine's folder up to these settings; what it signed so far is never touched."""
    config, data = settings.folder / "config", settings.folder / "data"
    config.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    _write(config / "config.toml", tomli_w.dumps(build_config(settings)))
    _write(config / "genesis.json", json.dumps(build_genesis(genesis), indent=1))
    _write(config / "node_key.json", json.dumps({"priv_key": _encode_private(link_key)}))
    _write(config / "priv_validator_key.json", json.dumps(_encode_validator(consensus_key)))
    state = data / "priv_validator_state.json"
    if not state.exists():
        _write(state, json.dumps({"height": "0", "round": 0, "step": 0}))


def build_config(settings: EngineSettings) -> dict[str, Any]:
    """The engine's own settings; what is not named keeps its default."""
    commit_seconds = settings.block_seconds
    sync = settings.state_sync
    config: dict[str, Any] = {
        "proxy_app": f"unix://{settings.socket}",
        "moniker": settings.moniker,
        "db_backend": "goleveldb",
        "log_level": "error",
        "rpc": {"laddr": f"tcp://{settings.rpc}"},
        "p2p": {
            "laddr": f"tcp://{settings.p2p}",
            "external_address": settings.external,
            "persistent_peers": ",".join(settings.peers),
            "pex": settings.exchange_peers,
            "addr_book_strict": False,
            "allow_duplicate_ip": True,
            "flush_throttle_timeout": "10ms",
            "persistent_peers_max_dial_period": "3s",
        },
        "mempool": {"size": 20_000, "cache_size": 40_000, "max_tx_bytes": 300_000, "max_txs_bytes": 64 * 1024 * 1024},
        "consensus": {
            "timeout_propose": "3s",
            "timeout_prevote": "1s",
            "timeout_precommit": "1s",
            "timeout_commit": f"{round(commit_seconds * 1000)}ms",
            "skip_timeout_commit": False,
            "create_empty_blocks": True,
            "peer_gossip_sleep_duration": "20ms",
        },
        # Results are indexed by the node itself at commit, so that it reads its own writes.
        "tx_index": {"indexer": "null"},
        "storage": {"discard_abci_responses": False},
    }
    if settings.prometheus:
        config["instrumentation"] = {"prometheus": True, "prometheus_listen_addr": settings.prometheus}
    if sync is not None:
        servers = sync.rpc_servers if len(sync.rpc_servers) > 1 else sync.rpc_servers * 2
        config["statesync"] = {
            "enable": True,
            "rpc_servers": ",".join(servers),
            "trust_height": sync.trust_height,
            "trust_hash": sync.trust_hash,
            "trust_period": f"{EVIDENCE_SECONDS // 3600}h0m0s",
            "discovery_time": "5s",
            "chunk_request_timeout": "10s",
        }
    return config


def build_genesis(genesis: EngineGenesis) -> dict[str, Any]:
    """The engine's genesis. The chain id binds ours, so the time in it is a constant."""
    return {
        "genesis_time": datetime.fromtimestamp(GENESIS_UNIX_SECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "chain_id": genesis.chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(MAX_BLOCK_BYTES), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": str(EVIDENCE_BLOCKS),
                "max_age_duration": str(EVIDENCE_SECONDS * _NANOSECONDS),
                "max_bytes": str(MAX_EVIDENCE_BYTES),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "1"},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "validators": [
            {"address": compute_consensus_address(key), "pub_key": _encode_public(key), "power": str(power), "name": ""}
            for key, power in genesis.validators
        ],
        "app_hash": "",
    }


class EngineProcess:
    """The running engine of one node. It ends by itself when the Application's socket closes."""

    def __init__(self, binary: Path, settings: EngineSettings) -> None:
        self._command = (str(binary), "start", "--home", str(settings.folder))
        self._log_path = settings.folder / "engine.log"
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Run until the process ends, which it never does on its own.

        Errors: ConfigError with the engine's last words.
        """
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        code = await self._process.wait()
        raise ConfigError(f"the engine ended with code {code}: {_last_line(self._log_path)} (log: {self._log_path})")

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def stop(self) -> None:
        """End it: asked first, killed when it does not listen."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _encode_public(key: bytes) -> dict[str, str]:
    return {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(key).decode("ascii")}


def _encode_private(key: AccountKey) -> dict[str, str]:
    data = base64.b64encode(key.secret + key.public_key).decode("ascii")
    return {"type": "tendermint/PrivKeyEd25519", "value": data}


def _encode_validator(key: AccountKey) -> dict[str, Any]:
    return {
        "address": compute_consensus_address(key.public_key),
        "pub_key": _encode_public(key.public_key),
        "priv_key": _encode_private(key),
    }


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][-400:] if lines else "no log"
