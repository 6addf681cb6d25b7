"""The dashboard: its pages, and for each a stream of events that keeps it current.

Refuses to know: what the panels say. Invariant: a viewer gets each panel at most once per refresh, only when
it reads differently, and leaves nothing running when it goes.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Protocol

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Send

from paceline.node.views import Busy, Gateway, Topic
from paceline.web.assets import load_assets
from paceline.web.economy_panels import EVENTS, PAGE, EconomyPanels, build_economy_templates
from paceline.web.panels import Panels
from paceline.web.settings import WebSettings
from paceline.web.streams import EVENT_STREAM_HEADERS, LiveResponse, encode_event, end_reply, send_part, start_reply

# Nothing from elsewhere and no script in the page. Styles: the chart library puts its own rules into the page.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
KEEP_ALIVE_SECONDS = 15.0
RECONNECT = b"retry: 1000\n\n"
KEEP_ALIVE = b": still here\n\n"


class LivePanels(Protocol):
    """The panels of one page."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which they are sent."""
        ...

    def names_of(self, topic: Topic) -> tuple[str, ...]:
        """Those that news of a topic may change."""
        ...

    def render(self, name: str) -> str:
        """What one reads now."""
        ...


class Dashboard:
    """The pages over one gateway."""

    def __init__(self, gateway: Gateway, settings: WebSettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._panels = Panels(gateway)
        self._economy_templates = build_economy_templates()
        self._assets = load_assets()
        self._viewers = 0

    def build_router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/", self.get_page, methods=["GET"])
        router.add_api_route("/events", self.get_events, methods=["GET"])
        router.add_api_route(PAGE, self.get_economy, methods=["GET"])
        router.add_api_route(EVENTS, self.get_economy_events, methods=["GET"])
        router.add_api_route("/static/{digest}/{name}", self._assets.get_asset, methods=["GET"])
        return router

    async def get_page(self) -> Response:
        """Render the page."""
        keys = self._settings.api_keys_required
        html = self._panels.render_page(self._assets.get_path, api_keys_required=keys)
        return Response(html, headers=PAGE_HEADERS, media_type="text/html")

    async def get_economy(self, node: str = "") -> Response:
        """Render the page on money, with the reward of one node."""
        html = self._look_at_money(node).render_page(self._assets.get_path)
        return Response(html, headers=PAGE_HEADERS, media_type="text/html")

    async def get_events(self) -> Response:
        """Stream panels as they change. Errors: Busy when enough people watch already, answered as 429."""
        return self._stream(self._panels)

    async def get_economy_events(self, node: str = "") -> Response:
        """Stream the panels on money. Errors: as `get_events`."""
        return self._stream(self._look_at_money(node))

    def _look_at_money(self, node: str) -> EconomyPanels:
        return EconomyPanels(self._gateway, node, self._economy_templates)

    def _stream(self, panels: LivePanels) -> Response:
        if self._viewers >= self._settings.max_viewers:
            raise Busy("Enough people watch this node already.", retry_after_seconds=10)
        return LiveResponse(lambda send: self._serve_events(panels, send))

    async def _serve_events(self, panels: LivePanels, send: Send) -> None:
        self._viewers += 1
        inbox = _Inbox(panels.names)
        listener = asyncio.create_task(self._listen(panels, inbox))
        try:
            # It listens before the first panel is rendered: what changes in between is seen.
            await asyncio.sleep(0)
            await start_reply(send, EVENT_STREAM_HEADERS)
            await send_part(send, RECONNECT)
            await self._send_changes(panels, inbox, send)
            await end_reply(send)
        finally:
            self._viewers -= 1
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self, panels: LivePanels, inbox: _Inbox) -> None:
        try:
            async with aclosing(self._gateway.changes()) as changes:
                async for topic in changes:
                    inbox.put(panels.names_of(topic))
        finally:
            inbox.close()

    async def _send_changes(self, panels: LivePanels, inbox: _Inbox, send: Send) -> None:
        sent: dict[str, str] = {}
        while not inbox.closed:
            for name in inbox.take():
                text = panels.render(name)
                if sent.get(name) != text:
                    sent[name] = text
                    await send_part(send, encode_event(name, text))
            await asyncio.sleep(self._settings.refresh_seconds)
            while not await inbox.wait(KEEP_ALIVE_SECONDS):
                await send_part(send, KEEP_ALIVE)


class _Inbox:
    """The panels that a viewer has not seen since they changed; all of them at first."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._all = names
        self._names = set(names)
        self._filled = asyncio.Event()
        self.closed = False

    def put(self, names: tuple[str, ...]) -> None:
        self._names.update(names)
        if names:
            self._filled.set()

    def close(self) -> None:
        self.closed = True
        self._filled.set()

    def take(self) -> list[str]:
        names = [name for name in self._all if name in self._names]
        self._names.clear()
        self._filled.clear()
        return names

    async def wait(self, seconds: float) -> bool:
        """Wait for a change; False when there was none in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return False
        return True
