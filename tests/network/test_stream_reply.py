"""The small HTTP reader behind streams: bodies of every form, cut anywhere, and what it refuses."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import TransportError
from paceline.network.stream import Patience, StreamReply, _take_chunks, open_stream

PATIENCE = Patience(connect_seconds=5.0, gap_seconds=5.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n"


async def ask(reply: bytes, *, patience=PATIENCE, hold=False):
    """What the reader makes of these bytes from a server; `hold` keeps the connection open behind them."""
    seen, over = [], asyncio.Event()

    async def serve(reader, writer):
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
            writer.write(reply)
            if hold:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        except OSError:
            # The reader may have hung up on what it refuses.
            writer.close()
        finally:
            over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with open_stream(f"http://127.0.0.1:{port}/peer/task", b"body", patience, {"x-mark": "1"}) as found:
            body = b"".join([piece async for piece in found.pieces()])
        return found.status, found.headers, body, seen[0]
    finally:
        await over.wait()
        server.close()
        await server.wait_closed()
        # Both ends of a closed connection let go in the next rounds of the loop.
        for _ in range(3):
            await asyncio.sleep(0)


def encode_chunks(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


def test_a_post_with_its_headers_and_a_body_in_chunks():
    reply = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + encode_chunks(b"one", b"two")
    status, headers, body, request = asyncio.run(ask(reply, hold=True))
    assert (status, headers["content-type"], body) == (200, "a/b", b"onetwo")
    assert request.startswith(b"POST /peer/task HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nx-mark: 1\r\n" in request
    assert request.endswith(b"content-length: 4\r\nconnection: close\r\nx-mark: 1\r\n\r\nbody")


def test_a_body_by_length_and_one_to_the_end_of_the_connection():
    assert asyncio.run(ask(HEAD + b"Content-Length: 3\r\n\r\nabcdef", hold=True))[2] == b"abc"
    assert asyncio.run(ask(HEAD + b"\r\nabcdef"))[2] == b"abcdef"
    assert asyncio.run(ask(HEAD + b"Content-Length: 0\r\n\r\n", hold=True))[2] == b""


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"nonsense\r\n\r\n", "no HTTP reply"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "no HTTP reply"),
        (b"", "no HTTP reply"),
        (HEAD, "no HTTP reply"),
        (HEAD + b"x: 1\r\n" * 70 + b"\r\n", "no HTTP reply"),
        (HEAD + b"x: " + b"a" * 10_000 + b"\r\n\r\n", "no HTTP reply"),
        (HEAD + b"x: " + b"a" * 100_000 + b"\r\n\r\n", "no HTTP reply"),
        (HEAD + b"Content-Length: 9\r\n\r\nabc", "broke off"),
        (HEAD + b"Content-Length: -1\r\n\r\nabc", "no length"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", "broke off"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab", "no chunk size"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab", "chunk of -1"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\nab", "chunk of"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", "without its end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 9_000, "without its size"),
    ],
)
def test_invalid_replies(reply, words):
    with pytest.raises(TransportError, match=words):
        asyncio.run(ask(reply))


def test_invalid_silence_before_and_in_the_body():
    short = Patience(connect_seconds=5.0, gap_seconds=0.05)
    with pytest.raises(TransportError, match="no answer in time"):
        asyncio.run(ask(HEAD, patience=short, hold=True))
    with pytest.raises(TransportError, match=r"nothing came for 0\.05 seconds"):
        asyncio.run(ask(HEAD + b"Content-Length: 9\r\n\r\nabc", patience=short, hold=True))


def test_a_reader_that_is_cancelled_is_not_told_of_silence():
    async def run():
        reply = StreamReply(200, {}, asyncio.StreamReader(), 60.0)
        reading = asyncio.create_task(anext(aiter(reply.pieces())))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.integers(1, 9))
def test_chunks_are_the_same_wherever_they_are_cut(pieces, step):
    data = encode_chunks(*pieces)
    held, ready, ended = bytearray(), bytearray(), False
    for at in range(0, len(data), step):
        held += data[at : at + step]
        ended = ended or _take_chunks(held, ready)
    assert ended
    assert bytes(ready) == b"".join(pieces)
