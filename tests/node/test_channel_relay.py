"""Answers through a channel over real peers: states signed index by index, deaths at every step, and what the ledger is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest
import uvicorn
from role_setup import (
    CHAIN_ID,
    MODEL,
    RELAY,
    REQUEST,
    USER,
    FakeChain,
    find_key,
    make_context,
    make_group_key,
    make_state,
    open_session,
)

from paceline.base.errors import ConfigError, Invalid, TransportError
from paceline.base.hashing import hash_blob
from paceline.base.keys import AccountKey
from paceline.ledger import channel_closes, channels, nodes
from paceline.ledger.channel_records import CHANNELS, CLOSING, OPEN, OPENING, compute_channel_id, put_channel
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.tasks import CHECKING, TASKS
from paceline.network.client import Peer, PeerClient
from paceline.network.sealing import unseal
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.network.wire import PeerRequest
from paceline.node.answers import answering
from paceline.node.answers.channel_book import ChannelBook
from paceline.node.answers.payloads import PATH as PAYLOAD_PATH
from paceline.node.answers.payloads import PayloadReply, PayloadRequest
from paceline.node.answers.queues import FairQueue
from paceline.node.roles import executor
from paceline.node.roles.channel_relay import MAX_FAILURES, ChannelPool, Lane
from paceline.node.roles.channels import CLAIM_BLOCKS, PATH, SIGN_PATH, ChannelHost, find_drawn
from paceline.node.roles.executor import ExecutorRole
from paceline.node.roles.relay import RelayRole, Started
from paceline.node.roles.relay_sessions import OpenedSession
from paceline.node.settings import MAX_CHANNELS, NodeSettings, PeerEntry
from paceline.node.views import UpstreamFailed
from paceline.protocol.answers import (
    ChannelOrder,
    EndFrame,
    FailFrame,
    StateFrame,
    TextFrame,
    decode_frame,
)
from paceline.protocol.channels import (
    ClaimChannel,
    CloseChannel,
    Countersigned,
    Leaf,
    OpenChannel,
    OpenLeaves,
    PassChannel,
)
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import BUSY, LATE
from paceline.protocol.params import NICOIN_PER_COIN, TINY

PROMPT_TOKENS = 5
MAX_COST = (PROMPT_TOKENS + REQUEST.max_tokens) * TINY.token_price
COST = (PROMPT_TOKENS + 3) * TINY.token_price


class LedgerChain(FakeChain):
    """Applies what is sent to the state that every node of the test reads."""

    def __init__(self, state, sender) -> None:
        super().__init__(state)
        self._sender = sender

    async def send(self, message, *, key=None):
        reply = await super().send(message, key=key)
        sender = (key or self._sender).address
        match message:
            case CloseChannel():
                channel_closes.apply_close(self.state, TINY, CHAIN_ID, sender, message)
            case ClaimChannel():
                channel_closes.apply_claim(self.state, TINY, CHAIN_ID, sender, message)
            case OpenLeaves():
                channel_closes.apply_leaves(self.state, TINY, sender, message, 0)
            case PassChannel():
                channels.apply_pass(self.state, TINY, CHAIN_ID, sender, message, 0)
        return reply


def open_channel(state, *, mark=b"c", deposit=100 * NICOIN_PER_COIN) -> bytes:
    """The user's channel with its executor drawn."""
    transaction = mark * 32
    channels.apply_open(
        state, TINY, USER.address, USER.public_key, transaction, OpenChannel(RELAY.address, MODEL, deposit, 500)
    )
    channel_id = compute_channel_id(USER.address, transaction)
    channel = CHANNELS.get(state, channel_id)
    drawn = msgspec.structs.replace(
        channel, status=OPEN, seed=b"s" * 32, version=nodes.get_version(state), drawn_at=state.height
    )
    channels._seat(state, TINY, 0, channel_id, drawn)
    return channel_id


