"""Runs what is due without doing it twice at once. A duty is named by a key; a failed one may be tried again later."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from paceline.base.errors import Invalid, TransportError, WorkError

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
BACKGROUND = ("idle", "race")
"""Kinds of work that step back when anything else on the machine wants its core."""
BACKGROUND_NICENESS = 10
WAITING_THREADS = 32
"""Threads that only wait for another process of the node."""

P = ParamSpec("P")
T = TypeVar("T")


class Duties:
    """Runners by key, on one event loop."""

    def __init__(self) -> None:
        self._runners: dict[Hashable, asyncio.Task[None]] = {}
        self._not_before: dict[Hashable, float] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` unless a runner with this key is busy or failed a moment ago."""
        if key in self._runners or time.monotonic() < self._not_before.get(key, 0.0):
            return
        self._runners[key] = asyncio.create_task(self._run(key, work))

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
        runners = list(self._runners.values())
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)

    async def _run(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Invalid, TransportError, WorkError) as problem:
            LOG.info("duty %s: %s: %s", key, type(problem).__name__, problem)
        except asyncio.CancelledError:
            raise
        except BaseException as bug:
            # Our own bug must stop the node, not vanish in a runner nobody awaits.
            if not self.failure.done():
                self.failure.set_exception(bug)
            raise
        finally:
            self._not_before[key] = time.monotonic() + RETRY_SECONDS
            del self._runners[key]
            self._forget_old()

    def _forget_old(self) -> None:
        now = time.monotonic()
        for key in [key for key, until in self._not_before.items() if until < now]:
            del self._not_before[key]


class Threads:
    """One thread per kind of work, so that none queues behind another; more for answers where the operator says so.

    `stream` has many, because its work is to wait for answers of another process.

    torch itself runs single-threaded.
    """

    def __init__(self, answers: int = 1) -> None:
        self._pools = {
            kind: ThreadPoolExecutor(
                {"answer": answers, "stream": WAITING_THREADS}.get(kind, 1),
                thread_name_prefix=kind,
                initializer=lower_priority if kind in BACKGROUND else None,
            )
            for kind in ("answer", "ceremony", "check", "idle", "race", "stream", "train")
        }

    async def run(self, kind: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function on the thread of its kind."""
        call = lambda: function(*args, **kwargs)  # noqa: E731 - keyword arguments for the executor
        return await asyncio.get_running_loop().run_in_executor(self._pools[kind], call)

    def submit(self, kind: str, function: Callable[[], None]) -> None:
        """Start a plain function on the thread of its kind without waiting."""
        self._pools[kind].submit(function)

    def stop(self) -> None:
        """Take no more work; what runs is told to stop by its own flag."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Let all other threads of the machine go first. Effects: on Linux, where a priority belongs to a thread; elsewhere none."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        # Below the rest of this process, whatever its own niceness; the system cuts what is over its highest.
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + BACKGROUND_NICENESS)
