"""Reads a stream ahead of its reader into a bounded buffer, so that a slow client does not hold what feeds it.

Text that waits is joined, so the buffer costs what the text weighs. It refuses to know where frames come from.
Invariant: at most `limit_bytes` and one frame wait; a reader that takes nothing for `stall_seconds` while the buffer is full
loses the stream; the source runs in one runner from start to end and has cleaned up when the reader is told of the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from paceline.node.views import UpstreamFailed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Buffering(Generic[T]):
    """How much may wait, for how long a full buffer stays unread, what a frame weighs, and how two become one."""

    limit_bytes: int
    stall_seconds: float
    measure: Callable[[T], int]
    join: Callable[[T, T], T | None]


class _Buffer(Generic[T]):
    def __init__(self, rules: Buffering[T]) -> None:
        self._rules = rules
        self._frames: deque[T] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._ended = False

    async def put(self, frame: T) -> None:
        while self._bytes >= self._rules.limit_bytes:
            self._emptied.clear()
            try:
                async with asyncio.timeout(self._rules.stall_seconds):
                    await self._emptied.wait()
            except TimeoutError:
                seconds = round(self._rules.stall_seconds)
                raise UpstreamFailed(f"the client took nothing for {seconds} seconds; the answer was ended") from None
        joined = self._rules.join(self._frames[-1], frame) if self._frames else None
        if joined is None:
            self._frames.append(frame)
        else:
            self._frames[-1] = joined
        self._bytes += self._rules.measure(frame)
        self._filled.set()

    async def take(self) -> T | None:
        while not self._frames:
            if self._ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        frame = self._frames.popleft()
        self._bytes -= self._rules.measure(frame)
        self._emptied.set()
        return frame

    def end(self) -> None:
        self._ended = True
        self._filled.set()


async def read_ahead(source: AsyncGenerator[T, None], rules: Buffering[T]) -> AsyncGenerator[T, None]:
    """The frames of `source` in order; errors of the source come after what it gave before.

    Errors: UpstreamFailed when the reader stalled. Effects: closing it closes the source and waits for that.
    """
    buffer: _Buffer[T] = _Buffer(rules)
    runner = asyncio.create_task(_fill(source, buffer))
    try:
        while (frame := await buffer.take()) is not None:
            yield frame
        await runner
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


async def _fill(source: AsyncGenerator[T, None], buffer: _Buffer[T]) -> None:
    try:
        async with aclosing(source) as frames:
            async for frame in frames:
                await buffer.put(frame)
    finally:
        buffer.end()
