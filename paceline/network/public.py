"""What a node tells anybody, unsigned: small questions of newcomers and readers, answered in few bytes.

Knows nothing of what is asked. Bodies are bounded before they are read, few questions are worked on at a time, and what
a handler refuses leaves as a code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from paceline.base.errors import Invalid, PacelineError, TransportError, WorkError
from paceline.network.wire import REFUSAL_TYPE, encode_refusal

MAX_BODY_BYTES: Final = 64 * 1024
MAX_AT_ONCE: Final = 16


@dataclass(frozen=True, kw_only=True)
class PublicRequest:
    """A question of a stranger: where it came from (an address, not a name), its path's last part, query and body."""

    host: str
    name: str
    query: str
    body: bytes


PublicHandler = Callable[[PublicRequest], Awaitable[bytes]]


@dataclass(frozen=True)
class PublicPath:
    """One path: who answers, and in which form."""

    handler: PublicHandler
    content_type: str = "application/octet-stream"


def create_public_routes(paths: Mapping[str, PublicPath]) -> list[Route]:
    """Starlette routes. A path may end in `{name}`."""
    slots = asyncio.Semaphore(MAX_AT_ONCE)
    return [Route(path, _PublicEndpoint(found, slots).serve, methods=["GET", "POST"]) for path, found in paths.items()]


class _PublicEndpoint:
    def __init__(self, path: PublicPath, slots: asyncio.Semaphore) -> None:
        self._path = path
        self._slots = slots

    async def serve(self, request: Request) -> Response:
        if self._slots.locked():
            return _refuse(503, "busy", "too many questions at once; ask again in a moment")
        async with self._slots:
            try:
                body = await read_bounded_body(request, MAX_BODY_BYTES)
                asked = PublicRequest(
                    host=request.client.host if request.client else "",
                    name=request.path_params.get("name", ""),
                    query=request.url.query,
                    body=body,
                )
                answer = await self._path.handler(asked)
            except ClientDisconnect:
                return Response()
            except PacelineError as error:
                return _refuse(*describe_error(error))
        return Response(answer, media_type=self._path.content_type)


async def read_bounded_body(request: Request, max_bytes: int) -> bytes:
    """The body, given up as soon as it is known to be too large.

    Errors: Invalid envelope-size.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise Invalid("envelope-size", f"{announced[:20]} bytes announced, at most {max_bytes}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise Invalid("envelope-size", f"over {max_bytes} bytes")
    return bytes(body)


def describe_error(error: PacelineError) -> tuple[int, str, str]:
    """Status, code and message for what a handler raised on purpose."""
    if isinstance(error, Invalid):
        return 400, error.code, error.message
    if isinstance(error, WorkError):
        return 503, "work-failed", str(error)
    if isinstance(error, TransportError):
        return 502, "peer-unreachable", str(error)
    return 500, "internal", str(error)


def _refuse(status: int, code: str, message: str) -> Response:
    return Response(encode_refusal(code, message), status, media_type=REFUSAL_TYPE)
