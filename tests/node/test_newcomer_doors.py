"""Doors for newcomers: the probe that calls back, the engine's read-only questions, homes that join, learned addresses."""

from __future__ import annotations

import asyncio
import json
import socket
import stat

import httpx
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette

from paceline.base.errors import ConfigError, Invalid, InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.ledger.nodes import DESCRIBED, NODES, Node
from paceline.ledger.state import State
from paceline.network.client import PeerClient
from paceline.network.public import PublicPath, PublicRequest, create_public_routes
from paceline.node.chains.engine_door import EngineDoor
from paceline.node.home import Home, NewHome, create_home
from paceline.node.membership import joining
from paceline.node.membership.directory import ListedPeer, NetworkDescription
from paceline.node.membership.joining import Doors, Joining, TrustedHeader, create_joined_home, open_doors, require_host
from paceline.node.membership.probe import ProbeAnswer, ProbeQuestion, answer_probe, ask_probe
from paceline.node.peers import Peers
from paceline.node.service import QuietServer
from paceline.node.settings import COMETBFT, SOLO, load_settings
from paceline.protocol.codec import decode, encode
from paceline.store.blobs import BlobStore
from paceline.store.state import MemoryStateStore

LOOPBACK = "127.0.0.1"
KEY = AccountKey.from_secret(b"k" * 32)


def take_port():
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


async def serve(paths, work):
    """Run `work(url)` beside a server with these public paths."""
    port = take_port()
    app = Starlette(routes=create_public_routes(paths))
    server = QuietServer(uvicorn.Config(app, host=LOOPBACK, port=port, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    try:
        return await work(f"http://{LOOPBACK}:{port}")
    finally:
        server.should_exit = True
        await running


def test_a_probe_reaches_open_ports_and_closes_them_again():
    ports = (take_port(), take_port())
    answer = asyncio.run(
        serve({"/public/probe": PublicPath(answer_probe)}, lambda url: ask_probe(url, LOOPBACK, ports))
    )
    assert answer == ProbeAnswer(LOOPBACK, ports)
    with socket.socket() as free:
        # As every server does; connections that just ended hold their port a little longer.
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((LOOPBACK, ports[0]))


def test_a_probe_tells_which_port_is_closed_or_answers_with_something_else():
    async def work():
        async def lie(_reader, writer):
            writer.write(bytes(16))
            writer.close()

        other = await asyncio.start_server(lie, LOOPBACK, 0)
        liar = other.sockets[0].getsockname()[1]
        asked = PublicRequest(
            host=LOOPBACK, name="", query="", body=encode(ProbeQuestion((take_port(), liar), b"s" * 16))
        )
        found = await answer_probe(asked)
        other.close()
        return found

    assert decode(ProbeAnswer, asyncio.run(work()), limit_bytes=256).reached == ()


def test_invalid_probe_question_cannot_name_a_third_party():
    # There is no field for a host: whatever else is sent is refused.
    for body in (b"", b"x" * 300, encode(("10.0.0.1", (80,), b"s" * 16)), encode(((0,), b"s" * 16))):
        with pytest.raises(Invalid):
            asyncio.run(answer_probe(PublicRequest(host=LOOPBACK, name="", query="", body=body)))


def test_invalid_port_in_use_and_node_that_is_gone():
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*--peer-port"):
            asyncio.run(ask_probe("http://127.0.0.1:1", LOOPBACK, (port,)))
    with pytest.raises(TransportError, match="does not answer"):
        asyncio.run(ask_probe("http://127.0.0.1:1", LOOPBACK, (take_port(),)))


@pytest.fixture
def asked_engine(monkeypatch):
    """An engine that notes what reaches it."""
    seen = []

    def answer(request):
        seen.append((request.method, str(request.url.path), request.url.query.decode(), request.content))
        return httpx.Response(200, json={"result": {}})

    real = httpx.AsyncClient
    monkeypatch.setattr(
        "paceline.node.chains.engine_door.httpx.AsyncClient",
        lambda **options: real(transport=httpx.MockTransport(answer), base_url=options["base_url"]),
    )
    return seen


def ask_door(path, body=b"", query=""):
    async def work():
        door = EngineDoor("127.0.0.1:26657")
        try:
            return await door.paths[path].handler(PublicRequest(host=LOOPBACK, name="", query=query, body=body))
        finally:
            await door.close()

    return asyncio.run(work())


def test_reading_questions_pass_in_both_forms(asked_engine):
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "commit", "params": {"height": "5"}}).encode()
    ask_door("/", call)
    ask_door("/validators", query="height=5&page=1")
    assert asked_engine == [("POST", "/", "", call), ("GET", "/validators", "height=5&page=1", b"")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'[{"method":"commit"},{"method":"broadcast_tx_sync"}]',
        b'{"method":"broadcast_tx_sync"}',
        b'{"method":"unsafe_flush_mempool"}',
        b'{"method":["commit"]}',
        b'{"method":null}',
        b"\xff",
    ],
)
def test_invalid_orders_to_the_engine_never_reach_it(asked_engine, body):
    with pytest.raises(InvalidTransaction):
        ask_door("/", body)
    assert asked_engine == []


def test_no_path_of_the_door_takes_orders():
    door = EngineDoor("127.0.0.1:26657")
    assert not [path for path in door.paths if "broadcast" in path or "unsafe" in path or "dial" in path]
    asyncio.run(door.close())


