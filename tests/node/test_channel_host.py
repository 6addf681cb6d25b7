"""The executor's side of a channel over real peers: what is on disk, what is claimed and opened, which orders are refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest
from channel_relay_setup import (
    COST,
    PROMPT_TOKENS,
    make_setting,
)
from role_setup import (
    CHAIN_ID,
    RELAY,
    REQUEST,
    USER,
)

from paceline.base.errors import ConfigError, Invalid
from paceline.base.hashing import hash_blob
from paceline.base.keys import AccountKey
from paceline.ledger import channel_closes, channels
from paceline.ledger.channel_records import CLOSING, OPEN, OPENING
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import CHECKING, TASKS
from paceline.network.sealing import unseal
from paceline.network.wire import PeerRequest
from paceline.node.answers.channel_book import ChannelBook
from paceline.node.answers.payloads import PATH as PAYLOAD_PATH
from paceline.node.answers.payloads import PayloadReply, PayloadRequest
from paceline.node.roles.channels import CLAIM_BLOCKS, PATH, SIGN_PATH, find_drawn
from paceline.node.views import UpstreamFailed
from paceline.protocol.answers import (
    ChannelOrder,
    EndFrame,
    FailFrame,
    StateFrame,
    decode_frame,
)
from paceline.protocol.channels import (
    ClaimChannel,
    CloseChannel,
    Countersigned,
    Leaf,
)
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.params import TINY


@pytest.fixture
def setting(tmp_path, monkeypatch):
    return make_setting(tmp_path, monkeypatch)


@pytest.mark.parametrize("cut", [StateFrame, EndFrame])
def test_an_executor_killed_between_answer_and_signature_loses_nothing(setting, cut):
    async def story():
        await setting.ask()
        setting.cut = cut
        with pytest.raises(UpstreamFailed):
            await setting.ask()
        setting.cut = None
        setting.executor.book.close()
        setting.start_executor()
        # Before the next answer the user signs for the one that broke off.
        await setting.ask()
        await setting.do_duties()

    setting.run(story)
    assert (setting.lane.tree.count, setting.lane.total) == (3, 3 * COST)
    assert setting.executor.book.get_agreed(setting.channel_id) == setting.lane.signed
    assert setting.lane.failures == 0


def test_from_the_first_answer_to_opened_leaves_and_payloads_for_checkers(setting):
    async def story():
        for _ in range(4):
            await setting.ask()
        setting.relay.channels.close(setting.lane)
        await setting.do_duties()
        assert setting.record.status == CLOSING
        assert setting.record.state.count == 4
        # Both windows end, and the beacon draws.
        setting.state.height = setting.record.deadline
        channels._finish(setting.state, TINY, setting.channel_id, setting.record)
        setting.change(status=OPENING, sample_seed=b"x" * 32, points=4, deadline=10_000)
        drawn = find_drawn(setting.record, setting.executor.book.list_leaves(setting.channel_id, 4))
        setting.host.on_block(setting.state)
        await setting.do_duties()
        tasks = {task.index: task for _, task in TASKS.items(setting.state)}
        assert sorted(tasks) == [leaf.index for leaf in drawn]
        setting.executor._maker.vault.sweep(
            setting.state, setting.key.address, setting.executor.book.list_tasks(setting.state)
        )
        checker = RELAY
        task_id = compute_task_id(setting.channel_id, drawn[0].index)
        TASKS.put(setting.state, task_id, msgspec.structs.replace(tasks[drawn[0].index], status=CHECKING))
        sealed = await setting.relay_context.peers.request(
            setting.key.address.hex(), PAYLOAD_PATH, encode(PayloadRequest(task_id))
        )
        reply = decode_own(PayloadReply, unseal(checker, sealed))
        assert hash_blob(reply.payload) == drawn[0].payload_hash

    setting.run(story)
    kept = len(list((setting.context.work_path / "payloads").glob("*.payload")))
    assert kept == len(TASKS.items(setting.state))


def test_a_book_survives_a_kill_right_behind_the_leaf(tmp_path):
    """The process dies with the leaf on disk and its signature sent to nobody."""
    key, channel = AccountKey.from_secret(b"k" * 32), b"c" * 16
    program = (
        "import os, sys; from pathlib import Path; from paceline.node.answers.channel_book import ChannelBook\n"
        "from paceline.base.keys import AccountKey; from paceline.protocol.channels import Leaf\n"
        "book = ChannelBook(Path(sys.argv[1]), AccountKey.from_secret(b'k' * 32), 'roles-1')\n"
        "leaf = Leaf(index=0, prompt_hash=bytes(32), payload_hash=bytes(32), prompt_tokens=1, completion_tokens=1,\n"
        "    cost=2, total=2)\n"
        "signature = book.add_leaf(b'c' * 16, leaf); print(signature.hex(), flush=True); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "channels.sqlite"
    died = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert died.returncode == -9
    book = ChannelBook(path, key, CHAIN_ID)
    account = book.get(channel)
    assert (account.count, account.total, account.agreed) == (1, 2, 0)
    assert account.signature.hex() == died.stdout.strip()
    other = Leaf(
        index=0, prompt_hash=b"o" * 32, payload_hash=bytes(32), prompt_tokens=1, completion_tokens=1, cost=2, total=2
    )
    # No second state of one count, ever.
    with pytest.raises(Invalid, match="wrong-index"):
        book.add_leaf(channel, other)
    book.close()


def make_order(setting, owed=None, **changes):
    order = ChannelOrder(setting.channel_id, owed, msgspec.structs.replace(REQUEST, **changes))
    return PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path=PATH, body=encode(order))


async def collect(setting, request):
    return [decode_frame(frame) async for frame in setting.host.serve(request)]


def test_invalid_second_request_without_the_users_signature_for_the_first(setting):
    first = asyncio.run(collect(setting, make_order(setting)))
    assert isinstance(first[-1], EndFrame)
    again = asyncio.run(collect(setting, make_order(setting)))
    assert [type(frame) for frame in again] == [StateFrame, FailFrame]
    assert again[0] in first
    assert again[1].code == "unsigned"
    assert setting.executor.book.get(setting.channel_id).count == 1


def test_invalid_orders(setting):
    def refuse(request=None, **changes):
        with pytest.raises(Invalid) as caught:
            asyncio.run(collect(setting, request or make_order(setting, **changes)))
        return caught.value.code

    assert refuse(stranger(make_order(setting))) == "unknown-channel"
    assert refuse(model="other") == "wrong-model"
    setting.state.height = setting.record.expires_at - 2 * CLAIM_BLOCKS
    assert refuse() == "channel-over"
    setting.state.height -= 1
    setting.change(status=CLOSING)
    assert refuse() == "channel-over"
    setting.change(status=OPEN, deposit=(PROMPT_TOKENS + REQUEST.max_tokens) * TINY.unit_price - 1)
    assert refuse() == "over-maximum"
    setting.executor.book.refuse(setting.channel_id)
    assert refuse() == "channel-refused"


def stranger(request):
    key = USER
    return PeerRequest(sender=key.public_key, sender_address=key.address, path=PATH, body=request.body)


def test_invalid_signatures_of_the_user(setting):
    [*_, told, _] = asyncio.run(collect(setting, make_order(setting)))
    state = setting.executor.book.get(setting.channel_id).last
    assert isinstance(told, StateFrame)

    def send(state, key=USER):
        owed = Countersigned(state, key.sign(state.signed_bytes(CHAIN_ID)))
        request = PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path=SIGN_PATH, body=encode(owed))
        asyncio.run(setting.host.sign(request))

    with pytest.raises(Invalid, match="wrong-state"):
        send(msgspec.structs.replace(state, total=state.total - 1))
    with pytest.raises(Invalid, match="bad-state"):
        send(state, RELAY)
    assert setting.executor.book.get_agreed(setting.channel_id) is None
    send(state)
    assert setting.executor.book.get_agreed(setting.channel_id).state == state


def test_a_relay_that_vanishes_leaves_the_last_state_to_the_executor(setting):
    async def story():
        await setting.ask()
        await setting.ask()
        await setting.do_duties()
        setting.host.on_block(setting.state)
        assert setting.context.duties.started == {}
        setting.state.height = setting.record.expires_at - CLAIM_BLOCKS
        setting.host.on_block(setting.state)
        await setting.do_duties()

    setting.run(story)
    assert setting.record.state.count == 2
    [claim] = setting.context.chain.sent
    assert claim == ClaimChannel(setting.lane.signed)


def test_an_owner_that_closes_with_less_is_answered_with_the_later_state(setting):
    async def story():
        await setting.ask()
        old = setting.lane.signed
        await setting.ask()
        await setting.do_duties()
        close = CloseChannel(setting.channel_id, old)
        channel_closes.apply_close(setting.state, TINY, CHAIN_ID, USER.address, close)
        setting.host.on_block(setting.state)
        await setting.do_duties()

    setting.run(story)
    assert setting.record.state.count == 2
    setting.host.on_block(setting.state)
    assert setting.context.duties.started == {}


def test_invalid_file_in_the_place_of_the_book(tmp_path):
    path = tmp_path / "channels.sqlite"
    path.write_bytes(b"something else entirely, long enough to be read as a header" * 20)
    with pytest.raises(ConfigError, match="cannot claim its channels"):
        ChannelBook(path, RELAY, CHAIN_ID)
