"""Peers whose clocks differ understand each other within the bound that the protocol states, and no further."""

from __future__ import annotations

import asyncio

import pytest
from peer_servers import CHAIN, CLIENT_KEY, FAST, serve_peer

from paceline.network.client import PeerClient, PeerRefused
from paceline.network.settings import get_unix_milliseconds
from paceline.network.wire import CLOCK_SKEW_MILLISECONDS, MAX_LIFETIME_MILLISECONDS
from paceline.store.blobs import BlobStore


async def echo(request):
    return request.body


@pytest.mark.parametrize(
    ("ahead_milliseconds", "code"),
    [
        (0, None),
        (CLOCK_SKEW_MILLISECONDS, None),
        (-FAST.request_lifetime_milliseconds + 5_000, None),
        (-FAST.request_lifetime_milliseconds - 1, "envelope-expired"),
        (MAX_LIFETIME_MILLISECONDS, "envelope-lifetime"),
    ],
)
def test_clocks_may_differ_by_what_the_protocol_says(tmp_path, ahead_milliseconds, code):
    def clock() -> int:
        return get_unix_milliseconds() + ahead_milliseconds

    async def ask() -> bytes:
        async with (
            serve_peer({"echo": echo}, BlobStore(tmp_path / "blobs")) as peer,
            PeerClient(CLIENT_KEY, CHAIN, settings=FAST, clock=clock) as client,
        ):
            return await client.request(peer, "echo", b"hello")

    if code is None:
        assert asyncio.run(ask()) == b"hello"
        return
    with pytest.raises(PeerRefused) as caught:
        asyncio.run(ask())
    assert caught.value.code == code