@pytest.fixture
def network(tmp_path):
    founder = create_home(tmp_path / "founder", NewHome(nodes=2, seed=5, engine=COMETBFT))
    peers = tuple(
        ListedPeer(name, founder.load_key(name).public_key, f"http://10.0.0.{i}:8100", f"{'ab' * 20}@10.0.0.{i}:8101")
        for i, name in enumerate(founder.node_names())
    )
    return NetworkDescription(
        genesis=(founder.path / "genesis.bin").read_bytes(),
        engine=COMETBFT,
        sequencer="node-1",
        peers=peers,
        advertised=True,
        height=9,
        app_hash=b"",
        snapshot_height=0,
        unix_milliseconds=0,
        caller="10.0.0.9",
    )


DOORS = Doors(host="203.0.113.7", port=8100)


def test_a_joined_home_has_keys_of_its_own_and_everybody_as_peer(network, tmp_path):
    trusted = TrustedHeader(height=8, header_hash="AB" * 32, servers=("10.0.0.0:8100",))
    home = create_joined_home(
        tmp_path / "new", network, Joining(name="late", doors=DOORS, trusted=trusted, serves=False)
    )
    assert home.node_names() == ["late"]
    settings = load_settings(home.node_path("late") / "node.toml")
    assert [peer.name for peer in settings.peers] == ["node-1", "node-2", "late"]
    assert (settings.listen, settings.engine_p2p) == ("0.0.0.0:8100", "0.0.0.0:8101")
    assert (settings.public_url, settings.engine_external) == ("http://203.0.113.7:8100", "203.0.113.7:8101")
    assert (settings.sync_trust_height, settings.sync_rpc, settings.serves) == (8, ("10.0.0.0:8100",), False)
    keys = {home.load_key("late").secret, home.load_consensus_key("late").secret, home.load_key("user").secret}
    assert len(keys) == 3
    for path in ("nodes/late/key", "nodes/late/consensus-key", "nodes/late/group-key", "keys/user", "operator-token"):
        assert stat.S_IMODE((home.path / path).stat().st_mode) == 0o600


def test_a_join_cut_short_leaves_no_network_and_the_next_one_keeps_the_keys(network, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joining, "write_whole", die)
        with pytest.raises(KeyboardInterrupt):
            create_joined_home(tmp_path / "new", network, Joining(name="late", doors=DOORS))
    assert not Home(tmp_path / "new").exists
    secret = (tmp_path / "new/nodes/late/consensus-key").read_text()
    home = create_joined_home(tmp_path / "new", network, Joining(name="late", doors=DOORS))
    assert (home.node_path("late") / "consensus-key").read_text() == secret
    with pytest.raises(ConfigError, match="holds a network already"):
        create_joined_home(tmp_path / "new", network, Joining(name="late", doors=DOORS))


def test_invalid_damaged_key_of_an_earlier_attempt(network, tmp_path):
    path = tmp_path / "new/nodes/late/key"
    path.parent.mkdir(parents=True)
    path.write_text("abc")
    with pytest.raises(ConfigError, match="damaged"):
        create_joined_home(tmp_path / "new", network, Joining(name="late", doors=DOORS))
    assert not Home(tmp_path / "new").exists


def test_opened_doors_give_each_node_two_ports(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=2, seed=5))
    assert open_doors(home, "node.example", 9000) == "http://node.example:9000"
    second = load_settings(home.node_path("node-2") / "node.toml")
    assert (second.listen, second.engine_p2p, second.public_url) == (
        "0.0.0.0:9002",
        "0.0.0.0:9003",
        "http://node.example:9002",
    )
    assert Doors(host=LOOPBACK, port=1).bind == LOOPBACK


@pytest.mark.parametrize("host", ["", "http://x", "a b", "x:80", "-x", "[::1", "a/b", "x" * 130])
def test_invalid_host(host):
    with pytest.raises(ConfigError, match="--advertise"):
        require_host(host)


@pytest.mark.parametrize("host", ["node.example", "203.0.113.7", "[2001:db8::1]", "n"])
def test_valid_host(host):
    assert require_host(host) == host


def test_addresses_come_from_the_ledger_but_those_on_loopback_stay(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=3, seed=5, engine=SOLO))
    settings = load_settings(home.node_path("node-1") / "node.toml")
    entries = [
        msgspec.structs.replace(peer, url=f"http://{host}:1")
        for peer, host in zip(settings.peers, (LOOPBACK, LOOPBACK, "10.0.0.2"), strict=True)
    ]
    settings = msgspec.structs.replace(settings, peers=tuple(entries))

    async def build():
        client = PeerClient(home.load_key("node-1"), "chain")
        peers = Peers(settings, client, BlobStore(tmp_path / "blobs"))
        await client.close()
        return peers

    peers = asyncio.run(build())
    state = State(MemoryStateStore(), height=1)

    def put(name, key, url):
        node = Node(name, key.public_key, key.public_key, b"g" * 48, 0, 0, (), url=url)
        NODES.put(state, key.address, node)

    for name in home.node_names():
        put(name, home.load_key(name), f"http://{name}.example:8100")
    peers.learn(state)
    put("new", KEY, "http://new.example:8100")
    peers.learn(state)
    # Nobody said anything new as far as the mark tells.
    assert not peers.knows(KEY.address)
    DESCRIBED.put(state, b"", 7)
    peers.learn(state)
    urls = {peer.name: peer.peer.url for peer in peers.all()}
    assert urls == {
        "node-1": f"http://{LOOPBACK}:1",
        "node-2": f"http://{LOOPBACK}:1",
        "node-3": "http://node-3.example:8100",
        "new": "http://new.example:8100",
    }
    assert peers.knows(KEY.address)
