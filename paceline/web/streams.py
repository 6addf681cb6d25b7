"""Replies that stop the moment their reader is gone, and the framing of server-sent events.

Refuses to know: what is sent. Invariant: when a reply ends, for whatever reason, the work behind it has
been cancelled and has finished its own clean-up, in the task that started it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# Proxies that buffer would hold tokens back; nginx reads the last line.
EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class LiveResponse(Response):
    """A reply whose body is produced by `serve` while the client is there."""

    def __init__(self, serve: Callable[[Send], Coroutine[None, None, None]]) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve until done or until the client is gone."""
        await run_until_gone(self._serve(send), receive)


async def run_until_gone(work: Coroutine[None, None, None], receive: Receive) -> None:
    """Run the work; cancel it when the client is gone.

    Errors: those of the work. Effects: the work runs in one task from start to end, since a generator that is
    resumed in another task than the one that started it breaks its own time limits.
    """
    runner = asyncio.create_task(work)
    watcher = asyncio.create_task(_wait_until_gone(receive))
    try:
        await asyncio.wait({runner, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if runner.done():
            runner.result()
    finally:
        runner.cancel()
        watcher.cancel()
        await asyncio.gather(runner, watcher, return_exceptions=True)


async def start_reply(send: Send, headers: Mapping[str, str], status: int = 200) -> None:
    """Send the status line and headers. Effects: from here on an error can only be told inside the body."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_part(send: Send, body: bytes) -> None:
    """Send a part of the body."""
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # A server takes parts for a closed connection without waiting; a source that never waits either
    # would keep the event loop from noticing that the client is gone.
    await asyncio.sleep(0)


def end_reply(send: Send, body: bytes = b"") -> Awaitable[None]:
    """Send the last part of the body."""
    return send({"type": "http.response.body", "body": body, "more_body": False})


def encode_data(body: bytes) -> bytes:
    """Frame one line of data as an event."""
    return b"data: " + body + b"\n\n"


def encode_event(name: str, text: str) -> bytes:
    """Frame text of any number of lines as a named event."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n".encode()


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
