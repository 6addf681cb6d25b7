"""Joins the API and the dashboard into one web application.

Refuses to know: ports, processes, where settings come from. Invariant: whatever goes wrong, a client gets a complete
reply in the one error shape, and a cause that is not ours to expect is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.node.api.desk import ApiDesk
from paceline.node.views import Gateway
from paceline.web.api import Api
from paceline.web.dashboard import Dashboard
from paceline.web.errors import INTERNAL_ERROR, add_error_handlers
from paceline.web.settings import WebSettings
from paceline.web.streams import EVENT_STREAM_HEADERS, encode_data, end_reply

LOG = logging.getLogger(__name__)


def create_app(gateway: Gateway, settings: WebSettings | None = None, desk: ApiDesk | None = None) -> FastAPI:
    """Build the application over a node. Without a desk, files, batches and usage live in memory.

    Effects: none until a server runs it; batches go on from its startup to its shutdown. A server that stops should end
    `gateway.changes()` first, since open dashboards end with it.
    """
    settings = settings or WebSettings()
    api = Api(gateway, settings, desk or ApiDesk())

    @asynccontextmanager
    async def live(_app: FastAPI) -> AsyncIterator[None]:
        runner = asyncio.create_task(api.runner.run())
        runner.add_done_callback(_log_end)
        try:
            yield
        finally:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)

    # The generated document pages load scripts from elsewhere; the document itself is ours.
    app = FastAPI(
        title="Paceline", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=live
    )
    app.include_router(api.build_router())
    app.include_router(Dashboard(gateway, settings).build_router())
    add_error_handlers(app)
    app.add_middleware(WebSeam)
    return app


class WebSeam:
    """The one place where an unexpected error of a request ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; complete the reply if its handler broke."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started: list[Message] = []

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            LOG.exception("web request failed: %s %r", scope["method"], scope["path"])
            if not started:
                return await INTERNAL_ERROR.to_response()(scope, receive, send)
            if not _is_event_stream(started[0]):
                raise
            await end_reply(send, encode_data(INTERNAL_ERROR.encode()))


def _log_end(runner: asyncio.Task[None]) -> None:
    if not runner.cancelled() and (error := runner.exception()) is not None:
        LOG.error("batches stand still until the next start", exc_info=error)


def _is_event_stream(start: Message) -> bool:
    return (b"content-type", EVENT_STREAM_HEADERS["content-type"].encode()) in start["headers"]
