"""A node that dies in the middle of an answer is followed by the next drawn; the client sees one answer, and pays once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from role_setup import REQUEST
from test_relay_order import END, PROMPT_TOKENS, Setting

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.ledger import tasks
from paceline.ledger.sessions import SESSIONS
from paceline.node.answers.continuation import Continuation
from paceline.node.roles.relay import Started
from paceline.node.views import UpstreamFailed
from paceline.protocol.answers import EndFrame, TextFrame
from paceline.protocol.messages import Receipt
from paceline.protocol.params import TINY

TEXT = "The quick brown fox."


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path)


def cut(text: str, size: int) -> list[TextFrame]:
    return [TextFrame(text[at : at + size]) for at in range(0, len(text), size)]


def join(events) -> str:
    return "".join(event.text for event in events if isinstance(event, TextFrame))


def test_the_next_drawn_goes_on_where_the_first_broke_off(setting):
    first, second, *_ = setting.order()
    setting.peers.scripts = {
        first: [*cut(TEXT, 3)[:3], TransportError("gone")],
        second: [*cut(TEXT, 4), END],
    }
    events = setting.ask()
    assert join(events) == TEXT
    assert [event.executor for event in events if isinstance(event, Started)] == [first, second]
    assert events[-1] == END
    assert setting.asked() == [first, second]


def test_both_vouchers_name_one_index_so_that_the_ledger_pays_once(setting):
    first, second, *_ = setting.order()
    setting.peers.scripts = {first: [TextFrame("The"), TransportError("gone")], second: [*cut(TEXT, 4), END]}
    setting.ask()
    vouchers = [order.voucher for _, order in setting.peers.asked]
    assert [voucher.index for voucher in vouchers] == [0, 0]
    paid = Receipt(vouchers[1], bytes(32), PROMPT_TOKENS, 2)
    tasks.apply_receipts(setting.state, TINY, "roles-1", second, (paid,), 0)
    left = SESSIONS.get(setting.state, setting.session_id).left
    with pytest.raises(InvalidTransaction, match="already-paid"):
        tasks.apply_receipts(setting.state, TINY, "roles-1", first, (Receipt(vouchers[0], bytes(32), 10, 1),), 0)
    assert SESSIONS.get(setting.state, setting.session_id).left == left


def test_invalid_other_text_from_the_next_node_never_reaches_the_client(setting):
    first, second, third, fourth = setting.order()
    setting.peers.scripts = {
        first: [TextFrame("The quick"), TransportError("gone")],
        second: [TextFrame("The slow brown fox."), END],
        third: [TextFrame("The"), END],
        fourth: [*cut(TEXT, 6), END],
    }
    events = setting.ask()
    assert join(events) == TEXT
    assert setting.asked() == [first, second, third, fourth]
    setting.peers.scripts = {
        address: [TextFrame(str(n)), TransportError("gone")] for n, address in enumerate(setting.order(1))
    }
    with pytest.raises(UpstreamFailed, match=r"broke off.*differs"):
        setting.ask()


def test_a_client_that_leaves_during_the_second_answer_ends_it(setting):
    first, second, *_ = setting.order()
    setting.peers.scripts = {first: [TextFrame("T"), TransportError("gone")], second: [*cut(TEXT, 1), END]}
    setting.ask(stop_after=5)
    assert setting.peers.hung_up == [first, second]
    assert setting.opened.active == 0
    assert setting.role.line.under_way == 0


@given(st.text(max_size=40), st.integers(0, 40), st.integers(1, 7), st.integers(1, 7))
def test_whatever_the_cuts_the_client_sees_one_answer(text, broken_at, first_size, second_size):
    sent = Continuation()
    seen = []
    sent.restart()
    seen += [sent.admit(frame) for frame in cut(text[:broken_at], first_size)]
    sent.restart()
    seen += [fresh for frame in cut(text, second_size) if (fresh := sent.admit(frame)) is not None]
    sent.end()
    assert "".join(frame.text for frame in seen) == text


def test_a_slow_client_holds_the_relay_and_not_the_executor(setting):
    """The executor's stream is read to its end though the client has taken one event."""
    first = setting.order()[0]
    setting.peers.scripts = {first: [*cut(TEXT * 50, 5), END]}

    async def run():
        async with aclosing(setting.role.ask(REQUEST, PROMPT_TOKENS)) as answer:
            started = await anext(answer)
            while not setting.peers.hung_up:  # noqa: ASYNC110 - a fake without events
                await asyncio.sleep(0)
            rest = [event async for event in answer]
        await setting.role.stop()
        return started, rest

    started, rest = asyncio.run(run())
    assert isinstance(started, Started)
    assert join(rest) == TEXT * 50
    assert isinstance(rest[-1], EndFrame)
    # What waited was joined into few frames.
    assert len(rest) < 5
