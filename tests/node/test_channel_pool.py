"""What a relay keeps of its channels: opened, drawn late, passed on, used up, forgotten by a restart, closed until it is done."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from channel_relay_setup import COST, MOST_TOKENS, draw, make_setting, open_channel
from role_setup import KEYS, MODEL, RELAY, USER

from paceline.base.errors import ConfigError, Invalid, InvalidTransaction, TransportError
from paceline.ledger.accounts import RESERVE, get_account, move_coins
from paceline.ledger.channel_records import CHANNELS, CLOSING, DRAWING, compute_channel_id, remove_channel
from paceline.node.answers.queues import FairQueue
from paceline.node.duties import Duties
from paceline.node.roles.channel_relay import LOOK_BLOCKS, ChannelPool
from paceline.node.roles.relay_sessions import DEPOSIT
from paceline.node.settings import MAX_CHANNELS, NodeSettings, PeerEntry
from paceline.node.views import UpstreamFailed
from paceline.protocol.channels import CloseChannel, PassChannel

OPENED = compute_channel_id(USER.address, b"h" * 32)
"""Of the channel that a relay's own message opens."""


@pytest.fixture
def setting(tmp_path, monkeypatch):
    return make_setting(tmp_path, monkeypatch)


def restart(setting, size=0):
    """The relay's next run, which knows of no channel."""
    setting.relay_context.duties.started.clear()
    setting.relay_context.chain.sent.clear()
    return ChannelPool(setting.relay_context, MODEL, USER, size)


def do_duties(setting):
    asyncio.run(setting.do_duties())


def make_busy(setting):
    setting.executor.line = FairQueue(lambda: 1, max_waiting=0, max_waiting_per_user=0)
    setting.executor.line.under_way = 1


async def fail_to_ask(setting):
    with pytest.raises(UpstreamFailed):
        await setting.ask()


