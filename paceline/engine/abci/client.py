"""The engine's end of the socket: asks an ABCI server and reads its replies in order. For drivers, tests and tools."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.abci.framing import FrameReader, encode_frame
from paceline.engine.abci.schema import MESSAGES, Request, Response, get_verb

READ_BYTES = 1 << 18
MAX_RESPONSE_BYTES = 64 * 1024 * 1024


class AbciClient:
    """One connection. Not for use by two tasks at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader(Response, MAX_RESPONSE_BYTES)
        self._ready: deque[Any] = deque()

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Open a connection. Errors: TransportError when nobody listens."""
        try:
            return cls(*await asyncio.open_unix_connection(str(path)))
        except OSError as problem:
            raise TransportError(f"{path}: {problem}") from None

    async def call(self, verb: str, **fields: Any) -> Any:
        """One request, flushed; its response body.

        Errors: InvalidBlock "exception" with the server's words; TransportError when the connection ends.
        """
        return (await self.call_many(verb, [fields]))[0]

    async def call_many(self, verb: str, requests: Sequence[dict[str, Any]]) -> list[Any]:
        """Many requests of one verb in one go, then a flush; their response bodies in order."""
        await self.send_raw(b"".join(encode_frame(make_request(verb, fields)) for fields in requests))
        await self.send_raw(encode_frame(make_request("flush", {})))
        answers = [await self.read() for _ in requests]
        await self.read()
        return [getattr(answer, verb) for answer in answers]

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are, for those who test what a server makes of them."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError as problem:
            raise TransportError(f"the server closed the connection: {problem}") from None

    async def read(self) -> Any:
        """The next response."""
        while not self._ready:
            try:
                data = await self._reader.read(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise TransportError("the server closed the connection")
            self._ready.extend(self._frames.feed(data))
        response = self._ready.popleft()
        if get_verb(response) == "exception":
            raise InvalidBlock("exception", response.exception.error)
        return response

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


def make_request(verb: str, fields: dict[str, Any]) -> Any:
    """A request envelope."""
    request = Request()
    body = getattr(request, verb)
    body.SetInParent()
    if fields:
        body.CopyFrom(type(body)(**fields))
    return request


def make_message(name: str, **fields: Any) -> Any:
    """A message of the schema by name."""
    return MESSAGES[name](**fields)
