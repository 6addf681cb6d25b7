"""The search gets out of the way of an answer: it stands still meanwhile, goes on after it, and never outlives its window."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from types import SimpleNamespace

import pytest
from role_setup import KEYS, make_context, make_state

from paceline.node.answers.serving import Serving
from paceline.node.duties import BACKGROUND, BACKGROUND_NICENESS, Threads
from paceline.node.roles import racer
from paceline.node.roles.racer import RaceRole
from paceline.race.check import BATCH
from paceline.race.claim import SlicedSearch
from paceline.race.plan import PRESETS, RaceChallenge

CHALLENGE = RaceChallenge(PRESETS["micro"], b"r" * 32)
LONG = 20.0
"""Longer than anything here takes; reached only by a test that fails."""


def test_nobody_waits_while_nothing_is_under_way():
    assert Serving().wait_idle(0.0)


def test_the_last_piece_of_work_wakes_who_waits():
    serving, waiting = Serving(), threading.Event()
    serving.begin()
    found = []

    def wait():
        waiting.set()
        found.append(serving.wait_idle(LONG))

    with serving.hold():
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(LONG)
    assert found == []
    serving.end()
    thread.join(LONG)
    assert found == [True]


def test_invalid_wait_is_given_up_after_its_time():
    serving = Serving()
    with serving.hold():
        assert not serving.wait_idle(0.0)


def test_work_that_fails_is_over_too():
    serving = Serving()
    with pytest.raises(ValueError, match="broken"), serving.hold():
        raise ValueError("broken")
    assert serving.wait_idle(0.0)


def test_invalid_end_without_a_beginning():
    with pytest.raises(AssertionError):
        Serving().end()


def make_race_role(folder, height=10):
    return RaceRole(make_context(make_state(height=height), KEYS[1], folder))


def test_no_nonce_is_tried_while_an_answer_is_in_the_making(tmp_path):
    role = make_race_role(tmp_path)
    serving, searching = role._context.serving, SlicedSearch(CHALLENGE, KEYS[1].public_key)
    pause, reached, tried = role._yield_until(20), threading.Event(), []

    def stop():
        tried.append(searching.next_nonce)
        reached.set()
        return len(tried) > 4

    serving.begin()
    thread = threading.Thread(target=searching.run_slice, args=(stop, pause))
    thread.start()
    assert reached.wait(LONG)
    # The search has asked whether to go on, and waits in the pause that follows.
    assert (tried, searching.next_nonce) == ([0], 0)
    serving.end()
    thread.join(LONG)
    assert searching.next_nonce == 4 * PRESETS["micro"].batch


def test_the_second_look_at_the_hits_makes_room_too():
    searching, pauses = SlicedSearch(CHALLENGE, KEYS[1].public_key), []
    batches = iter(range(40))
    hits = searching.run_slice(lambda: next(batches) == 39, lambda: pauses.append(1))
    assert len(pauses) == 39 + -(-len(hits) // BATCH)


def test_a_pause_ends_with_the_window_though_requests_never_do(tmp_path, monkeypatch):
    role = make_race_role(tmp_path, height=19)
    state, waits = role._context.chain.state, []

    def wait_idle(_seconds):
        waits.append(state.height)
        state.height += 1
        return False

    monkeypatch.setattr(role._context, "serving", SimpleNamespace(wait_idle=wait_idle))
    role._yield_until(21)()
    assert waits == [19, 20]
    assert racer.WAIT_SECONDS <= 1


def test_only_background_work_has_a_low_priority():
    async def run():
        threads = Threads()
        nice = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())  # noqa: E731
        found = {kind: await threads.run(kind, nice) for kind in ("answer", "check", "idle", "race", "train")}
        threads.stop()
        return found

    found = asyncio.run(run())
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert BACKGROUND == ("idle", "race")
    lowered = min(19, own + BACKGROUND_NICENESS) if sys.platform == "linux" else own
    assert found == {"answer": own, "check": own, "train": own, "idle": lowered, "race": lowered}
