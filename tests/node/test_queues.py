"""The fair line: who passes when, who is refused, and that no slot is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.node.answers.queues import MAX_COST, QUANTUM, FairQueue, QueueFull


def make_queue(slots=1, **changes) -> FairQueue:
    limits = {"max_waiting": 100, "max_waiting_per_user": 50, "clock": lambda: 0.0, **changes}
    return FairQueue(lambda: slots, **limits)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def play(queue, asked) -> list[str]:
    """Let users wait behind one piece of work, then let them pass one by one; returns the order."""
    passed = []

    async def wait(user, cost):
        await queue.enter(user, cost)
        passed.append(user)

    await queue.enter("first", 1)
    waiting = [asyncio.create_task(wait(user, cost)) for user, cost in asked]
    await settle()
    for _ in asked:
        queue.leave(0.0)
        await settle()
    await asyncio.gather(*waiting)
    queue.leave(0.0)
    return passed


def test_free_slots_are_given_at_once():
    async def run():
        queue = make_queue(slots=2)
        await queue.enter("a", 1)
        await queue.enter("a", 1)
        waiting = asyncio.create_task(queue.enter("a", 1))
        await settle()
        assert (queue.under_way, queue.waiting) == (2, 1)
        queue.leave(1.0)
        await waiting
        assert (queue.under_way, queue.waiting) == (2, 0)

    asyncio.run(run())


def test_a_user_with_many_requests_does_not_hold_up_one_with_few():
    asked = [("greedy", QUANTUM)] * 20 + [("small", QUANTUM)] * 2
    passed = asyncio.run(play(make_queue(), asked))
    assert passed[:4].count("small") == 2


def test_shares_are_of_cost_and_not_of_requests():
    asked = [("long", 8 * QUANTUM)] * 5 + [("short", QUANTUM)] * 40
    passed = asyncio.run(play(make_queue(), asked))
    # Both have spent about the same when the short ones have all passed.
    last_short = max(at for at, user in enumerate(passed) if user == "short")
    assert 4 <= passed[:last_short].count("long") <= 5
    assert passed[:9].count("short") >= 7


def test_one_user_s_requests_keep_their_order():
    async def run():
        queue, passed = make_queue(), []

        async def wait(number):
            await queue.enter("a", number)
            passed.append(number)

        await queue.enter("b", 1)
        waiting = [asyncio.create_task(wait(number)) for number in (3, 1, 2)]
        for _ in range(3):
            await settle()
            queue.leave(0.0)
        await asyncio.gather(*waiting)
        return passed

    assert asyncio.run(run()) == [3, 1, 2]


@pytest.mark.parametrize(("limits", "others"), [({"max_waiting": 3}, "b"), ({"max_waiting_per_user": 3}, "a")])
def test_invalid_request_beyond_a_limit(limits, others):
    async def run():
        queue = make_queue(**limits)
        await queue.enter("first", 1)
        waiting = [asyncio.create_task(queue.enter(others, 1)) for _ in range(2)]
        await settle()
        waiting.append(asyncio.create_task(queue.enter("a", 1)))
        await settle()
        assert queue.waiting == 3
        with pytest.raises(QueueFull) as caught:
            await queue.enter("a", 1)
        assert queue.waiting == 3
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return caught.value

    assert asyncio.run(run()).retry_after_seconds >= 1


def test_the_time_to_come_back_follows_the_work():
    queue = make_queue(max_waiting=0)

    async def run():
        await queue.enter("a", 1)
        for _ in range(200):
            queue.under_way += 1
            queue.leave(20.0)
        with pytest.raises(QueueFull) as caught:
            await queue.enter("a", 1)
        return caught.value.retry_after_seconds

    assert asyncio.run(run()) == 20


def test_who_leaves_the_line_loses_no_slot():
    async def run():
        queue = make_queue()
        await queue.enter("a", 1)
        gone = asyncio.create_task(queue.enter("b", 1))
        stays = asyncio.create_task(queue.enter("c", 1))
        await settle()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert queue.waiting == 1
        queue.leave(0.0)
        await stays
        queue.leave(0.0)
        assert (queue.under_way, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_a_turn_that_comes_in_the_moment_of_leaving_goes_to_the_next():
    async def run():
        queue = make_queue()
        await queue.enter("a", 1)
        gone = asyncio.create_task(queue.enter("b", 1))
        stays = asyncio.create_task(queue.enter("c", 1))
        await settle()
        queue.leave(0.0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await stays
        assert (queue.under_way, queue.waiting) == (1, 0)

    asyncio.run(run())


def test_a_line_without_executors_still_lets_one_try():
    async def run():
        queue = make_queue(slots=0)
        async with queue.admit("a", 10 * MAX_COST):
            return queue.under_way

    assert asyncio.run(run()) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5 * QUANTUM)), max_size=30), st.integers(1, 4))
def test_everybody_passes_once_and_no_more_than_slots_at_once(asked, slots):
    async def run():
        queue, inside, most, passed = make_queue(slots=slots), 0, 0, 0

        async def work(user, cost):
            nonlocal inside, most, passed
            async with queue.admit(user, cost):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1
            passed += 1

        await asyncio.gather(*(work(user, cost) for user, cost in asked))
        assert (queue.under_way, queue.waiting) == (0, 0)
        return most, passed

    most, passed = asyncio.run(run())
    assert passed == len(asked)
    assert most <= slots