class Setting:
    """A relay and the executor of its channel, each with a folder of its own, over one state."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.state = make_state()
        self.session_id = open_session(self.state)
        self.channel_id = open_channel(self.state)
        self.key = find_key(self.record.executor)
        self.context = make_context(self.state, self.key, folder / "executor", chain=LedgerChain(self.state, self.key))
        self.context.threads = SimpleNamespace(run=run_in_thread)
        self.relay_context = make_context(self.state, RELAY, folder / "relay", chain=LedgerChain(self.state, RELAY))
        self.cut = None
        """A kind of frame that kills the executor instead of leaving it."""
        self.start_executor()
        self.relay = RelayRole(self.relay_context, MODEL, USER, channels=1)
        self.relay.sessions.current = OpenedSession(self.session_id, SESSIONS.get(self.state, self.session_id))
        self.lane = Lane(self.channel_id, self.key.address, self.record.deposit)
        self.relay.channels._lanes[self.channel_id] = self.lane

    @property
    def record(self):
        return CHANNELS.get(self.state, self.channel_id)

    def start_executor(self) -> None:
        """A new process over the same folder."""
        self.executor = ExecutorRole(self.context, SimpleNamespace(get=get_model), make_group_key(self.key))
        self.host = ChannelHost(self.context, self.executor)

    def change(self, **changes) -> None:
        put_channel(self.state, self.channel_id, msgspec.structs.replace(self.record, **changes))

    async def serve(self, request):
        async with aclosing(self.host.serve(request)) as frames:
            async for frame in frames:
                if self.cut is not None and isinstance(decode_frame(frame), self.cut):
                    return
                yield frame

    async def sign(self, request):
        return await self.host.sign(request)

    async def hand_out(self, request):
        return await self.executor.hand_out(request)

    @asynccontextmanager
    async def peers(self):
        handlers = {
            PATH: self.serve,
            SIGN_PATH: self.sign,
            PAYLOAD_PATH: self.hand_out,
        }
        identity = PeerIdentity(address=self.key.address, chain_id=CHAIN_ID)
        app = create_peer_app(handlers, blobs=SimpleNamespace(), identity=identity)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        runner = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            async with PeerClient(RELAY, CHAIN_ID) as client:
                self.relay_context.peers = FoundPeers(client, self.key.address, url)
                yield
        finally:
            await self.relay.stop()
            server.should_exit = True
            await runner

    async def ask(self, *, stop_after=None):
        events = []
        async with aclosing(self.relay.ask(REQUEST, PROMPT_TOKENS)) as answer:
            async for event in answer:
                events.append(event)
                if len(events) == stop_after:
                    break
        return events

    async def do_duties(self) -> None:
        for context in (self.relay_context, self.context):
            started, context.duties.started = context.duties.started, {}
            for work in started.values():
                await work()

    def run(self, story):
        async def play():
            async with self.peers():
                return await story()

        return asyncio.run(play())


class FoundPeers:
    """The executor over its socket; nobody else is there."""

    def __init__(self, client, address, url) -> None:
        self._client, self._peer = client, Peer(url, address)

    def name_of(self, address) -> str:
        return address.hex()

    def stream(self, address, path, body, traceparent=""):
        return self._client.stream(self._find(address), path, body, traceparent)

    async def request(self, name, path, body):
        return await self._client.request(self._find(bytes.fromhex(name)), path, body)

    def _find(self, address):
        if address != self._peer.address:
            raise TransportError("nobody there")
        return self._peer


async def get_model(model_id, *, cheap=False):
    return SimpleNamespace(model_id=model_id, cheap=cheap, traced_states=0)


async def run_in_thread(_kind, function, *arguments):
    return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """Three steps instead of a model; a prompt of five tokens."""
    steps = [SimpleNamespace(text=text, finish_reason=None) for text in ("a", "", "b")]

    def generate(_model, _generation, *, should_stop, top_logprobs, states):
        for step in steps:
            yield step
            if should_stop():
                return

    monkeypatch.setattr("paceline.inference.backend.generate", generate)
    monkeypatch.setattr(executor, "build_generation", lambda *_: SimpleNamespace(prompt_tokens=(1, 2, 3, 4, 5)))
    monkeypatch.setattr(answering, "build_transcript", lambda *_: SimpleNamespace(finish_reason="stop"))
    monkeypatch.setattr(answering, "encode_transcript", lambda _: b"transcript")
    return Setting(tmp_path)


def test_answers_flow_beside_the_ledger_and_both_sign_after_each(setting):
    async def story():
        for index in range(3):
            events = await setting.ask()
            assert events[0] == Started(compute_task_id(setting.channel_id, index), setting.key.address)
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
    kept = len(list((setting.folder / "executor" / "work" / "payloads").glob("*.payload")))
    assert kept == len(TASKS.items(setting.state))


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


def test_a_client_that_leaves_pays_for_what_was_made_with_the_next_answer(setting):
    async def story():
        await setting.ask(stop_after=2)
        await wait_made(setting, 1)
        await setting.ask()

    setting.run(story)
    assert setting.lane.tree.count == 2
    assert setting.lane.failures == 0


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
    setting.change(status=OPEN, deposit=(PROMPT_TOKENS + REQUEST.max_tokens) * TINY.token_price - 1)
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


def forge(setting, monkeypatch, **changes):
    """An executor whose account is not what was asked for, with a signature that fits its account."""
    honest = ChannelBook.add_leaf

    def add(book, channel, leaf):
        return honest(book, channel, msgspec.structs.replace(leaf, **changes))

    def commit(receipt):
        frame = type(setting.host)._commit(setting.host, receipt)
        return StateFrame(msgspec.structs.replace(frame.leaf, **changes), frame.signature)

    monkeypatch.setattr(ChannelBook, "add_leaf", add)
    monkeypatch.setattr(setting.host, "_commit", commit)


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": COST + 1, "total": COST + 1},
        {"prompt_tokens": 50, "cost": 53 * TINY.token_price, "total": 53 * TINY.token_price},
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


async def wait_made(setting, count):
    """Until the executor has so many leaves, and nothing in the making."""
    task_id = compute_task_id(setting.channel_id, count - 1)
    while setting.executor.book.get(setting.channel_id).count < count or setting.executor.is_making(task_id):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


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


def test_a_second_request_at_the_same_time_goes_to_the_session(setting):
    assert setting.relay.channels.take(MAX_COST) is setting.lane
    assert setting.relay.channels.take(MAX_COST) is None
    setting.lane.busy = False
    assert setting.relay.channels.take(setting.lane.left + 1) is None
    setting.change(status=CLOSING)
    assert setting.relay.channels.take(MAX_COST) is None


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
    none = ChannelPool(setting.relay_context, MODEL, USER, 0)
    setting.relay_context.duties.started.clear()
    none.prepare()
    assert setting.relay_context.duties.started == {}


def test_a_channel_that_was_passed_on_begins_anew_with_the_next_executor(setting):
    setting.change(executor=next(k for k in nodes.NODES.items(setting.state) if k[0] != setting.key.address)[0])
    setting.lane.total = 5
    setting.relay.channels.prepare()
    [lane] = setting.relay.channels.lanes
    assert (lane.executor, lane.total) == (setting.record.executor, 0)


@pytest.mark.parametrize("number", [-1, MAX_CHANNELS + 1])
def test_invalid_number_of_channels(number):
    peer = PeerEntry(name="node-1", public_key="", url="")
    fine = NodeSettings(name="node-1", sequencer="node-1", peers=(peer,), channels=MAX_CHANNELS)
    with pytest.raises(ConfigError, match="channels must be from 0"):
        msgspec.structs.replace(fine, channels=number)


def test_invalid_file_in_the_place_of_the_book(tmp_path):
    path = tmp_path / "channels.sqlite"
    path.write_bytes(b"something else entirely, long enough to be read as a header" * 20)
    with pytest.raises(ConfigError, match="cannot claim its channels"):
        ChannelBook(path, RELAY, CHAIN_ID)
