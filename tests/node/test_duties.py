"""Duties: one runner per key, another try after a failure, and no bug that vanishes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.node import duties
from paceline.node.duties import Duties, Threads


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, moved by hand."""
    now = [1_000.0]
    monkeypatch.setattr(duties.time, "monotonic", lambda: now[0])
    return now


class Work:
    """A duty that ends when it is told how."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.problem: BaseException | None = None

    async def __call__(self) -> None:
        self.runs += 1
        await self.go.wait()
        if self.problem is not None:
            raise self.problem


def test_a_busy_duty_is_not_started_again(clock):
    async def run() -> None:
        running, work, other = Duties(), Work(), Work()
        for _ in range(3):
            running.start("a", work)
            running.start(("b", 1), other)
            await settle()
        assert (work.runs, other.runs) == (1, 1)
        await running.stop()

    asyncio.run(run())


@pytest.mark.parametrize("problem", [None, TransportError("gone"), WorkError("no blob"), Invalid("late", "too late")])
def test_an_ended_duty_may_run_again_after_its_pause(clock, problem):
    async def run() -> None:
        running, work = Duties(), Work()
        work.problem = problem
        work.go.set()
        running.start("a", work)
        await settle()
        clock[0] += duties.RETRY_SECONDS - 0.01
        running.start("a", work)
        await settle()
        assert work.runs == 1
        clock[0] += 0.01
        running.start("a", work)
        await settle()
        assert work.runs == 2
        assert not running.failure.done()

    asyncio.run(run())


def test_invalid_bug_surfaces(clock):
    async def run() -> None:
        running, work, second = Duties(), Work(), Work()
        work.problem, second.problem = ZeroDivisionError("ours"), KeyError("later")
        running.start("a", work)
        running.start("b", second)
        await settle()
        work.go.set()
        second.go.set()
        with pytest.raises(ZeroDivisionError, match="ours"):
            await running.failure
        await running.stop()

    asyncio.run(run())


def test_stop_cancels_what_runs(clock):
    async def run() -> bool:
        running, ended = Duties(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        running.start("a", work)
        await settle()
        await running.stop()
        return ended.is_set() and not running.failure.done()

    assert asyncio.run(run())


def test_pauses_that_are_over_are_forgotten(clock):
    async def run() -> None:
        running = Duties()
        for number in range(50):
            work = Work()
            work.go.set()
            running.start(number, work)
            await settle()
            clock[0] += duties.RETRY_SECONDS + 0.01
        assert len(running._not_before) <= 1
        assert running._runners == {}

    asyncio.run(run())


def test_kinds_of_work_do_not_wait_for_each_other():
    async def run() -> None:
        threads, gate = Threads(), threading.Event()
        blocked = asyncio.ensure_future(threads.run("train", gate.wait, 10))
        names = [await threads.run(kind, lambda: threading.current_thread().name) for kind in ("answer", "check")]
        assert [name.split("_")[0] for name in names] == ["answer", "check"]
        assert not blocked.done()
        gate.set()
        assert await blocked
        assert await threads.run("train", lambda *, base: base * 2, base=21) == 42
        threads.stop()

    asyncio.run(run())
