"""`paceline join`: looks whether this machine can be a node of a network, makes its home, and runs it.

Nothing is written before every look was fine.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from paceline.base.errors import ConfigError, Invalid, PacelineError, TransportError
from paceline.cli.doctor import Finding, examine_machine, print_findings
from paceline.cli.environment import get_cache_path
from paceline.cli.models import resolve_models
from paceline.cli.run import RunOptions, run_home
from paceline.engine.cometbft import find_binary
from paceline.engine.light_rpc import HttpLightProvider
from paceline.ledger.groups import form_first_group
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.network.settings import get_unix_milliseconds
from paceline.network.wire import CLOCK_SKEW_MILLISECONDS
from paceline.node.home import MAX_GENESIS_BYTES
from paceline.node.membership.directory import MAX_DESCRIPTION_BYTES, NetworkDescription
from paceline.node.membership.joining import (
    LOOPBACK_HOSTS,
    Doors,
    Joining,
    TrustedHeader,
    create_joined_home,
    require_host,
)
from paceline.node.membership.probe import ask_probe
from paceline.node.settings import COMETBFT
from paceline.node.supervisor import Listen
from paceline.protocol.codec import decode
from paceline.protocol.genesis import Genesis, compute_chain_id
from paceline.protocol.params import NICOIN_PER_COIN
from paceline.race.speed import SpeedOptions, measure_race

ASK_SECONDS = 30.0
RACE_SECONDS = 1.0
MAX_SERVERS = 3
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """What the command line asked for."""

    url: str
    home: Path
    name: str | None
    """None: the name of this machine."""
    peer_port: int
    advertise: str | None
    """None: the address that the network sees this machine under."""
    serves: bool
    models: tuple[str, ...]
    """Names or folders; empty for the default."""
    trains: bool
    chain_id: str | None
    trust_height: int | None
    trust_hash: str | None
    check_only: bool
    listen: Listen


@dataclass(frozen=True)
class Candidate:
    """A network as a newcomer found it, and what it would be called there."""

    network: NetworkDescription
    genesis: Genesis
    chain_id: str
    name: str
    doors: Doors


def run_join(options: JoinOptions, console: Console) -> None:
    """Self-test, home, and the running node until Ctrl-C.

    Errors: ConfigError when the self-test finds something that must be mended first; TransportError when the network
    does not answer.
    """
    candidate = meet_network(options)
    console.print(f"Network {candidate.chain_id}, engine {candidate.network.engine}, height {candidate.network.height}")
    with console.status("Looking at this machine"):
        findings = list(examine_candidate(candidate, options))
    print_findings(findings, console)
    broken = [finding.what for finding in findings if finding.remedy and finding.fatal]
    if broken:
        raise ConfigError(f"not ready to join: {', '.join(broken)}; nothing was written")
    if options.check_only:
        console.print("Ready to join. Nothing was written.")
        return
    models = resolve_models(options.models, get_cache_path(), console.print)
    joining = Joining(
        name=candidate.name,
        doors=candidate.doors,
        serves=options.serves,
        models=models or (DEFAULT_MODEL,),
        trains=options.trains,
        trusted=choose_trusted(candidate, options),
    )
    home = create_joined_home(options.home, candidate.network, joining)
    if joining.trusted is not None:
        console.print(
            f"State sync from the header of height {joining.trusted.height}, {joining.trusted.header_hash}: "
            "compare it with somebody you trust"
        )
    url = f"http://{candidate.doors.host}:{candidate.doors.port}"
    deposit = candidate.genesis.params.node_deposit // NICOIN_PER_COIN
    lines = (
        f"Ask somebody with {deposit} coins to sponsor this node:   paceline sponsor {url}",
        f"(or send the coins to its account, {home.load_key(candidate.name).address.hex()})",
    )
    run_home(home, RunOptions(listen=options.listen, lines=lines), console)


def meet_network(options: JoinOptions) -> Candidate:
    """Ask a node about its network and settle name and address.

    Errors: TransportError when it does not answer; ConfigError when what it says cannot be used.
    """
    url = options.url.rstrip("/")
    network = fetch_description(url)
    try:
        genesis = decode(Genesis, network.genesis, limit_bytes=MAX_GENESIS_BYTES)
    except Invalid as problem:
        raise ConfigError(f"the genesis that {url} gives is damaged: {problem}") from None
    caller = f"[{network.caller}]" if ":" in network.caller else network.caller
    doors = Doors(host=require_host(options.advertise or caller), port=options.peer_port)
    name = options.name or re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).strip("-._")[:64]
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: small letters, digits, '.', '_' and '-' only, at most 64")
    return Candidate(network, genesis, compute_chain_id(genesis), name, doors)


def fetch_description(url: str) -> NetworkDescription:
    """What a node says of its network.

    Errors: ConfigError for an address that is no url; TransportError when nothing useful answers.
    """
    try:
        reply = httpx.get(f"{url}/public/network", timeout=ASK_SECONDS, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise ConfigError(f"{url!r} is no address: http://host:port is expected") from None
    except httpx.TransportError as problem:
        raise TransportError(f"{url} does not answer ({problem}): is it running, and open to this machine?") from None
    if reply.status_code != httpx.codes.OK:
        raise TransportError(
            f"{url} is no node's address (status {reply.status_code}): use the one that "
            "`paceline up --advertise` prints, not the one of the dashboard"
        )
    try:
        return decode(NetworkDescription, reply.content, limit_bytes=MAX_DESCRIPTION_BYTES)
    except Invalid as problem:
        raise TransportError(f"{url} answers something else than a node of this version would: {problem}") from None


def examine_candidate(candidate: Candidate, options: JoinOptions) -> Iterator[Finding]:
    """Everything that would keep this machine from being a node there."""
    yield from examine_machine(options.home)
    yield _examine_chain(candidate, options)
    yield _examine_openness(candidate, options)
    yield _examine_clock(candidate.network)
    yield _examine_name(candidate)
    if candidate.network.engine == COMETBFT:
        yield _examine_engine()
    yield _examine_race(candidate)
    yield _examine_reach(candidate, options)


def choose_trusted(candidate: Candidate, options: JoinOptions) -> TrustedHeader | None:
    """The header to start from: the operator's, else that of the newest snapshot; None to replay every block.

    Errors: ConfigError for half a header; TransportError when the network does not tell one.
    """
    if (options.trust_height is None) != (options.trust_hash is None):
        raise ConfigError("--trust-height and --trust-hash belong together")
    network = candidate.network
    if network.engine != COMETBFT or (network.snapshot_height == 0 and options.trust_height is None):
        return None
    url = options.url.rstrip("/")
    others = [
        peer.url for peer in network.peers if peer.url and peer.url != url and _is_near(peer.url) == _is_near(url)
    ]
    servers = tuple(found.removeprefix("http://") for found in (url, *others)[:MAX_SERVERS])
    if options.trust_height is not None and options.trust_hash is not None:
        return TrustedHeader(height=options.trust_height, header_hash=options.trust_hash.upper(), servers=servers)
    provider = HttpLightProvider(url)
    try:
        header = provider.get_light_block(network.snapshot_height).header
    finally:
        provider.close()
    return TrustedHeader(height=header.height, header_hash=header.compute_hash().hex().upper(), servers=servers)


def _examine_chain(candidate: Candidate, options: JoinOptions) -> Finding:
    if options.chain_id not in {None, candidate.chain_id}:
        return Finding("chain", candidate.chain_id, f"this is not {options.chain_id}: ask another node")
    try:
        form_first_group(candidate.genesis)
    except PacelineError as problem:
        return Finding("chain", candidate.chain_id, f"its genesis does not hold ({problem}): ask another node")
    return Finding("chain", f"{candidate.chain_id}, genesis holds")


def _examine_openness(candidate: Candidate, options: JoinOptions) -> Finding:
    if candidate.network.advertised:
        return Finding("other nodes", f"{len(candidate.network.peers)} listed")
    remedy = "its operator must start it with `paceline up --advertise ADDRESS`: its ports change at every start"
    return Finding("other nodes", f"{options.url} keeps to its own machine", remedy)


def _examine_clock(network: NetworkDescription) -> Finding:
    ahead = get_unix_milliseconds() - network.unix_milliseconds
    wrong = abs(ahead) > CLOCK_SKEW_MILLISECONDS
    remedy = "set this machine's clock (NTP): peers refuse what seems too old or from the future" if wrong else ""
    return Finding("clock", f"{ahead / 1000:+.1f} s against the network", remedy)


def _examine_name(candidate: Candidate) -> Finding:
    taken = any(peer.name == candidate.name for peer in candidate.network.peers)
    return Finding("name", candidate.name, "taken: choose another with --name" if taken else "")


def _examine_engine() -> Finding:
    try:
        return Finding("engine", str(find_binary()))
    except ConfigError as problem:
        return Finding("engine", "CometBFT", str(problem))


def _examine_race(candidate: Candidate) -> Finding:
    preset = candidate.genesis.params.race.preset
    try:
        figures = measure_race(SpeedOptions(preset=preset, device="cpu", seconds=RACE_SECONDS), time.process_time)
    except (PacelineError, MemoryError, RuntimeError) as problem:
        return Finding("race", preset, f"this machine cannot race: {problem}")
    rate = float(figures["nonces_per_second"])
    return Finding("race", f"preset {preset}: {rate:,.0f} tries a second, bits as they must be")


def _examine_reach(candidate: Candidate, options: JoinOptions) -> Finding:
    """Whether others reach what this node will name."""
    doors = candidate.doors
    both = candidate.network.engine == COMETBFT
    ports = (doors.port, doors.port + 1) if both else (doors.port,)
    try:
        answer = asyncio.run(ask_probe(options.url.rstrip("/"), doors.bind, ports))
    except ConfigError as problem:
        return Finding("ports", f"{doors.bind}", str(problem))
    except TransportError as problem:
        return Finding("ports", "not tried", f"{problem}; try again")
    missed = [str(port) for port in ports if port not in answer.reached]
    seen = f"{answer.host}, ports {', '.join(map(str, ports))}"
    if missed:
        remedy = f"others cannot reach port {', '.join(missed)}: open it in firewall and router, or use --peer-port"
        return Finding("ports", seen, remedy)
    return Finding("ports", seen + ", reached from outside")


def _is_near(url: str) -> bool:
    return httpx.URL(url).host in LOOPBACK_HOSTS
