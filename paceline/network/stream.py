"""One POST whose answer streams in over its own connection: plain HTTP/1.1, read with as little work per frame as can be.

A relay follows a thousand answers at once, each a few letters at a time, and a general client spends most of a core on that. It
knows status, headers, and bodies in chunks, by length or to the end of the connection, and refuses everything else.
Invariant: never more than the limits is kept, and the connection is closed when the stream is left.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from paceline.base.errors import TransportError

_READ_BYTES: Final = 64 * 1024
_MAX_LINE_BYTES: Final = 8 * 1024
_MAX_HEADERS: Final = 64
_MAX_CHUNK_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds for opening a connection, and between two pieces of an answer."""

    connect_seconds: float
    gap_seconds: float


class StreamReply:
    """Status and headers of an answer whose body is still to come."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader, gap_seconds: float) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._gap_seconds = gap_seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Errors: TransportError when it breaks off or is no HTTP."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            async for piece in self._read_chunks():
                yield piece
            return
        left = _parse_length(self.headers.get("content-length"))
        while left != 0:
            piece = await self._read(_READ_BYTES if left is None else min(left, _READ_BYTES))
            if not piece and left is not None:
                raise TransportError("the reply broke off")
            if not piece:
                return
            left = None if left is None else left - len(piece)
            yield piece

    async def _read_chunks(self) -> AsyncIterator[bytes]:
        """Whole chunks that arrived together are given together."""
        held = bytearray()
        ready = bytearray()
        while True:
            end = _take_chunks(held, ready)
            if ready:
                yield bytes(ready)
                ready.clear()
            if end:
                return
            piece = await self._read(_READ_BYTES)
            if not piece:
                raise TransportError("the stream broke off")
            held += piece

    async def _read(self, count: int) -> bytes:
        # A handle on the loop's clock costs less than a timeout context, and this runs once per token.
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        handle = loop.call_later(self._gap_seconds, expire)
        try:
            return await self._reader.read(count)
        except asyncio.CancelledError:
            if late and task.uncancel() == 0:
                raise TransportError(f"nothing came for {self._gap_seconds:g} seconds") from None
            raise
        except OSError as problem:
            raise TransportError(f"the connection broke ({type(problem).__name__})") from None
        finally:
            handle.cancel()


@asynccontextmanager
async def open_stream(
    url: str, content: bytes, patience: Patience, headers: dict[str, str] | None = None
) -> AsyncIterator[StreamReply]:
    """POST `content` and give the reply once its headers are here. Leaving the block hangs up.

    Errors: TransportError.
    """
    try:
        parts = urlsplit(url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        async with asyncio.timeout(patience.connect_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure, limit=_READ_BYTES)
    except (OSError, TimeoutError, ValueError) as problem:
        raise TransportError(f"no connection ({type(problem).__name__} {problem})".rstrip()) from None
    try:
        writer.write(_encode_head(parts.netloc, parts.path, len(content), headers or {}) + content)
        try:
            async with asyncio.timeout(patience.gap_seconds):
                await writer.drain()
                status, found = await _read_head(reader)
        except TimeoutError:
            raise TransportError("no answer in time") from None
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
            raise TransportError(f"no HTTP reply ({type(problem).__name__})") from None
        yield StreamReply(status, found, reader, patience.gap_seconds)
    finally:
        writer.close()


def _encode_head(host: str, path: str, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {length}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    version, _, rest = (await _read_line(reader)).partition(" ")
    if version not in {"HTTP/1.1", "HTTP/1.0"} or not rest[:3].isdecimal():
        raise ValueError(version)
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        line = await _read_line(reader)
        if not line:
            return int(rest[:3]), headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise ValueError("too many headers")


async def _read_line(reader: asyncio.StreamReader) -> str:
    line = await reader.readuntil(b"\n")
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError("a line too long")
    return line.decode("latin-1").rstrip("\r\n")


def _take_chunks(held: bytearray, ready: bytearray) -> bool:
    """Move whole chunks from `held` to `ready`; True at the last one. Errors: TransportError when it is no chunk."""
    start = 0
    try:
        while (line_end := held.find(b"\r\n", start)) >= 0:
            size = _parse_size(bytes(held[start:line_end]))
            begin, end = line_end + 2, line_end + 2 + size
            if size == 0:
                return True
            if len(held) < end + 2:
                return False
            if held[end : end + 2] != b"\r\n":
                raise TransportError("a chunk without its end")
            ready += held[begin:end]
            start = end + 2
        if len(held) - start > _MAX_LINE_BYTES:
            raise TransportError("a chunk without its size")
        return False
    finally:
        del held[:start]


def _parse_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        size = int(digits, 16)
    except ValueError:
        raise TransportError(f"{digits[:16]!r} is no chunk size") from None
    if not 0 <= size <= _MAX_CHUNK_BYTES:
        raise TransportError(f"a chunk of {size} bytes")
    return size


def _parse_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise TransportError(f"{text[:20]!r} is no length")
    return int(text)
