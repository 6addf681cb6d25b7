from __future__ import annotations

import asyncio
import random

import httpx
import pytest
from peer_servers import SERVER_KEY, make_client, serve, serve_peer
from starlette.responses import Response

from paceline.base.errors import TransportError
from paceline.base.hashing import hash_blob
from paceline.network.client import Peer
from paceline.store.blobs import BlobStore

DATA = random.Random(7).randbytes(95_000)  # nine chunks of the test settings and a half
DIGEST = hash_blob(DATA)
ABSENT = hash_blob(b"absent")


class Liar:
    """A peer that serves `data` under any address and may hang up after some requests."""

    def __init__(self, data, *, breaks_after=10**9, total=None):
        self.data, self.breaks_after, self.total, self.starts = data, breaks_after, total, []

    async def __call__(self, scope, receive, send):
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        first, last = (int(number) for number in headers["range"].removeprefix("bytes=").split("-"))
        self.starts.append(first)
        if len(self.starts) > self.breaks_after:
            await Response(b"", 503)(scope, receive, send)
            return
        piece = self.data[first : last + 1]
        stated = f"bytes {first}-{first + len(piece) - 1}/{self.total or len(self.data)}"
        await Response(piece, 206, {"content-range": stated})(scope, receive, send)


@pytest.fixture
def held(tmp_path):
    blobs = BlobStore(tmp_path / "server")
    blobs.put(DATA)
    return blobs


@pytest.fixture
def own(tmp_path):
    return BlobStore(tmp_path / "own", max_blob_bytes=1_000_000)


def run_with(held, liars, story):
    """Run a story(client, good peer, [liars]) against real servers."""

    async def main():
        async with serve_peer({}, held) as good, make_client() as client:
            await descend(client, good, list(liars), [])

    async def descend(client, good, left, peers):
        if not left:
            await asyncio.wait_for(story(client, good, *peers), 20)
            return
        async with serve(left[0]) as url:
            await descend(client, good, left[1:], [*peers, Peer(url, SERVER_KEY.address)])

    asyncio.run(main())


def test_fetch_brings_the_blob_and_asks_nobody_twice(held, own):
    async def story(client, good):
        await client.fetch_blob([good], DIGEST, into=own)
        await client.fetch_blob([], DIGEST, into=own)

    run_with(held, [], story)
    assert own.get(DIGEST) == DATA


def test_fetches_of_one_blob_at_once_share_one_download(held, own):
    liar = Liar(DATA)

    async def story(client, good, peer):
        await asyncio.gather(*(client.fetch_blob([peer], DIGEST, into=own) for _ in range(4)))

    run_with(held, [liar], story)
    assert own.get(DIGEST) == DATA
    assert len(liar.starts) == 10


@pytest.mark.parametrize("size", [1, 9_999, 10_000, 10_001, 20_000])
def test_boundary_of_the_chunk(held, own, size):
    digest = held.put(DATA[:size])
    run_with(held, [], lambda client, good: client.fetch_blob([good], digest, into=own))
    assert own.get(digest) == DATA[:size]


def test_boundary_empty_blob_needs_no_peer(held, own):
    run_with(held, [], lambda client, good: client.fetch_blob([], hash_blob(b""), into=own))
    assert own.get(hash_blob(b"")) == b""


@pytest.mark.parametrize("lie", [bytes(95_000), DATA[:-1] + b"\x00", DATA[:50_000], DATA + b"more"])
def test_invalid_bytes_are_never_stored_and_the_next_peer_is_asked(held, own, lie):
    async def story(client, good, bad):
        with pytest.raises(TransportError, match="hash to something else") as caught:
            await client.fetch_blob([bad], DIGEST, into=own)
        assert bad.url in str(caught.value)
        assert not own.has(DIGEST)
        await client.fetch_blob([bad, good], DIGEST, into=own)

    run_with(held, [Liar(lie)], story)
    assert own.get(DIGEST) == DATA


def test_a_broken_transfer_goes_on_where_it_broke(held, own):
    first, second = Liar(DATA, breaks_after=3), Liar(DATA)

    async def story(client, good, breaking, whole):
        with pytest.raises(TransportError, match=breaking.url):
            await client.fetch_blob([breaking], DIGEST, into=own)
        await client.fetch_blob([whole], DIGEST, into=own)

    run_with(held, [first, second], story)
    assert own.get(DIGEST) == DATA
    assert second.starts[0] == 30_000


def test_bad_bytes_before_a_break_do_not_blame_the_honest_peer(held, own):
    async def story(client, good, bad):
        await client.fetch_blob([bad, good], DIGEST, into=own)

    run_with(held, [Liar(bytes(95_000), breaks_after=3)], story)
    assert own.get(DIGEST) == DATA


def test_a_partial_that_is_longer_or_already_whole(held, own):
    for kept in (DATA, DATA + b"more"):
        partial = own.open_partial(DIGEST)
        partial.append(kept)
        partial.close()
        run_with(held, [], lambda client, good: client.fetch_blob([good], DIGEST, into=own))
        assert own.get(DIGEST) == DATA
        own.delete(DIGEST)


def test_invalid_statements_of_peers(held, own):
    async def story(client, good, huge, shifting):
        with pytest.raises(TransportError, match="at most 1000000"):
            await client.fetch_blob([huge], DIGEST, into=own)
        with pytest.raises(TransportError, match="at most 94999"):
            await client.fetch_blob([good], DIGEST, into=own, max_bytes=94_999)
        with pytest.raises(TransportError, match="asked for bytes"):
            await client.fetch_blob([shifting], DIGEST, into=own)
        await client.fetch_blob([good], DIGEST, into=own, max_bytes=95_000)

    class Shifting(Liar):
        async def __call__(self, scope, receive, send):
            await Response(DATA[5:10], 206, {"content-range": "bytes 5-9/95000"})(scope, receive, send)

    run_with(held, [Liar(DATA, total=1_000_001), Shifting(DATA)], story)
    assert own.get(DIGEST) == DATA


def test_invalid_address_is_refused_by_name(held, own):
    async def story(client, good):
        with pytest.raises(TransportError, match="unknown-blob") as caught:
            await client.fetch_blob([good, Peer("http://127.0.0.1:9", good.address)], ABSENT, into=own)
        assert good.url in str(caught.value)
        assert "127.0.0.1:9 " in str(caught.value)
        with pytest.raises(TransportError, match="no peer to ask"):
            await client.fetch_blob([], ABSENT, into=own)

    run_with(held, [], story)
    assert list((own._directory / "partial").iterdir()) == []


def test_blobs_over_plain_http(held, own):
    async def story(client, good):
        url = f"{good.url}/blob/{DIGEST.hex()}"
        async with httpx.AsyncClient(trust_env=False) as http:
            whole, head = await http.get(url), await http.head(url)
            part = await http.get(url, headers={"range": "bytes=90000-"})
            beyond = await http.get(url, headers={"range": "bytes=95000-95001"})
            missing = [f"{good.url}/blob/{name}" for name in ("x", "..%2f..", DIGEST.hex().upper(), "g" * 64)]
            assert [(await http.get(each)).status_code for each in missing] == [404] * 4
        assert (whole.status_code, whole.content) == (200, DATA)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "95000", b"")
        assert (part.status_code, part.content) == (206, DATA[90_000:])
        assert part.headers["content-range"] == "bytes 90000-94999/95000"
        assert beyond.status_code == 416

    run_with(held, [], story)
