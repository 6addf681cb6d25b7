"""Whether this node works on a user's request just now, so that the Race's search can get out of the way.

It counts pieces of work and wakes who waits for none to be left; what the work is, or who waits, it refuses to know.
Invariant: each piece that began ends once, so the count is never negative, and with nothing under way nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Serving:
    """Requests under way on one node; safe to use from every thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._under_way = 0

    def begin(self) -> None:
        """A piece of work for a user begins."""
        with self._changed:
            self._under_way += 1

    def end(self) -> None:
        """A piece of work that began is over, however it ended."""
        with self._changed:
            assert self._under_way > 0
            self._under_way -= 1
            self._changed.notify_all()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Begin, and end when the block is left."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Block the calling thread until nothing is under way; False when something still is after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._under_way == 0, timeout_seconds)
