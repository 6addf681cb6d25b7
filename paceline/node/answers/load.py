"""How busy a node is: what it tells its peers of itself, and how it measures that.

It counts tokens of the last seconds and refuses to know what they say. Invariant: a `Load` is plain integers that anybody may
lie about, so it steers who waits where and never who is drawn, paid or punished.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record

WINDOW_SECONDS = 10.0
Amount = Annotated[int, Meta(ge=0, le=2**40)]


class Load(Record, frozen=True, kw_only=True):
    """What an executor says of itself. `slots` answers are made at once, `max_waiting` more may stand in line."""

    slots: Amount = 0
    max_waiting: Amount = 0
    under_way: Amount = 0
    waiting: Amount = 0
    tokens_per_second_milli: Amount = 0
    free_context_tokens: Amount = 0
    """Tokens that the free slots could still hold."""
    wake_milliseconds: Amount = 0
    """How long its model took to load, while it is released; 0 while it is there."""


IDLE = Load()


class TokenMeter:
    """Tokens per second over the last seconds; safe to use from every thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._by_second: deque[tuple[int, int]] = deque()
        self.total = 0

    def add(self, tokens: int) -> None:
        """So many tokens came out just now."""
        second = int(self._clock())
        with self._lock:
            self.total += tokens
            same = bool(self._by_second) and self._by_second[-1][0] == second
            before = self._by_second.pop()[1] if same else 0
            self._by_second.append((second, before + tokens))
            self._forget(second)

    def compute_rate_milli(self) -> int:
        """Thousandths of a token per second over the window."""
        with self._lock:
            self._forget(int(self._clock()))
            return round(1_000 * sum(tokens for _, tokens in self._by_second) / WINDOW_SECONDS)

    def _forget(self, now_second: int) -> None:
        while self._by_second and self._by_second[0][0] <= now_second - WINDOW_SECONDS:
            self._by_second.popleft()
