from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import replace

import httpx
import pytest
from peer_servers import CHAIN, CLIENT_KEY, FAST, SERVER_KEY, make_client, serve, serve_peer

from paceline.base.errors import ConfigError, InvalidTransaction, TransportError, WorkError
from paceline.network.client import Peer, PeerRefused
from paceline.network.settings import NetworkSettings, get_unix_milliseconds
from paceline.network.wire import FRAMES_TYPE, RequestTarget, decode_refusal, encode_frame, seal_request
from paceline.store.blobs import BlobStore


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "server")


async def echo(request):
    return request.path.encode() + b" " + request.sender_address + request.body


async def count(request):
    for number in range(int(request.body)):
        yield b"%d" % number


def failing(error):
    async def handler(request):
        raise error

    return handler


def failing_stream(error, after):
    async def handler(request):
        for _ in range(after):
            yield b"token"
        raise error

    return handler


async def collect(stream, into=None):
    frames = [] if into is None else into
    async for data in stream:
        frames.append(data)
    return frames


def run_with(handlers, blobs, story, settings=FAST):
    async def main():
        async with serve_peer(handlers, blobs, settings) as peer, make_client() as client:
            return await asyncio.wait_for(story(client, peer), 20)

    return asyncio.run(main())


def test_request_and_reply(blobs):
    async def story(client, peer):
        return [await client.request(peer, "deep/echo", bytes([number])) for number in range(3)]

    replies = run_with({"deep/echo": echo}, blobs, story)
    assert replies == [b"deep/echo " + CLIENT_KEY.address + bytes([number]) for number in range(3)]


def test_stream_of_frames(blobs):
    async def story(client, peer):
        return await collect(client.stream(peer, "count", b"300")), await collect(client.stream(peer, "count", b"0"))

    assert run_with({"count": count}, blobs, story) == ([b"%d" % number for number in range(300)], [])


def test_frames_arrive_one_by_one(blobs):
    go = asyncio.Event()

    async def held(request):
        yield b"first"
        await go.wait()
        yield b"second"

    async def story(client, peer):
        async with aclosing(client.stream(peer, "held", b"")) as stream:
            first = await anext(stream)
            go.set()
            return first, await anext(stream)

    assert run_with({"held": held}, blobs, story) == (b"first", b"second")


@pytest.mark.parametrize("frames_read", [0, 3])
def test_hanging_up_stops_the_generator_at_the_server(blobs, frames_read):
    started, stopped = asyncio.Event(), asyncio.Event()

    async def endless(request):
        started.set()
        try:
            for _ in range(frames_read):
                yield b"token"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def story(client, peer):
        stream = client.stream(peer, "endless", b"")
        for _ in range(frames_read):
            await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await started.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        await stopped.wait()
        return await client.request(peer, "echo", b"x")  # the server is well

    assert run_with({"endless": endless, "echo": echo}, blobs, story).endswith(b"x")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidTransaction("bad-sequence", "7, not 8"), 400, "bad-sequence"),
        (WorkError("out of memory"), 503, "work-failed"),
        (TransportError("no peer"), 502, "peer-unreachable"),
        (ConfigError("cannot"), 500, "internal"),
        (KeyError("secret detail"), 500, "internal"),
    ],
)
def test_invalid_work_is_refused_with_status_and_code(blobs, error, status, code, caplog):
    handlers = {"whole": failing(error), "at-once": failing_stream(error, 0), "midway": failing_stream(error, 2)}

    async def story(client, peer):
        outcomes = []
        with pytest.raises(PeerRefused) as caught:
            await client.request(peer, "whole", b"")
        outcomes.append(caught.value)
        for path in ("at-once", "midway"):
            frames = []
            with pytest.raises(PeerRefused) as caught:
                await collect(client.stream(peer, path, b""), frames)
            assert len(frames) == (2 if path == "midway" else 0)
            outcomes.append(caught.value)
        return outcomes, str(peer)

    with caplog.at_level(logging.ERROR, logger="paceline.network.server"):
        outcomes, name = run_with(handlers, blobs, story)
    assert [outcome.code for outcome in outcomes] == [code] * 3
    assert [outcome.status for outcome in outcomes] == [status, status, 200]
    assert all(name in str(outcome) and "secret detail" not in str(outcome) for outcome in outcomes)
    assert len(caplog.records) == (3 if isinstance(error, KeyError) else 0)


def test_invalid_path_and_invalid_kind_of_reply(blobs):
    async def story(client, peer):
        with pytest.raises(PeerRefused, match="404") as caught:
            await client.request(peer, "nothing", b"")
        assert caught.value.code == "unknown-path"
        with pytest.raises(TransportError, match="answers with a stream"):
            await client.request(peer, "count", b"1")
        with pytest.raises(TransportError, match="answers without a stream"):
            await collect(client.stream(peer, "echo", b""))

    run_with({"echo": echo, "count": count}, blobs, story)


def test_invalid_sizes(blobs):
    async def large(request):
        return bytes(int(request.body))

    async def large_frame(request):
        yield bytes(int(request.body))

    async def story(client, peer):
        limit = FAST.max_body_bytes
        assert len(await client.request(peer, "echo2", bytes(limit))) == 0
        for size in (limit + 1, limit + 5_000_000):
            with pytest.raises(PeerRefused) as caught:
                await client.request(peer, "echo2", bytes(size))
            assert caught.value.code == "envelope-size"
        assert len(await client.request(peer, "large", b"100000")) == FAST.max_reply_bytes
        with pytest.raises(TransportError, match="over 100000 bytes"):
            await client.request(peer, "large", b"100001")
        assert [len(data) for data in await collect(client.stream(peer, "frame", b"1000"))] == [1000]
        with pytest.raises(PeerRefused, match="frame of 1001"):
            await collect(client.stream(peer, "frame", b"1001"))

    async def drop(request):
        return b""

    run_with({"echo2": drop, "large": large, "frame": large_frame}, blobs, story)


