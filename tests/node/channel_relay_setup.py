"""A relay and the executor of its channel over real peers and one ledger state, for the tests of either side."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import msgspec
import uvicorn
from role_setup import (
    CHAIN_ID,
    MODEL,
    RELAY,
    REQUEST,
    USER,
    FakeChain,
    find_key,
    make_context,
    make_group_key,
    make_state,
    open_session,
)

from paceline.base.errors import TransportError
from paceline.ledger import channel_closes, channels, nodes
from paceline.ledger.channel_records import CHANNELS, OPEN, compute_channel_id, put_channel
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.network.client import Peer, PeerClient
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.node.answers import answering
from paceline.node.answers.payloads import PATH as PAYLOAD_PATH
from paceline.node.roles import executor
from paceline.node.roles.channel_relay import Lane
from paceline.node.roles.channels import PATH, SIGN_PATH, ChannelHost
from paceline.node.roles.executor import ExecutorRole
from paceline.node.roles.relay import RelayRole
from paceline.node.roles.relay_sessions import OpenedSession
from paceline.protocol.answers import (
    decode_frame,
)
from paceline.protocol.channels import (
    ClaimChannel,
    CloseChannel,
    OpenChannel,
    OpenLeaves,
    PassChannel,
)
from paceline.protocol.params import NICOIN_PER_COIN, TINY

PROMPT_TOKENS = 5
MOST_TOKENS = PROMPT_TOKENS + REQUEST.max_tokens
MAX_COST = MOST_TOKENS * TINY.unit_price
COST = (PROMPT_TOKENS + 3) * TINY.unit_price


class LedgerChain(FakeChain):
    """Applies what is sent to the state that every node of the test reads."""

    def __init__(self, state, sender) -> None:
        super().__init__(state)
        self._sender = sender

    async def send(self, message, *, key=None):
        reply = await super().send(message, key=key)
        sender = (key or self._sender).address
        match message:
            case OpenChannel():
                channels.apply_open(self.state, TINY, sender, key.public_key, reply[0], message)
            case CloseChannel():
                channel_closes.apply_close(self.state, TINY, CHAIN_ID, sender, message)
            case ClaimChannel():
                channel_closes.apply_claim(self.state, TINY, CHAIN_ID, sender, message)
            case OpenLeaves():
                channel_closes.apply_leaves(self.state, sender, message, 0)
            case PassChannel():
                channels.apply_pass(self.state, TINY, CHAIN_ID, sender, message, 0)
        return reply


def open_channel(state, *, mark=b"c", relay=RELAY, deposit=100 * NICOIN_PER_COIN) -> bytes:
    """The user's channel with its executor drawn."""
    transaction = mark * 32
    channels.apply_open(
        state, TINY, USER.address, USER.public_key, transaction, OpenChannel(relay.address, MODEL, deposit, 500)
    )
    channel_id = compute_channel_id(USER.address, transaction)
    draw(state, channel_id)
    return channel_id


def draw(state, channel_id) -> None:
    """What the beacon's value does."""
    channel = CHANNELS.get(state, channel_id)
    drawn = msgspec.structs.replace(
        channel, status=OPEN, seed=b"s" * 32, version=nodes.get_version(state), drawn_at=state.height
    )
    channels._seat(state, TINY, 0, channel_id, drawn)


