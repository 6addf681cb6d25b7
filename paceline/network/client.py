"""The asking end: signed requests, streams of frames, and blobs fetched piece by piece.

Knows nothing of what is asked. Whatever goes wrong out there becomes a TransportError that names the peer, and
bytes that do not hash to their address are never stored.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, Self
from weakref import WeakValueDictionary

import httpx

from paceline.base.errors import TransportError
from paceline.base.hashing import hash_blob
from paceline.base.keys import AccountKey, Address
from paceline.network.settings import NetworkSettings, get_unix_milliseconds
from paceline.network.stream import Patience, StreamReply, open_stream
from paceline.network.wire import (
    FRAME_DATA,
    FRAME_END,
    FRAME_PULSE,
    FRAMES_TYPE,
    FrameReader,
    RequestTarget,
    decode_refusal,
    seal_request,
)
from paceline.protocol.stores import Blobs, PartialBlob

_MAX_REFUSAL_BYTES: Final = 64 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_EMPTY_BLOB: Final = hash_blob(b"")


@dataclass(frozen=True)
class Peer:
    """Where a node listens, and who it must be."""

    url: str
    address: Address

    def __str__(self) -> str:
        return f"{self.url} ({self.address.hex()[:8]})"


class PeerRefused(TransportError):
    """A peer answered, and said no. `code` and `message` are its words, which may be lies."""

    def __init__(self, peer: Peer, status: int, code: str, message: str) -> None:
        super().__init__(f"{peer} refused ({status}) {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True)
class _Fetch:
    """One blob on its way into the store."""

    digest: bytes
    partial: PartialBlob
    max_bytes: int


class PeerClient:
    """Asks peers in the name of one key, over kept-alive connections. Belongs to one event loop."""

    def __init__(
        self,
        key: AccountKey,
        chain_id: str,
        *,
        settings: NetworkSettings | None = None,
        clock: Callable[[], int] = get_unix_milliseconds,
    ) -> None:
        self._key = key
        self._chain_id = chain_id
        self._settings = settings or NetworkSettings()
        self._clock = clock
        self._fetches: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(self._settings.reply_timeout_seconds, connect=self._settings.connect_timeout_seconds),
            limits=httpx.Limits(max_connections=self._settings.max_connections),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, peer: Peer, path: str, body: bytes) -> bytes:
        """The peer's reply to one signed request.

        Errors: PeerRefused when it says no (its code inside), TransportError for everything else; ask another peer.
        """
        with _naming(peer):
            async with asyncio.timeout(self._settings.reply_timeout_seconds), self._post(peer, path, body) as response:
                if response.headers.get("content-type") == FRAMES_TYPE:
                    raise TransportError(f"{path} answers with a stream")
                return await _read_bounded(response, self._settings.max_reply_bytes)

    async def stream(self, peer: Peer, path: str, body: bytes, traceparent: str = "") -> AsyncGenerator[bytes, None]:
        """The frames of the peer's answer as they come. Closing the iterator hangs up, which stops the peer's work.

        Use `contextlib.aclosing` around it: a generator that is merely dropped hangs up only when collected.
        Errors: PeerRefused, also in the middle; TransportError when the stream breaks off before its end frame.
        """
        patience = Patience(
            connect_seconds=self._settings.connect_timeout_seconds, gap_seconds=self._settings.silence_timeout_seconds
        )
        content = self._seal(peer, path, body)
        with _naming(peer):
            headers = {"traceparent": traceparent} if traceparent else {}
            async with open_stream(f"{peer.url}/peer/{path}", content, patience, headers) as reply:
                if reply.status != httpx.codes.OK:
                    raise _make_refusal(peer, reply.status, await _gather(reply.pieces(), _MAX_REFUSAL_BYTES))
                if reply.headers.get("content-type") != FRAMES_TYPE:
                    raise TransportError(f"{path} answers without a stream")
                async for data in _read_frames(reply, peer, self._settings):
                    yield data

    async def fetch_blob(
        self, peers: Sequence[Peer], digest: bytes, *, into: Blobs, max_bytes: int | None = None
    ) -> None:
        """Bring a blob into the store: from the first peer, going on with the next where one breaks off.

        Units: `max_bytes` of the whole blob, for a caller who knows its length; else the store's own limit.
        Errors: TransportError naming every peer and its failure; what was received stays for the next attempt.
        WorkError when the own disk refuses.
        """
        limit = into.max_blob_bytes if max_bytes is None else min(max_bytes, into.max_blob_bytes)
        lock = self._fetches.setdefault(digest, asyncio.Lock())
        async with lock:
            if into.has(digest):
                return
            if digest == _EMPTY_BLOB:
                into.put(b"")
                return
            partial = into.open_partial(digest)
            try:
                await self._fetch_from_any(peers, _Fetch(digest, partial, limit))
            finally:
                partial.close()

    async def _fetch_from_any(self, peers: Sequence[Peer], fetch: _Fetch) -> None:
        failures: list[str] = []
        for peer in peers:
            try:
                if await self._fetch_from(peer, fetch):
                    return
                failures.append(f"{peer} sent bytes that hash to something else")
            except TransportError as error:
                failures.append(str(error))
        raise TransportError(f"blob {fetch.digest.hex()} from nobody: " + ("; ".join(failures) or "no peer to ask"))

    async def _fetch_from(self, peer: Peer, fetch: _Fetch) -> bool:
        """True when the blob is complete and stored. False blames this peer alone: all the bytes were its own."""
        began_elsewhere = fetch.partial.size > 0
        await self._fetch_rest(peer, fetch)
        if await asyncio.to_thread(fetch.partial.finish):
            return True
        if not began_elsewhere:
            return False
        await self._fetch_rest(peer, fetch)
        return await asyncio.to_thread(fetch.partial.finish)

    async def _fetch_rest(self, peer: Peer, fetch: _Fetch) -> None:
        """Append pieces from where the partial ends until it is as long as the peer says the blob is."""
        total: int | None = None
        while total != fetch.partial.size:
            with _naming(peer):
                async with asyncio.timeout(self._settings.reply_timeout_seconds):
                    piece, said = await self._fetch_piece(peer, fetch.digest, fetch.partial.size)
                if said > fetch.max_bytes or total not in {None, said}:
                    raise TransportError(f"a blob of {said} bytes, first said {total}, at most {fetch.max_bytes}")
            if not piece:
                # The peer knows a blob no longer than the bytes at hand: let the hash decide.
                return
            total = said
            fetch.partial.append(piece)

    async def _fetch_piece(self, peer: Peer, digest: bytes, start: int) -> tuple[bytes, int]:
        """The piece at `start` and the length of the whole that the peer states."""
        headers = {"range": f"bytes={start}-{start + self._settings.chunk_bytes - 1}", "accept-encoding": "identity"}
        async with self._http.stream("GET", f"{peer.url}/blob/{digest.hex()}", headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b"", 0
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                raise await _read_refusal(peer, response)
            piece = await _read_bounded(response, self._settings.chunk_bytes)
            stated = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if stated is None:
                raise TransportError("a piece without its range")
            first, last, total = (int(number) for number in stated.groups())
            if first != start or last != start + len(piece) - 1 or not first <= last < total:
                raise TransportError(f"asked for bytes from {start}, got {first} to {last} of {total}")
            return piece, total

    @asynccontextmanager
    async def _post(self, peer: Peer, path: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """Send a sealed request; the response has status 200, its body is still to come."""
        url = f"{peer.url}/peer/{path}"
        async with self._http.stream("POST", url, content=self._seal(peer, path, body)) as response:
            if response.status_code != httpx.codes.OK:
                raise await _read_refusal(peer, response)
            yield response

    def _seal(self, peer: Peer, path: str, body: bytes) -> bytes:
        target = RequestTarget(recipient=peer.address, path=path, chain_id=self._chain_id)
        expiry = self._clock() + self._settings.request_lifetime_milliseconds
        return seal_request(self._key, target, body, expiry_milliseconds=expiry)


@contextmanager
def _naming(peer: Peer) -> Iterator[None]:
    """Turn every failure of the connection into one that names the peer."""
    try:
        yield
    except PeerRefused:
        raise
    except TransportError as error:
        raise TransportError(f"{peer}: {error}") from error
    except TimeoutError as error:
        raise TransportError(f"{peer}: no answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise TransportError(f"{peer}: {type(error).__name__} {error}".rstrip()) from error


async def _read_frames(reply: StreamReply, peer: Peer, settings: NetworkSettings) -> AsyncGenerator[bytes, None]:
    reader = FrameReader(settings.max_frame_bytes)
    last = time.monotonic()
    async for piece in reply.pieces():
        for kind, data in reader.feed(piece):
            if kind == FRAME_PULSE:
                if time.monotonic() - last > settings.frame_timeout_seconds:
                    raise TransportError(f"no frame for {settings.frame_timeout_seconds:g} seconds")
                continue
            last = time.monotonic()
            if kind == FRAME_END:
                return
            if kind != FRAME_DATA:
                refusal = decode_refusal(data)
                raise PeerRefused(peer, reply.status, refusal.code, refusal.message)
            yield data
    raise TransportError("the stream broke off")


async def _read_bounded(response: httpx.Response, max_bytes: int) -> bytes:
    """The body as it came, without any decompression (which could blow it up)."""
    return await _gather(response.aiter_raw(), max_bytes)


async def _gather(pieces: AsyncIterator[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > max_bytes:
            raise TransportError(f"a reply over {max_bytes} bytes")
    return bytes(body)


async def _read_refusal(peer: Peer, response: httpx.Response) -> PeerRefused:
    return _make_refusal(peer, response.status_code, await _read_bounded(response, _MAX_REFUSAL_BYTES))


def _make_refusal(peer: Peer, status: int, body: bytes) -> PeerRefused:
    refusal = decode_refusal(body)
    return PeerRefused(peer, status, refusal.code, refusal.message)