def test_invalid_size_without_content_length_is_cut_off(blobs):
    async def pieces():
        for _ in range(100):
            yield bytes(10_000)

    async def story(client, peer):
        async with httpx.AsyncClient(trust_env=False) as http:
            response = await http.post(f"{peer.url}/peer/echo", content=pieces())
            return response.status_code, decode_refusal(response.content).code

    assert run_with({"echo": echo}, blobs, story) == (400, "envelope-size")


def test_invalid_envelopes_over_the_wire(blobs):
    now = get_unix_milliseconds()
    target = RequestTarget(recipient=SERVER_KEY.address, path="echo", chain_id=CHAIN)
    good = seal_request(CLIENT_KEY, target, b"", expiry_milliseconds=now + 20_000)
    late = seal_request(CLIENT_KEY, target, b"", expiry_milliseconds=now - 1)

    async def story(client, peer):
        async with httpx.AsyncClient(trust_env=False) as http:
            replies = [await http.post(f"{peer.url}/peer/{path}", content=data) for path, data in sent]
            assert (await http.get(f"{peer.url}/peer/echo")).status_code == 405
        stranger = Peer(peer.url, CLIENT_KEY.address)
        with pytest.raises(PeerRefused, match="envelope-recipient"):
            await client.request(stranger, "echo", b"")
        async with make_client(chain_id="other") as foreign:
            with pytest.raises(PeerRefused, match="envelope-chain"):
                await foreign.request(peer, "echo", b"")
        return [(reply.status_code, decode_refusal(reply.content).code) for reply in replies[1:]], replies[0]

    sent = [("echo", good), ("echo", good), ("echo", late), ("other", good), ("echo", b"{}")]
    refusals, first = run_with({"echo": echo, "other": echo}, blobs, story)
    assert first.status_code == 200
    codes = ["envelope-replay", "envelope-expired", "envelope-path", "envelope-format"]
    assert refusals == [(400, code) for code in codes]


def test_invalid_peers_become_transport_errors_with_their_name(blobs):
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", FRAMES_TYPE.encode())]})
        await send({"type": "http.response.body", "body": encode_frame(0, b"token")})

    async def html(scope, receive, send):
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    async def story(client, peer):
        gone = Peer("http://127.0.0.1:9", peer.address)
        nonsense = Peer("http://[", peer.address)
        for bad in (gone, nonsense):
            with pytest.raises(TransportError, match=peer.address.hex()[:8]):
                await client.request(bad, "echo", b"")
            with pytest.raises(TransportError, match=peer.address.hex()[:8]):
                await collect(client.stream(bad, "echo", b""))
        async with serve(html) as url:
            with pytest.raises(PeerRefused, match="unreadable"):
                await client.request(Peer(url, peer.address), "echo", b"")
        async with serve(broken) as url:
            with pytest.raises(TransportError, match=url):
                await collect(client.stream(Peer(url, peer.address), "echo", b""))

    run_with({"echo": echo}, blobs, story)


def test_invalid_silence_runs_into_the_timeout(blobs):
    async def silent(request):
        await asyncio.Event().wait()

    async def stalling(request):
        yield b"token"
        await asyncio.Event().wait()

    async def main():
        short = NetworkSettings(reply_timeout_seconds=0.2, silence_timeout_seconds=0.2)
        async with serve_peer({"silent": silent, "stalling": stalling}, blobs) as peer, make_client(short) as client:
            with pytest.raises(TransportError, match=r"no answer in time|ReadTimeout"):
                await client.request(peer, "silent", b"")
            with pytest.raises(TransportError, match=r"nothing came for 0\.2 seconds"):
                await collect(client.stream(peer, "stalling", b""))

    asyncio.run(main())


def test_a_peer_that_works_slowly_is_told_from_one_that_hangs(blobs):
    async def thinking(request):
        await asyncio.sleep(0.6)
        yield b"token"

    async def refusing(request):
        await asyncio.sleep(0.3)
        raise WorkError("no")
        yield b"never"

    patient = NetworkSettings(silence_timeout_seconds=0.3)
    beating = replace(FAST, pulse_seconds=0.05)

    async def main():
        async with (
            serve_peer({"think": thinking, "refuse": refusing}, blobs, beating) as peer,
            make_client(patient) as client,
        ):
            assert await collect(client.stream(peer, "think", b"")) == [b"token"]
            with pytest.raises(PeerRefused, match="no"):
                await collect(client.stream(peer, "refuse", b""))
        async with serve_peer({"think": thinking}, blobs) as peer, make_client(patient) as client:
            with pytest.raises(TransportError, match="no answer in time"):
                await collect(client.stream(peer, "think", b""))

    asyncio.run(main())


def test_invalid_pulses_alone_do_not_hold_a_client_for_ever(blobs):
    async def hanging(request):
        yield b"token"
        await asyncio.Event().wait()

    async def main():
        limited = NetworkSettings(silence_timeout_seconds=2, frame_timeout_seconds=0.2)
        beating = replace(FAST, pulse_seconds=0.05)
        async with serve_peer({"hang": hanging}, blobs, beating) as peer, make_client(limited) as client:
            with pytest.raises(TransportError, match=r"no frame for 0\.2 seconds"):
                await collect(client.stream(peer, "hang", b""))

    asyncio.run(main())
