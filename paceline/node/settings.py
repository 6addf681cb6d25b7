"""A node's own settings: a TOML file beside its key. Local to an operator, never part of what nodes agree on.

Unknown keys fail, missing ones name themselves; nothing is read from the environment here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.tables import convert_table
from paceline.models.catalogue import DEFAULT_MODEL

SOLO, COMETBFT = "solo", "cometbft"
ENGINES = (SOLO, COMETBFT)
MAX_MODELS = 16
MAX_PARALLEL_ANSWERS = 4_096
MAX_CHANNELS = 256
MAX_RPC_SERVERS, MAX_BLOCK, MAX_POLL_SECONDS = 8, 2**48, 3_600
TORCH, VLLM = "torch", "vllm"
DUMMY, READY, RELEASE = "dummy", "ready", "release"
IDLE_WAYS = (DUMMY, READY, RELEASE)
RELEASE_AFTER_SECONDS = 600.0
BACKENDS = (TORCH, VLLM)
CHEATS = ("", "race-padding", "cheap-model", "untrained-update")


class PeerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How another node is reached."""

    name: str
    public_key: str
    url: str
    engine: str = ""
    """CometBFT only: id@host:port of the node's engine."""


class BridgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node reads the bridge's other chain, for networks that have one. Without a server it attests nothing."""

    rpc: tuple[str, ...] = ()
    """Addresses of JSON-RPC servers, http:// or https://. A block is attested when all of them say the same of it."""
    start_block: int = 0
    """The first block that is looked at: that of the contract's making, or later."""
    poll_seconds: float = 12.0
    """Pause between two looks."""

    def __post_init__(self) -> None:
        if len(self.rpc) > MAX_RPC_SERVERS:
            raise ConfigError(f"bridge.rpc: at most {MAX_RPC_SERVERS} servers")
        if not all(url.startswith(("http://", "https://")) for url in self.rpc):
            raise ConfigError("bridge.rpc: an address begins with http:// or https://")
        if not 0 <= self.start_block <= MAX_BLOCK or not 0 < self.poll_seconds <= MAX_POLL_SECONDS:
            raise ConfigError(
                f"bridge: start_block must not be negative, poll_seconds above 0 and at most {MAX_POLL_SECONDS}"
            )


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node. Units in the names."""

    name: str
    sequencer: str
    """Name of the node that orders blocks under the solo engine, and that serves people's requests."""
    peers: tuple[PeerEntry, ...]
    """Every node of the network, this one included."""
    trains: bool = True
    """Takes a seat in training runs when one is free."""
    race_device: str = "cpu"
    """Where it searches in a Race: cpu, cuda, cuda:1 … What it finds is confirmed on the processor."""
    serves: bool = True
    """Loads the language models and answers or checks requests."""
    dummies: bool = True
    """A relay's own: mixes dummy tasks among its users' requests, which tests executors and costs it nothing in the end."""
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    """Models it serves: names of the catalogue, or of folders that were imported into its cache. Each needs its memory."""
    idle: str = DUMMY
    """What becomes of the models while nobody asks: dummy (marked tasks, unpaid, which build reputation and make way for every
    request), ready (they stay loaded) or release (memory and device are free; the next request waits for the loading, whose
    time the node tells its peers)."""
    release_after_seconds: float = RELEASE_AFTER_SECONDS
    """With idle = release: how long nobody has asked by then."""
    parallel_answers: int = 1
    """Answers generated at once; more wait in line. Each takes memory for its context, and a core unless a GPU does the work."""
    channels: int = 0
    """Relay only: channels kept open per model; a request takes a free one, and without any a session on the ledger."""
    listen: str = ""
    """host:port on which it listens to peers; empty for the one of its own url."""
    public_url: str = ""
    """Where peers anywhere reach it; empty keeps it to this machine. The ledger is told of it."""
    engine: str = SOLO
    """Who orders blocks: solo (one of us) or cometbft (all of us, by voting power)."""
    engine_rpc: str = ""
    """CometBFT only: host:port on which its engine answers this node; loopback."""
    engine_p2p: str = ""
    """CometBFT only: host:port on which its engine listens to others."""
    engine_external: str = ""
    """CometBFT only: host:port under which others reach its engine, when that is another one."""
    engine_exchange_peers: bool = False
    """CometBFT only: let its engine learn of further peers from those it knows."""
    snapshot_blocks: int = 1_000
    """CometBFT only: a snapshot is taken at every height that this divides; 0 takes none."""
    keep_blocks: int = 0
    """CometBFT only: how many blocks are kept; 0 keeps all. Evidence may be as old as 100,000 blocks."""
    sync_rpc: tuple[str, ...] = ()
    """CometBFT only: RPC servers (host:port) of which a node without state learns what the validators signed."""
    sync_trust_height: int = 0
    sync_trust_hash: str = ""
    """Header that the operator trusts, as somebody it trusts has told it."""
    cheat: str = ""
    """A fraud to play, for demonstrations: race-padding, cheap-model or untrained-update."""
    block_seconds: float = 0.25
    """Pause between blocks; under the solo engine while something waits for them."""
    idle_seconds: float = 1.0
    """Sequencer only: pause between blocks while nothing does."""
    rendezvous_seconds: float = 60.0
    """Sequencer only: how long the very first block waits for all nodes to show up."""
    metrics_hosts: tuple[str, ...] = ("127.0.0.1", "::1")
    """Hosts that may read /metrics on the port for peers; behind a proxy on this machine everybody looks like 127.0.0.1."""
    trace_endpoint: str = ""
    """OTLP collector (http://host:4318/v1/traces) that spans go to; empty for none."""
    backend: str = TORCH
    """What writes answers: torch (in this process) or vllm (its server, as a process of this node)."""
    vllm_python: str = ""
    """vLLM only: interpreter of the environment that holds it; empty for what `make tools-vllm` built."""
    vllm_threads: int = 1
    """vLLM only: processor threads of the server."""
    vllm_kv_cache_gib: int = 1
    """vLLM only: memory for keys and values of running answers, in GiB; 1 holds 45,000 tokens of SmolLM2."""
    vllm_options: tuple[str, ...] = ()
    """vLLM only: further arguments of the server, as on its command line."""
    bridge: BridgeSettings = BridgeSettings()
    """Where it reads the bridge's other chain."""
    cache: str = ""
    """Folder of converted models; empty for the user's cache."""

    def __post_init__(self) -> None:
        if self.cheat not in CHEATS:
            raise ConfigError(f"cheat: {self.cheat!r} is none of {', '.join(repr(cheat) for cheat in CHEATS)}")
        if self.engine not in ENGINES:
            raise ConfigError(f"engine: {self.engine!r} is none of {', '.join(ENGINES)}")
        if not 1 <= len(self.models) <= MAX_MODELS or len(set(self.models)) != len(self.models):
            raise ConfigError(f"models: between 1 and {MAX_MODELS} different names are wanted")
        self._check_idle()
        self._check_backend()
        if self.block_seconds <= 0 or self.idle_seconds < self.block_seconds:
            raise ConfigError("block_seconds must be above 0 and idle_seconds at least as long")
        self._check_counts()
        if self.public_url and self.engine == COMETBFT and not self.engine_external:
            raise ConfigError("public_url needs engine_external under CometBFT: others reach node and engine")
        names = [peer.name for peer in self.peers]
        for name in (self.name, self.sequencer):
            if name not in names:
                raise ConfigError(f"peers: {name!r} is missing, the list holds {', '.join(names) or 'nothing'}")

    def _check_counts(self) -> None:
        if not 1 <= self.parallel_answers <= MAX_PARALLEL_ANSWERS:
            raise ConfigError(f"parallel_answers must be from 1 to {MAX_PARALLEL_ANSWERS}")
        if not 0 <= self.channels <= MAX_CHANNELS:
            raise ConfigError(f"channels must be from 0 to {MAX_CHANNELS}")
        if self.snapshot_blocks < 0 or self.keep_blocks < 0:
            raise ConfigError("snapshot_blocks and keep_blocks must not be negative")

    def _check_idle(self) -> None:
        if self.idle not in IDLE_WAYS:
            raise ConfigError(f"idle: {self.idle!r} is none of {', '.join(IDLE_WAYS)}")
        if self.release_after_seconds < 1:
            raise ConfigError("release_after_seconds must be at least 1")
        if self.idle != RELEASE and self.release_after_seconds != RELEASE_AFTER_SECONDS:
            raise ConfigError(f"release_after_seconds needs idle = {RELEASE!r}")
        if self.idle == RELEASE and self.backend == VLLM:
            raise ConfigError(f"idle: {RELEASE!r} is for the torch backend; vLLM keeps its own server")

    def _check_backend(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend: {self.backend!r} is none of {', '.join(BACKENDS)}")
        if self.vllm_threads < 1 or self.vllm_kv_cache_gib < 1:
            raise ConfigError("vllm_threads and vllm_kv_cache_gib must be at least 1")
        if self.backend == VLLM and self.cheat == "cheap-model":
            raise ConfigError("cheat: cheap-model is played by the torch backend only")
        chosen = (self.vllm_python, self.vllm_threads, self.vllm_kv_cache_gib, self.vllm_options)
        if self.backend != VLLM and chosen != ("", 1, 1, ()):
            raise ConfigError(f"vllm_…: these settings need backend = {VLLM!r}")


def load_settings(path: Path) -> NodeSettings:
    """Settings of one node.

    Errors: ConfigError naming the file and the key, for the cli.
    """
    try:
        return parse_settings(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; `paceline up` makes it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as problem:
        raise ConfigError(f"{path}: {problem}") from None


def parse_settings(text: str) -> NodeSettings:
    """Settings from their TOML text.

    Errors: TOMLDecodeError, ConfigError, none of which knows of a file.
    """
    return convert_table(tomllib.loads(text), NodeSettings, "")


def encode_settings(settings: NodeSettings) -> str:
    """The TOML text of settings."""
    return msgspec.toml.encode(settings).decode("utf-8")
