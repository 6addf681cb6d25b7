"""Several answers at once, told as one stream.

Refuses to know: what the events mean. Invariant: each source runs in one task from its start to its end, its clean-up
included; when the stream ends, for whatever reason, all sources have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

Event = TypeVar("Event")
# A reader that is slow holds the sources back instead of filling memory.
QUEUE_EVENTS = 32


async def merge_streams(sources: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Event, None]:
    """Yield the events of all sources as they come.

    Errors: the first one of any source; the others are closed then.
    """
    queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
    room = asyncio.Semaphore(QUEUE_EVENTS)
    runners = [asyncio.create_task(_pump(number, source, queue, room)) for number, source in enumerate(sources)]
    running = len(runners)
    try:
        while running:
            number, event = await queue.get()
            if event is None:
                running -= 1
                await runners[number]
            else:
                room.release()
                yield event
    finally:
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)


async def _pump(
    number: int,
    source: AsyncGenerator[Event, None],
    queue: asyncio.Queue[tuple[int, Event | None]],
    room: asyncio.Semaphore,
) -> None:
    try:
        async with aclosing(source):
            async for event in source:
                await room.acquire()
                queue.put_nowait((number, event))
    finally:
        # The end needs no room: nobody reads any more when the stream is being closed.
        queue.put_nowait((number, None))
