"""Reading ahead: order, bounds, what a slow reader costs, and that the source always cleans up."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from paceline.node.answers.pump import Buffering, read_ahead
from paceline.node.views import UpstreamFailed


def make_rules(**changes) -> Buffering[str]:
    rules = {"limit_bytes": 8, "stall_seconds": 60.0, "measure": len, "join": lambda _a, _b: None, **changes}
    return Buffering(**rules)


class Source:
    """Gives its pieces; remembers how far it was read and whether it was closed."""

    def __init__(self, pieces, problem=None) -> None:
        self.pieces, self.problem = pieces, problem
        self.given, self.closed = 0, False

    async def stream(self):
        try:
            for piece in self.pieces:
                self.given += 1
                yield piece
                await asyncio.sleep(0)
            if self.problem:
                raise self.problem
        finally:
            self.closed = True


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


def test_everything_arrives_in_order():
    source = Source([str(number) for number in range(50)])

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules())) as frames:
            return [frame async for frame in frames]

    assert asyncio.run(run()) == source.pieces
    assert source.closed


def test_waiting_text_is_joined():
    source = Source(list("abcdef"))

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules(join=lambda a, b: a + b))) as frames:
            first = await anext(frames)
            await settle()
            return [first, *[frame async for frame in frames]]

    assert asyncio.run(run()) == ["a", "bcdef"]


def test_a_full_buffer_stops_the_source_until_it_is_read():
    source = Source(["xxxx"] * 10)

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules())) as frames:
            await anext(frames)
            await settle()
            held = source.given
            rest = [frame async for frame in frames]
            return held, rest

    held, rest = asyncio.run(run())
    # One taken, two in the buffer, one in the hand.
    assert held == 4
    assert len(rest) == 9


def test_invalid_reader_that_takes_nothing():
    source = Source(["xxxx"] * 10)

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules(stall_seconds=0.01))) as frames:
            await anext(frames)
            while not source.closed:  # noqa: ASYNC110 - a fake without events
                await asyncio.sleep(0.001)
            return [frame async for frame in frames]

    with pytest.raises(UpstreamFailed, match="took nothing"):
        asyncio.run(run())


def test_invalid_source_s_problem_comes_after_what_it_gave():
    source = Source(["a", "b"], problem=UpstreamFailed("gone"))
    seen = []

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules())) as frames:
            async for frame in frames:
                seen.append(frame)  # noqa: PERF401 - what was seen before the problem counts

    with pytest.raises(UpstreamFailed, match="gone"):
        asyncio.run(run())
    assert seen == ["a", "b"]


def test_a_reader_that_leaves_closes_the_source_before_it_goes_on():
    source = Source(["a"] * 1_000)

    async def run():
        async with aclosing(read_ahead(source.stream(), make_rules())) as frames:
            await anext(frames)
        return source.closed

    assert asyncio.run(run())
    assert source.given < 20