def test_a_second_request_at_the_same_time_goes_to_the_session(setting):
    assert setting.relay.channels.take(MOST_TOKENS) is setting.lane
    assert setting.relay.channels.take(MOST_TOKENS) is None
    setting.lane.busy = False
    assert setting.relay.channels.take(setting.lane.left // setting.lane.token_price + 1) is None
    setting.change(status=CLOSING)
    assert setting.relay.channels.take(MOST_TOKENS) is None


def test_lanes_are_opened_up_to_their_number_and_closed_when_used_up(setting):
    pool = ChannelPool(setting.relay_context, MODEL, USER, 2)
    pool._lanes[setting.channel_id] = setting.lane
    pool.prepare()
    assert ("open-channel", MODEL) in setting.relay_context.duties.started
    setting.relay_context.duties.started.clear()
    setting.lane.total = setting.record.deposit * 3 // 4 + 1
    pool.prepare()
    assert ("close-channel", setting.channel_id) in setting.relay_context.duties.started
    assert pool.lanes == []
    do_duties(setting)
    none = restart(setting)
    none.prepare()
    assert setting.relay_context.duties.started == {}


@pytest.mark.parametrize("blocks", [1, 500])
def test_a_channel_that_the_beacon_draws_late_is_used_then_and_no_other_is_opened_before(setting, blocks):
    pool = setting.relay.channels
    pool._lanes.clear()
    pool._next_look = 10**6
    pool.prepare()
    do_duties(setting)
    assert CHANNELS.get(setting.state, OPENED).status == DRAWING
    for _ in range(blocks):
        setting.state.height += 1
        pool.prepare()
        assert (pool.lanes, setting.relay_context.duties.started) == ([], {})
    draw(setting.state, OPENED)
    pool.prepare()
    [lane] = pool.lanes
    assert (lane.channel_id, lane.executor) == (OPENED, CHANNELS.get(setting.state, OPENED).executor)
    assert setting.relay_context.duties.started == {}


def test_a_channel_that_nobody_was_there_to_take_is_followed_by_another(setting):
    pool = restart(setting, size=1)
    pool._next_look = 10**6
    pool.prepare()
    do_duties(setting)
    remove_channel(setting.state, OPENED, CHANNELS.get(setting.state, OPENED))
    pool.prepare()
    assert pool.lanes == []
    assert ("open-channel", MODEL) in setting.relay_context.duties.started


def test_a_beacon_that_never_speaks_does_not_end_the_node(setting):
    async def story():
        setting.relay_context.duties = duties = Duties()
        pool = ChannelPool(setting.relay_context, MODEL, USER, 1)
        pool.prepare()
        while CHANNELS.get(setting.state, OPENED) is None or duties._runners:  # noqa: ASYNC110 - duties have no event
            await asyncio.sleep(0)
        assert not duties.failure.done()
        await duties.stop()

    asyncio.run(story())
    assert CHANNELS.get(setting.state, OPENED).status == DRAWING


def test_a_channel_on_its_way_to_the_next_executor_is_not_handed_out(setting):
    make_busy(setting)

    async def story():
        await fail_to_ask(setting)
        assert not setting.lane.busy
        assert setting.relay.channels.take(MOST_TOKENS) is None
        setting.relay.channels.prepare()
        assert setting.relay.channels.take(MOST_TOKENS) is None
        await setting.do_duties()
        # The ledger has named the next one; the lane is still the former one's.
        assert setting.relay.channels.take(MOST_TOKENS) is None

    setting.run(story)
    assert [type(m) for m in setting.relay_context.chain.sent] == [PassChannel]


def test_a_channel_that_was_passed_on_begins_anew_with_the_next_executor(setting):
    make_busy(setting)
    former, old_lane = setting.key, setting.lane

    async def pass_on():
        await fail_to_ask(setting)
        await setting.do_duties()

    async def ask_next():
        await setting.ask()
        await setting.do_duties()

    setting.run(pass_on)
    setting.relay.channels.prepare()
    [lane] = setting.relay.channels.lanes
    assert lane.executor == setting.record.executor != former.address
    setting.seat()
    setting.run(ask_next)
    agreed = setting.executor.book.get_agreed(setting.channel_id)
    assert agreed == lane.signed
    assert (agreed.state.count, agreed.state.executor, agreed.state.total) == (1, setting.key.address, COST)
    assert old_lane.signed is None


def test_invalid_state_of_an_executor_that_lost_the_channel_while_it_answered(setting, monkeypatch):
    commit = type(setting.host)._commit
    other = next(key for key in KEYS if key not in (setting.key, RELAY))

    def lose(token_price, receipt):
        setting.change(executor=other.address)
        return commit(setting.host, token_price, receipt)

    monkeypatch.setattr(setting.host, "_commit", lose)
    setting.run(lambda: fail_to_ask(setting))
    assert (setting.lane.signed, setting.lane.owed, setting.lane.tree.count) == (None, None, 0)
    assert setting.relay_context.duties.started == {}
    assert [lane.executor for lane in setting.relay.channels.lanes] == [setting.key.address]
    setting.relay.channels.prepare()
    assert [lane.executor for lane in setting.relay.channels.lanes] == [other.address]


def test_a_pass_that_the_ledger_refuses_leaves_the_channel_as_it_was(setting):
    make_busy(setting)
    setting.relay_context.chain.refusals = [InvalidTransaction("too-late", "test")]

    async def story():
        await fail_to_ask(setting)
        with pytest.raises(InvalidTransaction, match="too-late"):
            await setting.do_duties()
        assert setting.relay.channels.take(MOST_TOKENS) is setting.lane

    setting.run(story)


def test_a_pass_that_a_duty_did_not_take_up_is_begun_again(setting):
    make_busy(setting)
    setting.run(lambda: fail_to_ask(setting))
    # As duties do with a key that ended a moment ago.
    setting.relay_context.duties.started.clear()
    setting.relay.channels.prepare()
    do_duties(setting)
    assert setting.record.executor != setting.key.address


def test_an_answer_that_was_signed_for_is_never_passed_on(setting):
    async def story():
        await setting.ask()
        make_busy(setting)
        await fail_to_ask(setting)
        setting.relay_context.duties.started.pop(("countersign", setting.channel_id, 1))
        assert setting.relay_context.duties.started == {}

    setting.run(story)
    assert setting.lane.passing is None


def test_an_executor_that_is_called_late_claims_what_both_signed_and_ends_the_channel(setting):
    async def story():
        await setting.ask()
        await setting.do_duties()

    setting.run(story)
    setting.host.on_block(setting.state)
    assert setting.context.duties.started == {}
    setting.change(is_doubted=True)
    setting.host.on_block(setting.state)
    do_duties(setting)
    assert (setting.record.status, setting.record.state) == (CLOSING, setting.lane.signed.state)


def test_a_restarted_relay_closes_what_it_forgot_and_the_executor_is_paid_all_the_same(setting):
    async def story():
        await setting.ask()
        await setting.ask()
        await setting.do_duties()

    setting.run(story)
    pool = restart(setting, size=1)
    pool._undrawn.add(OPENED)
    pool.prepare()
    assert pool.take(MOST_TOKENS) is None
    do_duties(setting)
    assert CloseChannel(setting.channel_id, None) in setting.relay_context.chain.sent
    setting.host.on_block(setting.state)
    do_duties(setting)
    assert (setting.record.status, setting.record.state.count) == (CLOSING, 2)


def test_only_own_open_channels_are_forgotten_ones(setting):
    changed = (("relay", KEYS[1].address), ("model", "other"), ("owner", RELAY.address), ("status", DRAWING))
    for name, value in changed:
        channel_id = open_channel(setting.state, mark=name[:1].encode())
        record = CHANNELS.get(setting.state, channel_id)
        CHANNELS.put(setting.state, channel_id, msgspec.structs.replace(record, **{name: value}))
    pool = restart(setting)
    pool.prepare()
    assert list(setting.relay_context.duties.started) == [("close-channel", setting.channel_id)]


@pytest.mark.parametrize(("blocks", "found"), [(LOOK_BLOCKS - 1, False), (LOOK_BLOCKS, True)])
def test_the_ledger_is_searched_now_and_then_and_not_while_a_channel_is_being_opened(setting, blocks, found):
    pool = restart(setting)
    pool._lanes[setting.channel_id] = setting.lane
    pool.prepare()
    pool._lanes.clear()
    setting.state.height += blocks
    pool._opening = True
    pool.prepare()
    assert setting.relay_context.duties.started == {}
    pool._opening = False
    pool.prepare()
    assert (("close-channel", setting.channel_id) in setting.relay_context.duties.started) is found


@pytest.mark.parametrize("problem", [TransportError("no block"), InvalidTransaction("over-balance", "test")])
def test_a_failed_close_is_tried_again_with_the_same_state_until_it_is_done(setting, problem):
    async def story():
        await setting.ask()
        await setting.do_duties()

    setting.run(story)
    chain = setting.relay_context.chain
    chain.refusals = [problem]
    setting.relay.channels.close(setting.lane)
    with pytest.raises((TransportError, Invalid)):
        do_duties(setting)
    setting.relay.channels.prepare()
    do_duties(setting)
    closes = [message for message in chain.sent if isinstance(message, CloseChannel)]
    assert closes == [CloseChannel(setting.channel_id, setting.lane.signed)] * 2
    assert setting.record.status == CLOSING
    setting.relay.channels.prepare()
    assert ("close-channel", setting.channel_id) not in setting.relay_context.duties.started


def test_a_relay_whose_user_has_nothing_left_closes_all_the_same(setting):
    setting.relay.channels = restart(setting, size=1)
    funds = get_account(setting.state, USER.address).balance
    move_coins(setting.state, USER.address, RESERVE, funds - DEPOSIT)
    setting.relay.prepare()
    assert list(setting.relay_context.duties.started) == [("close-channel", setting.channel_id)]


@pytest.mark.parametrize("number", [-1, MAX_CHANNELS + 1])
def test_invalid_number_of_channels(number):
    peer = PeerEntry(name="node-1", public_key="", url="")
    fine = NodeSettings(name="node-1", sequencer="node-1", peers=(peer,), channels=MAX_CHANNELS)
    with pytest.raises(ConfigError, match="channels must be from 0"):
        msgspec.structs.replace(fine, channels=number)
