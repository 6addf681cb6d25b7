"""A bounded waiting line in front of scarce work, fair between those who wait: deficit round robin.

Everybody in line gets an equal share of what passes, measured in cost and not in requests, so that one user's long
requests cannot push another's short ones aside. It refuses to know what the work is. Invariant: at most `slots()` pieces of
work are under way, whoever was let in leaves once, and who finds the line full is told at once when to come back.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from paceline.base.errors import WorkError

QUANTUM = 64
"""Cost that a user in line may spend more in each round."""
MAX_COST = 256 * QUANTUM
"""A dearer piece counts as this much, so that a round trip around the line stays short."""
SMOOTHING = 0.1
MAX_RETRY_SECONDS = 60


class QueueFull(WorkError):
    """The line is full, altogether or for this user. Nothing was begun."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass
class _Line:
    """What one user waits for, and the cost that it may spend in this round."""

    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)
    deficit: int = 0


class FairQueue:
    """Admits work in fair order. Belongs to one event loop."""

    def __init__(
        self,
        slots: Callable[[], int],
        *,
        max_waiting: int,
        max_waiting_per_user: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_waiting_per_user = max_waiting_per_user
        self._clock = clock
        self._lines: OrderedDict[Hashable, _Line] = OrderedDict()
        self._mean_seconds = 1.0
        self.under_way = 0
        self.waiting = 0

    @asynccontextmanager
    async def admit(self, user: Hashable, cost: int) -> AsyncIterator[None]:
        """Wait for a turn, and hold the slot while the block runs. Errors: QueueFull."""
        await self.enter(user, cost)
        began = self._clock()
        try:
            yield
        finally:
            self.leave(self._clock() - began)

    async def enter(self, user: Hashable, cost: int) -> None:
        """Wait for a turn; who got it calls `leave` once. Errors: QueueFull."""
        line = self._lines.get(user)
        if line is None and self._has_room() and not self.waiting:
            self.under_way += 1
            return
        if self.waiting >= self._max_waiting or (line and len(line.waiting) >= self._max_waiting_per_user):
            raise QueueFull("this node is at its limit of waiting requests", self.estimate_wait_seconds())
        line = self._lines.setdefault(user, _Line())
        turn = asyncio.get_running_loop().create_future()
        line.waiting.append((min(max(1, cost), MAX_COST), turn))
        self.waiting += 1
        self._advance()
        await self._wait(user, turn)

    def leave(self, held_seconds: float) -> None:
        """A piece of work is over."""
        assert self.under_way > 0
        self.under_way -= 1
        self._mean_seconds += SMOOTHING * (held_seconds - self._mean_seconds)
        self._advance()

    def estimate_wait_seconds(self) -> int:
        """When a place in line should be free again, from how long the work took of late."""
        seconds = self._mean_seconds * (self.waiting + 1) / max(1, self._slots())
        return min(MAX_RETRY_SECONDS, max(1, round(seconds)))

    def _has_room(self) -> bool:
        return self.under_way < max(1, self._slots())

    async def _wait(self, user: Hashable, turn: asyncio.Future[None]) -> None:
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Cancelled in the moment in which the turn came: it must not be lost.
                self.under_way -= 1
                self._advance()
            else:
                self._forget(user, turn)
            raise

    def _forget(self, user: Hashable, turn: asyncio.Future[None]) -> None:
        line = self._lines[user]
        line.waiting = deque(item for item in line.waiting if item[1] is not turn)
        self.waiting -= 1
        if not line.waiting:
            del self._lines[user]

    def _advance(self) -> None:
        """Let in whoever may go now: the head of the round while its deficit lasts, then the next."""
        while self._lines and self._has_room():
            user, line = next(iter(self._lines.items()))
            cost, turn = line.waiting[0]
            if line.deficit < cost:
                line.deficit += QUANTUM
                self._lines.move_to_end(user)
                continue
            line.deficit -= cost
            line.waiting.popleft()
            if not line.waiting:
                # Who has nothing to ask saves nothing up.
                del self._lines[user]
            self.waiting -= 1
            self.under_way += 1
            turn.set_result(None)
