"""The serving end: signed requests to handlers, streams of frames, and blobs by hash with ranges.

Knows nothing of what handlers do. A handler runs only for a verified request; whatever it raises becomes a reply, and
a peer that hangs up in the middle of a stream ends the handler's generator at its next await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from paceline.base.errors import PacelineError, WorkError
from paceline.base.hashing import DIGEST_BYTES
from paceline.base.keys import Address
from paceline.network.public import PublicPath, create_public_routes, describe_error, read_bounded_body
from paceline.network.settings import NetworkSettings, get_unix_milliseconds
from paceline.network.wire import (
    ENVELOPE_OVERHEAD_BYTES,
    FRAME_DATA,
    FRAME_END,
    FRAME_ERROR,
    FRAME_PULSE,
    FRAMES_TYPE,
    MAX_NAME_BYTES,
    REFUSAL_TYPE,
    REPLY_TYPE,
    PeerRequest,
    ReplayGuard,
    RequestTarget,
    encode_frame,
    encode_refusal,
    open_request,
)
from paceline.protocol.stores import Blobs

Handler = Callable[[PeerRequest], Awaitable[bytes] | AsyncIterator[bytes]]

_SERVE_BYTES: Final = 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PeerIdentity:
    """Who serves: requests must be signed for this node and chain."""

    address: Address
    chain_id: str


def create_peer_app(
    handlers: Mapping[str, Handler],
    *,
    blobs: Blobs,
    identity: PeerIdentity,
    public: Mapping[str, PublicPath] | None = None,
    settings: NetworkSettings | None = None,
    clock: Callable[[], int] = get_unix_milliseconds,
) -> Starlette:
    """The ASGI app of one node: POST /peer/<path> for each handler, GET and HEAD /blob/<hex>, and what is public.

    A handler is `async (PeerRequest) -> bytes`, or an async generator function of the frames of a stream.
    """
    endpoint = _PeerEndpoint(dict(handlers), identity, settings or NetworkSettings(), clock)
    return Starlette(
        routes=[
            Route("/peer/{path:path}", endpoint, methods=["POST"]),
            Route("/blob/{name}", _BlobEndpoint(blobs).serve, methods=["GET", "HEAD"]),
            *create_public_routes(public or {}),
        ]
    )


class _PeerEndpoint:
    """The ASGI application behind /peer."""

    def __init__(
        self,
        handlers: dict[str, Handler],
        identity: PeerIdentity,
        settings: NetworkSettings,
        clock: Callable[[], int],
    ) -> None:
        self._handlers = handlers
        self._identity = identity
        self._max_body_bytes = settings.max_body_bytes
        self._max_frame_bytes = settings.max_frame_bytes
        self._pulse_seconds = settings.pulse_seconds
        self._clock = clock
        self._seen = ReplayGuard()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send, self._max_frame_bytes, self._pulse_seconds)
        path = scope["path_params"]["path"]
        try:
            await self._answer(path, Request(scope, receive), receive, reply)
        except ClientDisconnect:
            _log.debug("peer left %s before its request was complete", path)
        except PacelineError as error:
            await reply.fail(*describe_error(error))
        except Exception:  # noqa: BLE001 - the seam: one handler's bug must not take the node's other peers down
            _log.exception("handler of %s failed", path)
            await reply.fail(500, "internal", "this node failed; its log says why")

    async def _answer(self, path: str, request: Request, receive: Receive, reply: _Reply) -> None:
        handler = self._handlers.get(path)
        if handler is None:
            await reply.fail(404, "unknown-path", f"no handler for {path[:128]!r}")
            return
        body = await read_bounded_body(request, self._max_body_bytes + ENVELOPE_OVERHEAD_BYTES)
        target = RequestTarget(recipient=self._identity.address, path=path, chain_id=self._identity.chain_id)
        peer_request = open_request(
            body, target, now_milliseconds=self._clock(), seen=self._seen, max_body_bytes=self._max_body_bytes
        )
        traceparent = request.headers.get("traceparent", "")
        result = handler(
            replace(peer_request, traceparent=traceparent[:MAX_NAME_BYTES]) if traceparent else peer_request
        )
        if isinstance(result, AsyncIterator):
            await _run_until_disconnect(reply.stream(result), receive)
        else:
            await reply.send_whole(200, REPLY_TYPE, await result)


class _Reply:
    """One reply on its way out; knows whether its status has left already."""

    def __init__(self, send: Send, max_frame_bytes: int, pulse_seconds: float) -> None:
        self._send = send
        self._max_frame_bytes = max_frame_bytes
        self._pulse_seconds = pulse_seconds
        self._started = False
        self._sending = asyncio.Lock()
        self._is_quiet = True

    async def send_whole(self, status: int, content_type: str, body: bytes) -> None:
        await self._start(status, content_type, [(b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, frames: AsyncIterator[bytes]) -> None:
        """Send every item as a frame. The status waits for the first item or pulse, so that a refusal still gets its own."""
        pulse = asyncio.create_task(self._send_pulses())
        try:
            async for data in frames:
                if len(data) > self._max_frame_bytes:
                    raise WorkError(f"frame of {len(data)} bytes is over the limit of {self._max_frame_bytes}")
                await self._send_frame(FRAME_DATA, data)
            await self._send_frame(FRAME_END, b"", more=False)
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)
            close = getattr(frames, "aclose", None)
            if close is not None:
                await close()

    async def _send_pulses(self) -> None:
        """Tell whoever waits that this node is there, whenever nothing else told so."""
        while True:
            self._is_quiet = True
            await asyncio.sleep(self._pulse_seconds)
            if self._is_quiet:
                await self._send_frame(FRAME_PULSE, b"")

    async def fail(self, status: int, code: str, message: str) -> None:
        refusal = encode_refusal(code, message)
        if self._started:
            await self._send_frame(FRAME_ERROR, refusal, more=False)
        else:
            await self.send_whole(status, REFUSAL_TYPE, refusal)

    async def _send_frame(self, kind: int, data: bytes, *, more: bool = True) -> None:
        self._is_quiet = False
        async with self._sending:
            if not self._started:
                await self._start(200, FRAMES_TYPE, [])
            await self._send({"type": "http.response.body", "body": encode_frame(kind, data), "more_body": more})

    async def _start(self, status: int, content_type: str, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        headers = [(b"content-type", content_type.encode()), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


class _BlobEndpoint:
    """Serves blobs as files, ranges included. Bytes are not verified here: whoever fetches hashes them anyway."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def serve(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        digest = _parse_digest(name)
        path = None if digest is None else self._blobs.get_path(digest)
        if path is None:
            return Response(encode_refusal("unknown-blob", "not held here"), 404, media_type=REFUSAL_TYPE)
        return _BlobResponse(path, media_type=REPLY_TYPE)


class _BlobResponse(FileResponse):
    chunk_size = _SERVE_BYTES


async def _run_until_disconnect(work: Awaitable[None], receive: Receive) -> None:
    """Finish the work, or cancel it when the peer hangs up."""
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hung_up = not worker.done()
        for task in (worker, watcher):
            task.cancel()
        outcome, _ = await asyncio.gather(worker, watcher, return_exceptions=True)
    if isinstance(outcome, Exception) and not hung_up:
        raise outcome


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parse_digest(name: str) -> bytes | None:
    if len(name) != 2 * DIGEST_BYTES or name != name.lower():
        return None
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None
