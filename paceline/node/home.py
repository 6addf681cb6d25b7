"""A network's folder: genesis, keys, one folder per node, and how to reach what runs.

Layout: `genesis.bin`, `keys/user` and other keys of accounts beside it, `operator-token`, `running.json` while it runs, `nodes/<name>/` with `node.toml`,
`key` (account), `consensus-key`, `group-key`, perhaps `bridge-key`, `chain.sqlite`, `blobs/`, `work/` and `node.log`. Files appear whole (written aside, then renamed).
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError, Invalid
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.node.settings import ENGINES, SOLO, NodeSettings, PeerEntry, encode_settings
from paceline.protocol.assets import TBTC, TETH
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import Genesis, GenesisAccount, GenesisAsset, GenesisDollars, GenesisQuote
from paceline.protocol.params import NICOIN_PER_COIN, PRESETS, BridgeParams

USER = "user"
"""The account of a home that pays for requests, and what its key is called."""
MAX_GENESIS_BYTES = 16 * 1024 * 1024
USER_FUNDS = 100_000 * NICOIN_PER_COIN
USER_TEST_DOLLARS = 1_000 * 1_000_000
"""Micro-dollars of the stable test asset, to try the liquidity pool with."""
USER_TEST_ASSETS = ((10 * 10**9, TETH), (10**8, TBTC))
"""Gwei and satoshi of the quoted ones: ten and one."""
TEST_QUOTES = (GenesisQuote(TETH, 2_500 * 10**6), GenesisQuote(TBTC, 100_000 * 10**6))
"""Micro-dollars: round numbers of no market, until the hosts vote."""
GENESIS_WEIGHT = 1_000


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What `paceline up` leaves for other commands while it runs."""

    pid: int
    web_url: str
    ports: dict[str, int]
    """Peer port by node name."""


@dataclass(frozen=True, kw_only=True)
class NewHome:
    """What to make a home from. `seed` None draws keys from the system; a number fixes them."""

    network: str = "paceline"
    preset: str = "tiny"
    nodes: int = 5
    engine: str = SOLO
    block_seconds: float = 0.25
    seed: int | None = None
    cheats: tuple[tuple[str, str], ...] = ()
    """(node name, cheat) pairs."""
    trainers: tuple[str, ...] = ()
    """Nodes that train; empty for all."""
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    """Served by every node."""
    cache: str = ""
    bridge: BridgeParams | None = None
    """Behind a bridge no test assets are given: each dollar is deposited there, and nothing else buys any."""


@dataclass(frozen=True)
class Home:
    """Paths of one network's folder."""

    path: Path

    @property
    def exists(self) -> bool:
        """True when a network lives here."""
        return (self.path / "genesis.bin").is_file()

    def node_path(self, name: str) -> Path:
        """Folder of one node."""
        return self.path / "nodes" / name

    def node_names(self) -> list[str]:
        """Names of the nodes that live here: those of genesis in its order, then those that joined."""
        founders = [node.name for node in self.load_genesis().nodes]
        here = sorted(path.parent.name for path in self.path.glob("nodes/*/node.toml"))
        return [name for name in founders if name in here] + [name for name in here if name not in founders]

    def get_first_name(self) -> str:
        """The node that commands mean when they name none.

        Errors: ConfigError when no node lives here.
        """
        names = self.node_names()
        if not names:
            raise ConfigError(f"no node lives in {self.path}: `paceline keys restore` brings one back")
        return names[0]

    def get_awaits_state_path(self, name: str) -> Path:
        """A file that keeps a node from ordering blocks from genesis on, after its keys alone came back."""
        return self.node_path(name) / "awaits-state"

    def load_genesis(self) -> Genesis:
        """Errors: ConfigError when the file is missing or damaged."""
        path = self.path / "genesis.bin"
        try:
            return decode(Genesis, path.read_bytes(), limit_bytes=MAX_GENESIS_BYTES)
        except FileNotFoundError:
            raise ConfigError(f"{self.path} holds no network; `paceline up --home {self.path}` makes one") from None
        except Invalid as problem:
            raise ConfigError(f"{path} is damaged ({problem}); restore it or start with a new --home") from None

    def key_names(self) -> list[str]:
        """Keys of accounts that lie here besides those of the nodes, the user's first."""
        here = sorted(path.name for path in self.path.glob("keys/*") if not path.name.endswith(".new"))
        return sorted(here, key=lambda name: name != USER)

    def load_key(self, name: str) -> AccountKey:
        """The key of an account: of the user when `name` is "user", of a node, or one that was made or brought here."""
        is_node = name != USER and self.node_path(name).is_dir()
        return _load_key(self.node_path(name) / "key" if is_node else self.key_path(name))

    def key_path(self, name: str) -> Path:
        """Where the key of an account lies that is no node's."""
        return self.path / "keys" / name

    def load_consensus_key(self, name: str) -> AccountKey:
        """The key that signs a node's blocks under CometBFT; it never signs anything else."""
        return _load_key(self.node_path(name) / "consensus-key")

    def load_ceremony_key(self, name: str) -> CeremonyKey:
        """The key that a node's shares of the beacon's key are encrypted to."""
        return CeremonyKey(self.load_key(name).address, self.load_group_secret(name))

    def load_group_secret(self, name: str) -> bytes:
        """The secret that a node's part in every ceremony is computed from."""
        return _load_key(self.node_path(name) / "group-key").secret

    def load_token(self) -> str:
        """The secret that lets commands on this machine control the network.

        Errors: ConfigError when it is missing or no token.
        """
        path = self.path / "operator-token"
        try:
            token = path.read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            token = ""
        if not token:
            raise ConfigError(f"{path} is missing or damaged; restore it, or write a new secret into it")
        return token

    def load_running(self) -> Running | None:
        """What runs now, None when nothing does."""
        try:
            running = msgspec.json.decode((self.path / "running.json").read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return running if _is_process_alive(running.pid) else None

    def save_running(self, running: Running | None) -> None:
        """Leave or remove the note about what runs."""
        path = self.path / "running.json"
        if running is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, msgspec.json.encode(running))

    def save_settings(self, settings: NodeSettings) -> None:
        """Write a node's settings."""
        write_whole(self.node_path(settings.name) / "node.toml", encode_settings(settings).encode("utf-8"))


