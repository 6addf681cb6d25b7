"""Ten times more requests than the network can take: some are told when to come back, all others are answered whole."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest
from role_setup import REQUEST
from test_relay_order import END, PROMPT_TOKENS, Setting

from paceline.node.answers.load import Load, TokenMeter
from paceline.node.roles import relay_sessions
from paceline.node.roles.relay import Started
from paceline.node.views import Busy
from paceline.protocol.answers import TextFrame
from paceline.protocol.codec import encode

CAPACITY = 8


class CountingPeers:
    """Executors that answer slowly and note how many they answer at once."""

    def __init__(self) -> None:
        self.under_way = self.most = self.ended = 0

    def name_of(self, address: bytes) -> str:
        return address.hex()[:6]

    async def stream(self, _executor, _path, _body, _traceparent=""):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(4):
                yield encode(TextFrame("x"))
                await asyncio.sleep(0)
            self.ended += 1
            yield encode(END)
        finally:
            self.under_way -= 1


@pytest.fixture
def setting(tmp_path, monkeypatch) -> Setting:
    setting = Setting(tmp_path)
    setting.peers = setting.context.peers = CountingPeers()
    for address in setting.order():
        setting.context.chain.loads[address] = Load(slots=1, max_waiting=CAPACITY // 4 - 1)
    monkeypatch.setattr(relay_sessions, "REOPEN_SHARE", 1_000)
    return setting


async def ask(setting, user: str) -> str:
    try:
        text = ""
        async with aclosing(setting.role.ask(REQUEST, PROMPT_TOKENS, user)) as events:
            async for event in events:
                if isinstance(event, TextFrame):
                    text += event.text
                elif not isinstance(event, Started):
                    return "whole" if text == "xxxx" and event == END else "cut"
    except Busy as busy:
        return "busy" if 1 <= busy.retry_after_seconds <= 60 else "no time to come back"
    return "lost"


def test_tenfold_overload_is_refused_in_part_and_lost_in_nothing(setting, monkeypatch):
    monkeypatch.setattr(setting.role.line, "_max_waiting", 16)
    asked = 10 * (CAPACITY + 16)

    async def run() -> Counter[str]:
        found = await asyncio.gather(*(ask(setting, f"user-{number % 4}") for number in range(asked)))
        await setting.role.stop()
        return Counter(found)

    outcomes = asyncio.run(run())
    assert outcomes == {"whole": CAPACITY + 16, "busy": asked - CAPACITY - 16}
    assert setting.peers.most == CAPACITY
    assert (setting.role.line.under_way, setting.role.line.waiting) == (0, 0)
    # A refused request took no index: nothing is promised, and no executor is owed anything for it.
    assert setting.opened.next_index == setting.peers.ended == CAPACITY + 16
    assert "paceline_relay_requests_total" in setting.context.metrics.render()


def test_a_flood_of_one_user_leaves_the_others_their_turn(setting):
    order: list[str] = []

    async def note(user: str) -> None:
        if await ask(setting, user) == "whole":
            order.append(user)

    async def run() -> None:
        await asyncio.gather(*(note("flood") for _ in range(60)), *(note("quiet") for _ in range(4)))
        await setting.role.stop()

    asyncio.run(run())
    assert order.count("quiet") == 4
    # The quiet user came last and is done long before the flood is.
    assert max(at for at, user in enumerate(order) if user == "quiet") < len(order) // 2


def test_the_meter_forgets_what_is_long_over():
    now = [100.0]
    meter = TokenMeter(lambda: now[0])
    meter.add(30)
    now[0] = 105.0
    meter.add(20)
    assert meter.compute_rate_milli() == 5_000
    now[0] = 111.0
    assert meter.compute_rate_milli() == 2_000
    now[0] = 200.0
    assert (meter.compute_rate_milli(), meter.total) == (0, 50)
