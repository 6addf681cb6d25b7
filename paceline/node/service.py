"""One node, put together: opens its folder, connects its roles, serves its peers, runs until told to stop.

This is the only place that knows every part. Each role looks at each new height; a bug in a duty stops the node, so
that it is restarted from its stores instead of living on half broken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import uvicorn

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.inference.plan import encode_prompt
from paceline.ledger.application import Application
from paceline.ledger.state import State
from paceline.network.client import PeerClient
from paceline.network.public import PublicPath
from paceline.network.server import Handler, PeerIdentity, create_peer_app
from paceline.network.wire import PeerRequest
from paceline.node import metrics
from paceline.node.answers import payloads
from paceline.node.answers.receipts import ReceiptMaker
from paceline.node.answers.serving import Serving
from paceline.node.api.desk import ApiDesk
from paceline.node.api.keys import KeyRing
from paceline.node.backends.vllm_backend import VllmBackend
from paceline.node.backends.vllm_server import VllmServer, build_server_settings
from paceline.node.bridge import signatures
from paceline.node.bridge.desk import BridgeDesk
from paceline.node.bridge.rpc import EvmRpc
from paceline.node.bridge.signatures import Attester, load_attester
from paceline.node.bridge.watcher import Watcher
from paceline.node.chains.beacon_answers import answer_beacon
from paceline.node.chains.chain import Standing, is_alive
from paceline.node.chains.engine_door import EngineDoor
from paceline.node.chains.engines import build_chain
from paceline.node.context import Context
from paceline.node.control import Control
from paceline.node.dummies.injector import Injector
from paceline.node.duties import Duties, Threads
from paceline.node.gateway import DoorKeys, NodeGateway
from paceline.node.home import Home
from paceline.node.membership.directory import Directory
from paceline.node.membership.probe import answer_probe
from paceline.node.membership.registration import NodeKeys
from paceline.node.models import ModelHost
from paceline.node.patience import PatientProtocol
from paceline.node.peers import Peers, encode_many
from paceline.node.roles import channels
from paceline.node.roles.beacon import BeaconRole
from paceline.node.roles.bridge import BridgeRole
from paceline.node.roles.channels import ChannelHost
from paceline.node.roles.checker import CheckerRole
from paceline.node.roles.executor import ExecutorRole
from paceline.node.roles.member import MemberRole
from paceline.node.roles.publications import PublicationRole
from paceline.node.roles.racer import RaceRole
from paceline.node.roles.relay import RelayRole
from paceline.node.roles.trainer import TrainerRole
from paceline.node.settings import COMETBFT, VLLM, load_settings
from paceline.node.tracing import open_tracing
from paceline.protocol.answers import Prompt
from paceline.protocol.codec import decode
from paceline.race.cards import require_admission
from paceline.race.speed import examine_device
from paceline.store.blobs import BlobStore
from paceline.store.state import SqliteStateStore

LOG = logging.getLogger(__name__)
GRACE_SECONDS = 1.5
MAX_STANDING_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class WebDoor:
    """Where a gateway node serves people, and how the web app is made (the web room stands above this one)."""

    host: str
    port: int
    api_keys: tuple[str, ...]
    build: Callable[[NodeGateway, Control, ApiDesk, bool], object]


class Role(Protocol):
    """What every role is to the service."""

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


class NodeService:
    """Everything of one node."""

    def __init__(self, home: Home, name: str, cache: Path, door: WebDoor | None) -> None:
        folder = home.node_path(name)
        self._home = home
        self._door = door
        self._desk: ApiDesk | None = None
        self._settings = load_settings(folder / "node.toml")
        self._key = home.load_key(name)
        self._store = SqliteStateStore(folder / "chain.sqlite", durable=self._settings.sequencer == name)
        genesis = home.load_genesis()
        require_admission(genesis.params.race.preset, examine_device(self._settings.race_device))
        application = Application(genesis, self._store)
        blobs = BlobStore(folder / "blobs")
        self._client = PeerClient(self._key, application.chain_id)
        self._peers = peers = Peers(self._settings, self._client, blobs)
        threads = Threads(self._settings.parallel_answers)
        work_path = folder / "work"
        work_path.mkdir(parents=True, exist_ok=True)
        self._context = Context(
            settings=self._settings,
            key=self._key,
            chain=build_chain(home, self._settings, application, self._store, self._key, peers),
            peers=peers,
            blobs=blobs,
            duties=Duties(),
            threads=threads,
            serving=Serving(),
            work_path=work_path,
            tracing=open_tracing(self._settings.trace_endpoint, name),
        )
        chain = self._context.chain
        self._context.metrics.gauge("height", lambda: chain.height)
        self._context.metrics.gauge("peers_alive", lambda: sum(map(is_alive, chain.sightings.values())))
        self._host = ModelHost(
            Path(self._settings.cache) if self._settings.cache else cache, threads, self._settings.models
        )
        ceremony_key = home.load_ceremony_key(name)
        self._executor = ExecutorRole(self._context, self._host, ceremony_key)
        self._channels = ChannelHost(self._context, self._executor)
        self._trainer = TrainerRole(self._context)
        keys = NodeKeys(self._key, home.load_consensus_key(name), ceremony_key)
        served = self._host.model_ids if self._settings.serves else ()
        self._directory = Directory(self._context, genesis, keys, served)
        self._engine_door = EngineDoor(self._settings.engine_rpc) if self._settings.engine == COMETBFT else None
        self._roles: list[Role] = [
            MemberRole(self._context, self._directory),
            BeaconRole(self._context, ceremony_key),
            RaceRole(self._context),
            self._trainer,
            PublicationRole(self._context),
        ]
        self._attester = Attester(self._context, load_attester(folder))
        self._bridge = self._make_bridge()
        if self._bridge is not None:
            self._roles.append(self._bridge)
        if self._settings.serves:
            self._context.chain.measure_load = self._executor.measure_load
            self._roles += [self._executor, self._channels, CheckerRole(self._context, self._host)]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or something breaks."""
        servers = [self._make_peer_server()]
        relays: dict[str, RelayRole] = {}
        if self._door is not None:
            user = self._home.load_key("user")
            relays = {model: self._make_relay(model, user) for model in self._host.model_ids}
            servers.append(self._make_web_server(self._door, relays, user))
        if self._settings.serves:
            # Load before the first poll: the sequencer waits for everybody, and the Race should not share a core with it.
            await self._host.load_served()
        backend = await self._open_backend()
        runners: list[asyncio.Future[Any]] = [asyncio.create_task(server.serve()) for server in servers]
        runners += [asyncio.create_task(self._context.chain.run()), asyncio.create_task(self._watch(relays))]
        runners += [asyncio.create_task(stop.wait()), self._context.duties.failure]
        if backend is not None:
            runners.append(asyncio.create_task(backend.run()))
        done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
        await self._shut_down(servers, runners, relays)
        for finished in done:
            if not finished.cancelled() and (problem := finished.exception()) is not None:
                raise problem

    def _make_relay(self, model_id: str, user: AccountKey) -> RelayRole:
        def measure(prompt: Prompt) -> tuple[int, int] | None:
            model = self._host.get_loaded(model_id)
            return None if model is None else (len(encode_prompt(model, prompt)), model.context_tokens)

        ceremony_key = self._home.load_ceremony_key(self._settings.name)
        injector = Injector(self._context, model_id, user, ceremony_key, measure)
        return RelayRole(self._context, model_id, user, channels=self._settings.channels, injector=injector)

    def _make_bridge(self) -> BridgeRole | None:
        """The role that reads the other chain, where there is a bridge and a server to ask."""
        settings, bridge = self._settings.bridge, self._context.params.bridge
        if not settings.rpc:
            return None
        if not bridge.contract:
            raise ConfigError("bridge.rpc: this network has no bridge; take the setting out of node.toml")
        servers = [EvmRpc(url) for url in settings.rpc]
        watcher = Watcher(bridge, servers, self._context.work_path / "bridge.json", settings.start_block)
        return BridgeRole(self._context, watcher, settings.poll_seconds)

    async def _open_backend(self) -> VllmBackend | None:
        """VLLM's server for the first of the served models; this process answers for the others."""
        if not (self._settings.serves and self._settings.backend == VLLM):
            return None
        model_id = self._host.model_ids[0]
        model, path = await self._host.get(model_id), self._host.get_path(model_id)
        assert path is not None
        server = VllmServer(build_server_settings(self._settings, model, path, self._context.work_path / "vllm"))
        backend = VllmBackend(server)
        self._executor.use_backend(model_id, backend)
        return backend

    async def _watch(self, relays: Mapping[str, RelayRole]) -> None:
        async with aclosing(self._context.chain.watch()) as heights:
            async for height in heights:
                if height == 0:
                    continue
                state = self._context.chain.read()
                self._peers.learn(state)
                for role in self._roles:
                    role.on_block(state)
                for relay in relays.values():
                    relay.prepare()

    async def _shut_down(
        self, servers: list[uvicorn.Server], runners: list[asyncio.Future[Any]], relays: Mapping[str, RelayRole]
    ) -> None:
        self._trainer.stop()
        await self._context.chain.stop()
        for server in servers:
            server.should_exit = True
        # Servers come first in the list; open replies get a moment to end in order.
        await asyncio.wait(runners[: len(servers)], timeout=GRACE_SECONDS)
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        for relay in relays.values():
            await relay.stop()
        await self._context.duties.stop()
        await self._client.close()
        if self._bridge is not None:
            await self._bridge.close()
        if self._engine_door is not None:
            await self._engine_door.close()
        self._context.threads.stop()
        if self._desk is not None:
            self._desk.close()
        self._context.tracing.stop()
        self._executor.book.close()
        self._store.close()

    def _make_peer_server(self) -> uvicorn.Server:
        handlers: dict[str, Handler] = {
            "transaction": self._on_transaction,
            "blocks": self._on_blocks,
            "standing": self._on_standing,
            "beacon": self._on_beacon,
            signatures.PATH: self._on_withdrawal,
        }
        if self._settings.serves:
            handlers["task"] = self._executor.serve
            handlers[channels.PATH] = self._channels.serve
            handlers[channels.SIGN_PATH] = self._channels.sign
            handlers["opening"] = self._executor.open_trace
            handlers[payloads.PATH] = self._executor.hand_out
        identity = PeerIdentity(address=self._key.address, chain_id=self._context.chain.chain_id)
        app = create_peer_app(handlers, blobs=self._context.blobs, identity=identity, public=self._list_public())
        own = next(peer for peer in self._settings.peers if peer.name == self._settings.name)
        listen = self._settings.listen or own.url.removeprefix("http://")
        host, _, port = listen.rpartition(":")
        return _make_server(app, host, int(port))

    def _list_public(self) -> dict[str, PublicPath]:
        page = metrics.MetricsPage(self._context.metrics, self._settings.metrics_hosts)
        paths = {
            "/public/network": PublicPath(self._directory.describe_network),
            "/public/registration": PublicPath(self._directory.give_registration),
            "/public/probe": PublicPath(answer_probe),
            metrics.PATH: PublicPath(page.answer, metrics.CONTENT_TYPE),
        }
        return {**paths, **self._engine_door.paths} if self._engine_door is not None else paths

    def _make_web_server(self, door: WebDoor, relays: Mapping[str, RelayRole], user: AccountKey) -> uvicorn.Server:
        keys = DoorKeys(door.api_keys, KeyRing(self._home.path))
        gateway = NodeGateway(self._context, self._host, relays, user.address, keys)
        receipts = ReceiptMaker(self._context, self._host, self._store)
        desk = BridgeDesk(self._context, self._bridge, self._attester)
        control = Control(self._context, gateway, user, self._home.load_token(), receipts, desk)
        self._desk = ApiDesk(self._home.node_path(self._settings.name) / "api.sqlite")
        app = door.build(gateway, control, self._desk, bool(door.api_keys or keys.ring.list_keys()))
        # Batches run from the application's startup to its shutdown.
        return _make_server(app, door.host, door.port, lifespan="on")

    async def _on_transaction(self, request: PeerRequest) -> bytes:
        return await self._context.chain.accept_transaction(request.body)

    async def _on_blocks(self, request: PeerRequest) -> bytes:
        return encode_many(await self._context.chain.serve_blocks(request.sender_address, request.body))

    async def _on_standing(self, request: PeerRequest) -> bytes:
        standing = decode(Standing, request.body, limit_bytes=MAX_STANDING_BYTES)
        self._context.chain.note_standing(request.sender_address, standing)
        return b""

    async def _on_beacon(self, request: PeerRequest) -> bytes:
        return answer_beacon(self._context.chain.read(), self._context.params, request.body)

    async def _on_withdrawal(self, request: PeerRequest) -> bytes:
        return self._attester.answer(request.body)


def _make_server(app: object, host: str, port: int, lifespan: Literal["on", "off"] = "off") -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan=lifespan,
        http=PatientProtocol,
        timeout_graceful_shutdown=1,
    )
    return QuietServer(config)
