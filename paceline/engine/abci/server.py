"""A socket server for one ABCI application: replies in the order of requests, one request at a time.

The engine opens four connections (consensus, mempool, query, snapshot). Handlers run on the event loop without waiting
in between, so the loop itself is the one lock that orders them. It knows nothing of what the verbs mean.
A stream that cannot be read gets an exception reply and is closed; it never reaches the handler. An error inside the
handler is a bug of this node: the peer gets an exception reply and `failure` ends the node before anything is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from paceline.base.errors import InvalidBlock
from paceline.engine.abci.framing import FrameReader, encode_frame
from paceline.engine.abci.schema import Request, Response, get_verb

MAX_REQUEST_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 16
STOP_SECONDS = 2.0

Handle = Callable[[str, Any], Any]
"""(verb, request body) -> response body."""


class AbciServer:
    """Serves one handler on a unix socket that only this user can open."""

    def __init__(self, path: Path, handle: Handle, *, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self.path = path
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handle = handle
        self._max_request_bytes = max_request_bytes
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. A socket file that a killed process left behind is replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connect, str(self.path))
        self.path.chmod(0o600)

    async def stop(self) -> None:
        """Close every connection after what it was replied, and remove the socket."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        if self._server is not None:
            try:
                await asyncio.wait_for(self._server.wait_closed(), STOP_SECONDS)
            except TimeoutError:
                # A peer that does not read its last replies must not keep the node from ending.
                for connection in list(self._connections):
                    connection.abort()
        self.path.unlink(missing_ok=True)
        self.failure.cancel()

    def answer(self, request: Any) -> Any:
        """The response to one request; an unknown verb gets an exception reply."""
        verb = get_verb(request)
        if verb is None:
            return _refuse("unknown request: this server speaks ABCI 2.0")
        response = Response()
        if verb == "flush":
            response.flush.SetInParent()
        elif verb == "echo":
            response.echo.message = request.echo.message
        else:
            getattr(response, verb).CopyFrom(self._handle(verb, getattr(request, verb)))
        return response

    def fail(self, problem: BaseException) -> None:
        """Remember the first error that ends the node."""
        if not self.failure.done():
            self.failure.set_exception(problem)

    def _connect(self) -> asyncio.Protocol:
        return _Connection(self, self._max_request_bytes)

    def admit(self, connection: _Connection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def release(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One stream of requests."""

    def __init__(self, server: AbciServer, max_request_bytes: int) -> None:
        self._server = server
        self._reader = FrameReader(Request, max_request_bytes)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop of nodes is uvloop, whose transports have the interface and not the class.
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self._refuse_and_close(f"over {MAX_CONNECTIONS} connections")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._server.release(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        try:
            requests = self._reader.feed(data)
        except InvalidBlock as problem:
            self._refuse_and_close(str(problem))
            return
        replies = bytearray()
        for request in requests:
            try:
                replies += encode_frame(self._server.answer(request))
            except Exception as problem:  # noqa: BLE001 - the seam where a bug of ours stops the node, not the chain
                self._transport.write(bytes(replies))
                self._refuse_and_close(f"{type(problem).__name__}: {problem}")
                self._server.fail(problem)
                return
        self._transport.write(bytes(replies))

    def pause_writing(self) -> None:
        # Who does not read replies gets no more of its requests read.
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    def close(self) -> None:
        """End after what is still to be written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse_and_close(self, text: str) -> None:
        assert self._transport is not None
        self._transport.write(encode_frame(_refuse(text)))
        self._transport.close()


def _refuse(text: str) -> Any:
    response = Response()
    response.exception.error = text
    return response
