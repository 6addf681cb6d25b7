"""Every byte that an executor receives over real sockets, searched for whoever asks.

The asker is a user of the relay: an API key, a name, an address of the network it came from. The account that the ledger
shows behind the session is the relay's own, one for all its users, so it is allowed to be found by the session's id.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import uvicorn
from role_setup import (
    CHAIN_ID,
    MODEL,
    RELAY,
    REQUEST,
    USER,
    find_key,
    get_order,
    make_context,
    make_state,
    open_session,
)

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger.sessions import SESSIONS
from paceline.network.client import Peer, PeerClient
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.node.roles.relay import RelayRole
from paceline.node.roles.relay_sessions import OpenedSession
from paceline.protocol.answers import EndFrame, TextFrame
from paceline.protocol.codec import encode

API_KEY = "sk-alice-4711"
CLIENT_HOST = "203.0.113.77"
REQUESTER = AccountKey.from_secret(b"q" * 32)
"""Whoever stands behind the API key, should it have an account of its own."""


class Recorder:
    """ASGI in front of the executor: keeps request line, headers and body as they came."""

    def __init__(self, app) -> None:
        self._app = app
        self.received: list[bytes] = []

    async def __call__(self, scope, receive, send):
        head = b" ".join([scope["path"].encode(), scope["query_string"]])
        self.received.append(b"\n".join([head, *(name + b":" + value for name, value in scope["headers"])]))

        async def note():
            message = await receive()
            self.received.append(message.get("body", b""))
            return message

        await self._app(scope, note, send)


async def answer(_request):
    yield encode(TextFrame("hi"))
    yield encode(EndFrame("stop", 3, 1, bytes(32)))


async def ask_once(folder) -> bytes:
    state = make_state()
    session_id = open_session(state)
    executor = find_key(get_order(state, session_id)[0])
    identity = PeerIdentity(address=executor.address, chain_id=CHAIN_ID)
    recorder = Recorder(create_peer_app({"task": answer}, blobs=SimpleNamespace(), identity=identity))
    server = uvicorn.Server(uvicorn.Config(recorder, port=0, log_level="critical", lifespan="off"))
    runner = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with PeerClient(RELAY, CHAIN_ID) as client:
        peers = SimpleNamespace(
            name_of=lambda address: address.hex(),
            stream=lambda address, *asked: client.stream(Peer(f"http://127.0.0.1:{port}", address), *asked),
        )
        role = RelayRole(make_context(state, RELAY, folder, peers=peers), SimpleNamespace(model_id=MODEL), USER)
        role.sessions.current = OpenedSession(session_id, SESSIONS.get(state, session_id))
        async with aclosing(role.ask(REQUEST, 3, f"{API_KEY} {CLIENT_HOST} {REQUESTER.address.hex()}")) as events:
            assert [event async for event in events]
        await role.stop()
    server.should_exit = True
    await runner
    return b"\n".join(recorder.received)


def test_no_byte_names_who_asks(tmp_path):
    received = asyncio.run(ask_once(tmp_path))
    traces = [REQUESTER.address, REQUESTER.public_key, USER.address, USER.public_key]
    texts = [API_KEY, CLIENT_HOST, *(trace.hex() for trace in traces)]
    for trace in [*traces, *(text.encode() for text in texts)]:
        assert trace not in received
        assert hash_parts("address", trace)[:20] not in received
    # The test sees what it searches: the prompt and the relay are there.
    assert b"hi" in received
    assert RELAY.public_key in received