class Setting:
    """A relay and the executor of its channel, each with a folder of its own, over one state."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.state = make_state()
        self.session_id = open_session(self.state)
        self.channel_id = open_channel(self.state)
        self.relay_context = make_context(self.state, RELAY, folder / "relay", chain=LedgerChain(self.state, RELAY))
        self.cut = None
        """A kind of frame that kills the executor instead of leaving it."""
        self.seat()
        self.relay = RelayRole(self.relay_context, MODEL, USER, channels=1)
        self.relay.sessions.current = OpenedSession(self.session_id, SESSIONS.get(self.state, self.session_id))
        self.lane = Lane(self.channel_id, self.key.address, self.record.deposit, self.record.token_price)
        self.relay.channels._lanes[self.channel_id] = self.lane

    @property
    def record(self):
        return CHANNELS.get(self.state, self.channel_id)

    def seat(self) -> None:
        """A node of its own for the executor that the ledger names now."""
        self.key = find_key(self.record.executor)
        folder = self.folder / f"executor-{self.key.address.hex()[:8]}"
        self.context = make_context(self.state, self.key, folder, chain=LedgerChain(self.state, self.key))
        self.context.threads = SimpleNamespace(run=run_in_thread)
        self.start_executor()

    def start_executor(self) -> None:
        """A new process over the same folder."""
        self.executor = ExecutorRole(self.context, SimpleNamespace(get=get_model), make_group_key(self.key))
        self.host = ChannelHost(self.context, self.executor)

    def change(self, **changes) -> None:
        put_channel(self.state, self.channel_id, msgspec.structs.replace(self.record, **changes))

    async def serve(self, request):
        async with aclosing(self.host.serve(request)) as frames:
            async for frame in frames:
                if self.cut is not None and isinstance(decode_frame(frame), self.cut):
                    return
                yield frame

    async def sign(self, request):
        return await self.host.sign(request)

    async def hand_out(self, request):
        return await self.executor.hand_out(request)

    @asynccontextmanager
    async def peers(self):
        handlers = {
            PATH: self.serve,
            SIGN_PATH: self.sign,
            PAYLOAD_PATH: self.hand_out,
        }
        identity = PeerIdentity(address=self.key.address, chain_id=CHAIN_ID)
        app = create_peer_app(handlers, blobs=SimpleNamespace(), identity=identity)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        runner = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            async with PeerClient(RELAY, CHAIN_ID) as client:
                self.relay_context.peers = FoundPeers(client, self.key.address, url)
                yield
        finally:
            await self.relay.stop()
            server.should_exit = True
            await runner

    async def ask(self, *, stop_after=None):
        events = []
        async with aclosing(self.relay.ask(REQUEST, PROMPT_TOKENS)) as answer:
            async for event in answer:
                events.append(event)
                if len(events) == stop_after:
                    break
        return events

    async def do_duties(self) -> None:
        for context in (self.relay_context, self.context):
            started, context.duties.started = context.duties.started, {}
            for work in started.values():
                await work()

    def run(self, story):
        async def play():
            async with self.peers():
                return await story()

        return asyncio.run(play())


class FoundPeers:
    """The executor over its socket; nobody else is there."""

    def __init__(self, client, address, url) -> None:
        self._client, self._peer = client, Peer(url, address)

    def name_of(self, address) -> str:
        return address.hex()

    def stream(self, address, path, body, traceparent=""):
        return self._client.stream(self._find(address), path, body, traceparent)

    async def request(self, name, path, body):
        return await self._client.request(self._find(bytes.fromhex(name)), path, body)

    def _find(self, address):
        if address != self._peer.address:
            raise TransportError("nobody there")
        return self._peer


async def get_model(model_id, *, cheap=False):
    return SimpleNamespace(model_id=model_id, cheap=cheap, traced_states=0)


async def run_in_thread(_kind, function, *arguments):
    return await asyncio.to_thread(function, *arguments)


def make_setting(tmp_path, monkeypatch):
    """Three steps instead of a model; a prompt of five tokens."""
    steps = [SimpleNamespace(text=text, finish_reason=None) for text in ("a", "", "b")]

    def generate(_model, _generation, *, should_stop, top_logprobs, states):
        for step in steps:
            yield step
            if should_stop():
                return

    monkeypatch.setattr("paceline.inference.backend.generate", generate)
    monkeypatch.setattr(executor, "build_generation", lambda *_: SimpleNamespace(prompt_tokens=(1, 2, 3, 4, 5)))
    monkeypatch.setattr(answering, "build_transcript", lambda *_: SimpleNamespace(finish_reason="stop"))
    monkeypatch.setattr(answering, "encode_transcript", lambda _: b"transcript")
    return Setting(tmp_path)


async def wait_made(setting, count):
    """Until the executor has so many leaves, and nothing in the making."""
    task_id = compute_task_id(setting.channel_id, count - 1)
    while setting.executor.book.get(setting.channel_id).count < count or setting.executor.is_making(task_id):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