def create_home(path: Path, new: NewHome) -> Home:
    """Make keys, genesis and a folder per node.

    Errors: ConfigError when the folder holds a network already or the numbers cannot work.
    """
    home = Home(path)
    if home.exists:
        raise ConfigError(f"{path} holds a network already; continue it with `paceline up --home {path}`")
    if new.nodes < 1:
        raise ConfigError("--nodes must be at least 1")
    if new.engine not in ENGINES:
        raise ConfigError(f"--engine {new.engine!r} is none of {', '.join(ENGINES)}")
    if new.preset not in PRESETS:
        raise ConfigError(f"preset {new.preset!r} is none of {', '.join(PRESETS)}")
    names = [f"node-{index + 1}" for index in range(new.nodes)]
    keys = {name: AccountKey.from_secret(_make_secret(new.seed, name)) for name in names}
    consensus_keys = {name: AccountKey.from_secret(_make_secret(new.seed, f"consensus-{name}")) for name in names}
    group_secrets = {name: _make_secret(new.seed, f"group-{name}") for name in names}
    user = AccountKey.from_secret(_make_secret(new.seed, "user"))
    params, bridged = PRESETS[new.preset], new.bridge is not None
    genesis = build_genesis(
        Founding(
            network=new.network,
            params=params if new.bridge is None else msgspec.structs.replace(params, bridge=new.bridge),
            founders=[
                Founder(
                    name=name,
                    key=keys[name],
                    consensus_key=consensus_keys[name].public_key,
                    ceremony_key=CeremonyKey(keys[name].address, group_secrets[name]),
                    weight=GENESIS_WEIGHT,
                    serves=new.models,
                )
                for name in names
            ],
            accounts=(GenesisAccount(user.address, USER_FUNDS),),
            test_dollars=() if bridged else (GenesisDollars(user.address, USER_TEST_DOLLARS),),
            test_assets=() if bridged else tuple(GenesisAsset(user.address, *given) for given in USER_TEST_ASSETS),
            quotes=() if bridged else TEST_QUOTES,
            bootstrap=_make_secret(new.seed, "bootstrap"),
        )
    )
    for name in names:
        _write_node(home, new, name, keys)
        write_secret(home.node_path(name) / "consensus-key", consensus_keys[name].secret.hex())
        write_secret(home.node_path(name) / "group-key", group_secrets[name].hex())
    write_secret(home.key_path(USER), user.secret.hex())
    write_secret(path / "operator-token", secrets.token_hex(32))
    write_whole(path / "genesis.bin", encode(genesis))
    return home


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that it is either the old or the new one, also after a crash. The umask narrows `mode`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    # What a crash left behind may be open to others, and a mode counts only for a file that is made.
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _write_node(home: Home, new: NewHome, name: str, keys: dict[str, AccountKey]) -> None:
    write_secret(home.node_path(name) / "key", keys[name].secret.hex())
    peers = tuple(PeerEntry(name=peer, public_key=key.public_key.hex(), url="") for peer, key in keys.items())
    settings = NodeSettings(
        name=name,
        sequencer=next(iter(keys)),
        peers=peers,
        trains=not new.trainers or name in new.trainers,
        cheat=dict(new.cheats).get(name, ""),
        models=new.models,
        cache=new.cache,
        engine=new.engine,
        block_seconds=new.block_seconds,
    )
    home.save_settings(settings)


def _load_key(path: Path) -> AccountKey:
    try:
        return AccountKey.from_secret(bytes.fromhex(path.read_text("ascii").strip()))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; restore it from a backup") from None
    except (ValueError, AssertionError):
        raise ConfigError(f"{path} is damaged: 64 hex digits are expected") from None


def _make_secret(seed: int | None, purpose: str) -> bytes:
    if seed is None:
        return secrets.token_bytes(32)
    return hash_parts("home-secret", str(seed).encode("ascii"), purpose.encode("ascii"))


def write_secret(path: Path, text: str) -> None:
    """Write a secret that only its owner can read."""
    write_whole(path, f"{text}\n".encode("ascii"), mode=0o600)


def _is_process_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
