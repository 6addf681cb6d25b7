"""Makes the home of a node that joins a network, and opens a home on one machine to nodes elsewhere.

Genesis is written last: a home without it is none, so a crash in between leaves nothing that looks finished.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.keys import SECRET_BYTES, AccountKey
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.node.chains.links import compute_engine_id
from paceline.node.home import Home, write_secret, write_whole
from paceline.node.membership.directory import NetworkDescription
from paceline.node.settings import NodeSettings, PeerEntry, load_settings

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,120}[A-Za-z0-9])?|\[[0-9a-fA-F:]{2,45}\]")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
ANY_HOST = "0.0.0.0"  # noqa: S104 - others are meant to reach it


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Where a node listens and what others call it: the peers' port, and the engine's one above it."""

    host: str
    port: int

    @property
    def bind(self) -> str:
        """Address to listen on."""
        return self.host if self.host in LOOPBACK_HOSTS else ANY_HOST

    def apply(self, settings: NodeSettings) -> NodeSettings:
        """Settings with these doors."""
        return msgspec.structs.replace(
            settings,
            listen=f"{self.bind}:{self.port}",
            public_url=f"http://{self.host}:{self.port}",
            engine_p2p=f"{self.bind}:{self.port + 1}",
            engine_external=f"{self.host}:{self.port + 1}",
        )


@dataclass(frozen=True, kw_only=True)
class TrustedHeader:
    """A header from which a node without state goes on, and RPC servers to ask for what follows."""

    height: int
    header_hash: str
    servers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What a joining node is made from."""

    name: str
    doors: Doors
    serves: bool = True
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    trains: bool = True
    cache: str = ""
    trusted: TrustedHeader | None = None


def create_joined_home(path: Path, network: NetworkDescription, joining: Joining) -> Home:
    """Keys, settings and genesis of one node that joins.

    Errors: ConfigError when the folder holds a network already.
    """
    home = Home(path)
    if home.exists:
        raise ConfigError(f"{path} holds a network already; continue it with `paceline up --home {path}`")
    folder = home.node_path(joining.name)
    key = _keep_secret(folder / "key")
    _keep_secret(folder / "consensus-key")
    _keep_secret(folder / "group-key")
    _keep_secret(path / "keys" / "user")
    _write_token(path / "operator-token")
    home.save_settings(_build_settings(network, joining, key))
    write_whole(path / "genesis.bin", network.genesis)
    return home


def require_host(host: str) -> str:
    """A host as it stands in urls. Errors: ConfigError for anything else."""
    if not HOST.fullmatch(host):
        raise ConfigError(f"--advertise {host!r}: a name or an address without port is expected, such as 203.0.113.7")
    return host


def open_doors(home: Home, host: str, port: int) -> str:
    """Let every node here be reached from elsewhere, on consecutive ports; returns the first one's url."""
    url = ""
    for index, name in enumerate(home.node_names()):
        doors = Doors(host=host, port=port + 2 * index)
        settings = doors.apply(load_settings(home.node_path(name) / "node.toml"))
        home.save_settings(settings)
        url = url or settings.public_url
    return url


def _build_settings(network: NetworkDescription, joining: Joining, key: AccountKey) -> NodeSettings:
    doors, trusted = joining.doors, joining.trusted
    own = PeerEntry(
        name=joining.name,
        public_key=key.public_key.hex(),
        url=f"http://{doors.host}:{doors.port}",
        engine=f"{compute_engine_id(key)}@{doors.host}:{doors.port + 1}",
    )
    others = tuple(
        PeerEntry(name=peer.name, public_key=peer.public_key.hex(), url=peer.url, engine=peer.link)
        for peer in network.peers
        if peer.public_key != key.public_key
    )
    settings = NodeSettings(
        name=joining.name,
        sequencer=network.sequencer,
        peers=(*others, own),
        trains=joining.trains,
        serves=joining.serves,
        models=joining.models,
        engine=network.engine,
        engine_external=f"{doors.host}:{doors.port + 1}",
        engine_exchange_peers=True,
        cache=joining.cache,
        sync_rpc=trusted.servers if trusted else (),
        sync_trust_height=trusted.height if trusted else 0,
        sync_trust_hash=trusted.header_hash if trusted else "",
    )
    return doors.apply(settings)


def _keep_secret(path: Path) -> AccountKey:
    """The secret that is there, from an attempt that was cut short, else a new one."""
    if not path.exists():
        write_secret(path, secrets.token_hex(SECRET_BYTES))
    try:
        return AccountKey.from_secret(bytes.fromhex(path.read_text("ascii").strip()))
    except (ValueError, AssertionError):
        raise ConfigError(f"{path} is damaged: 64 hex digits are expected; remove it or restore it") from None


def _write_token(path: Path) -> None:
    if not path.exists():
        write_secret(path, secrets.token_hex(32))
