"""The relay's side of a channel over real peers: states signed answer by answer, failures at every step, channels that end."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from channel_relay_setup import (
    COST,
    make_setting,
    wait_made,
)
from role_setup import (
    CHAIN_ID,
)

from paceline.base.errors import TransportError
from paceline.ledger import channel_closes, nodes
from paceline.ledger.sessions import compute_task_id
from paceline.node.answers.channel_book import ChannelBook
from paceline.node.answers.queues import FairQueue
from paceline.node.roles.channel_relay import MAX_FAILURES
from paceline.node.roles.channels import PATH
from paceline.node.roles.relay import Started
from paceline.node.views import UpstreamFailed
from paceline.protocol.answers import (
    EndFrame,
    FailFrame,
    StateFrame,
    TextFrame,
)
from paceline.protocol.channels import (
    CloseChannel,
)
from paceline.protocol.codec import encode
from paceline.protocol.messages import BUSY, LATE
from paceline.protocol.params import TINY


@pytest.fixture
def setting(tmp_path, monkeypatch):
    return make_setting(tmp_path, monkeypatch)


def test_answers_flow_beside_the_ledger_and_both_sign_after_each(setting):
    async def story():
        for index in range(3):
            events = await setting.ask()
            assert events[0] == Started(
                compute_task_id(setting.channel_id, index), setting.key.address, TINY.unit_price
            )
            assert "".join(e.text for e in events if isinstance(e, TextFrame)) == "ab"
            assert isinstance(events[-1], EndFrame)
        await setting.do_duties()

    setting.run(story)
    assert (setting.lane.tree.count, setting.lane.total, setting.lane.busy) == (3, 3 * COST, False)
    agreed = setting.executor.book.get_agreed(setting.channel_id)
    assert agreed == setting.lane.signed
    key = nodes.NODES.get(setting.state, setting.key.address).public_key
    channel_closes.check_state(TINY, CHAIN_ID, setting.record, key, agreed)
    # Neither side told the ledger anything, and the session was not touched.
    assert setting.relay_context.chain.sent == setting.context.chain.sent == []
    assert setting.relay.sessions.current.next_index == 0


def test_a_client_that_leaves_pays_for_what_was_made_with_the_next_answer(setting):
    async def story():
        await setting.ask(stop_after=2)
        await wait_made(setting, 1)
        await setting.ask()

    setting.run(story)
    assert setting.lane.tree.count == 2
    assert setting.lane.failures == 0


def forge(setting, monkeypatch, **changes):
    """An executor whose account is not what was asked for, with a signature that fits its account."""
    honest = ChannelBook.add_leaf

    def add(book, channel, leaf):
        return honest(book, channel, msgspec.structs.replace(leaf, **changes))

    def commit(token_price, receipt):
        frame = type(setting.host)._commit(setting.host, token_price, receipt)
        return StateFrame(msgspec.structs.replace(frame.leaf, **changes), frame.signature)

    monkeypatch.setattr(ChannelBook, "add_leaf", add)
    monkeypatch.setattr(setting.host, "_commit", commit)


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": COST + 1, "total": COST + 1},
        {"prompt_tokens": 50, "cost": 53 * TINY.unit_price, "total": 53 * TINY.unit_price},
        {"prompt_hash": bytes(32)},
        {"payload_hash": bytes(32)},
    ],
)
def test_invalid_account_of_the_executor_is_not_signed_and_ends_the_channel(setting, monkeypatch, changes):
    forge(setting, monkeypatch, **changes)

    async def story():
        with pytest.raises(UpstreamFailed):
            await setting.ask()
        await setting.do_duties()

    setting.run(story)
    assert setting.lane.signed is None
    assert setting.relay.channels.lanes == []
    assert setting.relay_context.chain.sent == [CloseChannel(setting.channel_id, None)]


def test_a_busy_executor_is_passed_by_its_own_mark_and_never_serves_the_channel_again(setting):
    setting.executor.line = FairQueue(lambda: 1, max_waiting=0, max_waiting_per_user=0)
    setting.executor.line.under_way = 1

    async def story():
        with pytest.raises(UpstreamFailed):
            await setting.ask()
        await setting.do_duties()

    setting.run(story)
    [message] = setting.relay_context.chain.sent
    assert (message.channel, message.kind) == (setting.channel_id, BUSY)
    assert setting.record.executor != setting.key.address
    assert setting.executor.book.get(setting.channel_id).refused


def test_an_executor_that_does_not_answer_is_called_late_once_and_a_session_answers(setting):
    asked = []

    class Dead:
        def name_of(self, address):
            return address.hex()

        async def stream(self, address, path, body, traceparent=""):
            asked.append(path)
            if path == PATH:
                raise TransportError("gone")
            yield encode(TextFrame("s"))
            yield encode(EndFrame("stop", 1, 1, bytes(32)))

    setting.relay_context.peers = Dead()

    async def story():
        first = await setting.ask()
        await setting.do_duties()
        second = await setting.ask()
        await setting.relay.stop()
        return first, second

    for events in asyncio.run(story()):
        assert isinstance(events[-1], EndFrame)
    assert asked == [PATH, "task", "task"]
    [message] = setting.relay_context.chain.sent
    assert (message.channel, message.kind) == (setting.channel_id, LATE)
    assert setting.record.is_doubted


def test_an_executor_that_sells_answers_and_shows_none_is_paid_for_one_at_most(setting):
    async def story():
        await setting.ask()
        setting.cut = TextFrame
        for made in (2, 3):
            with pytest.raises(UpstreamFailed):
                await setting.ask()
            await wait_made(setting, made)
        with pytest.raises(UpstreamFailed):
            await setting.ask()
        await setting.do_duties()

    setting.run(story)
    assert setting.relay.channels.lanes == []
    assert setting.record.state.count == 2
    assert (setting.lane.tree.count, setting.executor.book.get(setting.channel_id).count) == (2, 3)


def test_an_executor_that_keeps_failing_is_left(setting):
    async def fail(_request):
        yield encode(FailFrame("work-failed", "no model"))

    async def story():
        await setting.ask()
        setting.host.serve = fail
        for _ in range(MAX_FAILURES):
            assert setting.relay.channels.lanes
            with pytest.raises(UpstreamFailed):
                await setting.ask()

    setting.run(story)
    assert setting.relay.channels.lanes == []
