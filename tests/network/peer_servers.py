"""Real servers on loopback for the tests of the network room."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from paceline.base.keys import AccountKey
from paceline.network.client import Peer, PeerClient
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.network.settings import NetworkSettings

CHAIN = "test-chain"
SERVER_KEY = AccountKey.from_secret(b"s" * 32)
CLIENT_KEY = AccountKey.from_secret(b"c" * 32)
FAST = NetworkSettings(
    connect_timeout_seconds=2.0,
    reply_timeout_seconds=5.0,
    frame_timeout_seconds=5.0,
    max_body_bytes=200_000,
    max_reply_bytes=100_000,
    max_frame_bytes=1000,
    chunk_bytes=10_000,
)


class ReadyServer(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Run an app on a free port; yields its URL."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = ReadyServer(config)
    runner = asyncio.create_task(server._serve())
    await server.ready.wait()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await runner


@asynccontextmanager
async def serve_peer(handlers, blobs, settings=FAST) -> AsyncIterator[Peer]:
    """Run a peer app as SERVER_KEY's node."""
    identity = PeerIdentity(address=SERVER_KEY.address, chain_id=CHAIN)
    async with serve(create_peer_app(handlers, blobs=blobs, identity=identity, settings=settings)) as url:
        yield Peer(url, SERVER_KEY.address)


def make_client(settings=FAST, **changes) -> PeerClient:
    return PeerClient(CLIENT_KEY, changes.pop("chain_id", CHAIN), settings=settings, **changes)
