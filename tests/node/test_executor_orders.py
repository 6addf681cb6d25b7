"""What an executor takes, what it refuses and why, and that no receipt is lost."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import (
    KEYS,
    RELAY,
    REQUEST,
    USER,
    change_session,
    find_key,
    get_order,
    make_context,
    make_group_key,
    make_late_mark,
    make_order,
    make_state,
    open_session,
)

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.base.hashing import hash_blob
from paceline.base.keys import verify_signature
from paceline.inference.backend import TorchBackend
from paceline.inference.embed import VectorPlan
from paceline.inference.run import TokenStep
from paceline.ledger import attendance, nodes, registration, tasks
from paceline.ledger.sessions import compute_task_id
from paceline.network.wire import PeerRequest
from paceline.node.answers import answering
from paceline.node.answers.answering import Answer
from paceline.node.answers.frames import FrameWriter
from paceline.node.roles import executor
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.answers import (
    EmbedRequest,
    EndFrame,
    FailFrame,
    Payload,
    TaskOrder,
    TextFrame,
    TokenLogprob,
    TokenPrompt,
    VectorFrame,
    decode_frame,
)
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import BUSY, DescribeNode, Receipt, SubmitReceipts
from paceline.protocol.params import TINY


class Setting:
    """The first executor of a task with its role and the order that it should take."""

    def __init__(self, folder, *, drawn: bool = True) -> None:
        self.state = make_state()
        self.session_id = open_session(self.state, drawn=drawn)
        twin = make_state()
        self.executor = get_order(twin, open_session(twin))[0]
        self.folder = folder
        self.context = make_context(self.state, find_key(self.executor), folder)
        self.role = ExecutorRole(self.context, SimpleNamespace(), make_group_key(self.context.key))

    def check(self, *, relay=RELAY.address, **changes):
        order = make_order(self.session_id, **{"executor": self.executor, **changes})
        return self.role._check_order(self.state, relay, order)

    def refuse(self, **changes) -> str:
        with pytest.raises(Invalid) as caught:
            self.check(**changes)
        return caught.value.code


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path)


def receive(setting, order) -> PeerRequest:
    return PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path="task", body=encode(order))


async def collect(frames) -> list:
    return [decode_frame(frame) async for frame in frames]


def make_receipt(setting, index: int, executor_address=None) -> tuple[Receipt, bytes]:
    address = executor_address or get_order(setting.state, setting.session_id, index)[0]
    voucher = make_order(setting.session_id, address, index=index).voucher
    return Receipt(voucher, bytes(32), 3, 4), compute_task_id(setting.session_id, index)


def keep_receipt(setting, index: int) -> bytes:
    receipt, task_id = make_receipt(setting, index)
    (setting.folder / "work" / "receipts" / f"{task_id.hex()}.receipt").write_bytes(encode(receipt))
    return task_id


def test_a_drawn_order_is_taken(setting):
    session, task_id = setting.check()
    assert session.owner == USER.address
    assert task_id == compute_task_id(setting.session_id, 0)


def test_every_node_of_the_drawn_order_may_answer_when_those_before_it_are_skipped(setting):
    skips = ()
    for address in get_order(setting.state, setting.session_id):
        key = find_key(address)
        context = make_context(setting.state, key, setting.folder / address.hex())
        role = ExecutorRole(context, None, make_group_key(key))
        order = make_order(setting.session_id, address, skips=skips)
        assert role._check_order(setting.state, RELAY.address, order)
        skips = (*skips, make_late_mark(setting.state, setting.session_id, address))
    with pytest.raises(Invalid, match="unskipped"):
        role._check_order(setting.state, RELAY.address, make_order(setting.session_id, address))


def test_invalid_session_unknown_undrawn_or_over(setting):
    assert setting.refuse(session=bytes(16)) == "unknown-session"
    change_session(setting.state, setting.session_id, expires_at=setting.state.height + 1)
    assert setting.check()
    change_session(setting.state, setting.session_id, expires_at=setting.state.height)
    assert setting.refuse() == "unknown-session"
    change_session(setting.state, setting.session_id, expires_at=10_000, seed=b"")
    assert setting.refuse() == "unknown-session"


def test_invalid_relay_or_executor(setting):
    assert setting.refuse(relay=KEYS[1].address) == "wrong-address"
    other = next(key.address for key in KEYS if key.address not in {setting.executor, RELAY.address})
    assert setting.refuse(executor=other) == "wrong-address"


def test_invalid_index_behind_the_last_task(setting):
    last = TINY.session_tasks - 1
    order = get_order(setting.state, setting.session_id, last)
    earlier = order[: order.index(setting.executor)]
    skips = tuple(make_late_mark(setting.state, setting.session_id, address, last) for address in earlier)
    assert setting.check(index=last, skips=skips)
    assert setting.refuse(index=TINY.session_tasks) == "not-drawn"


def test_invalid_node_without_weight_is_not_drawn(setting):
    weights = {key.address: 1_000 for key in KEYS if key.address != setting.executor}
    nodes.set_weights(setting.state, TINY, weights)
    assert setting.check()
    change_session(setting.state, setting.session_id, version=nodes.get_version(setting.state))
    assert setting.refuse() == "not-drawn"


def test_invalid_second_answer_to_one_task(setting):
    _, task_id = setting.check()
    setting.role._accepted[task_id] = 1
    assert setting.refuse() == "already-done"
    setting.role._accepted.clear()
    receipt, _ = make_receipt(setting, 0)
    tasks.apply_receipts(setting.state, TINY, "roles-1", setting.executor, (receipt,), 0)
    assert setting.refuse() == "already-done"


def test_invalid_prompt_and_voucher(setting):
    assert setting.refuse(prompt_hash=bytes(32)) == "wrong-prompt"
    assert setting.refuse(signer=KEYS[2]) == "bad-voucher"
    order = make_order(setting.session_id, setting.executor)
    dearer = msgspec.structs.replace(order, voucher=msgspec.structs.replace(order.voucher, max_cost=10**9 - 1))
    with pytest.raises(Invalid, match="bad-voucher"):
        setting.role._check_order(setting.state, RELAY.address, dearer)


def test_invalid_model_other_than_the_sessions(setting):
    order = make_order(setting.session_id, setting.executor)
    other = TaskOrder(order.voucher, msgspec.structs.replace(order.request, model="gemma-3-270m"))
    with pytest.raises(Invalid, match="wrong-model"):
        setting.role._check_order(setting.state, RELAY.address, other)


def test_invalid_bytes_are_no_order(setting):
    request = PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path="task", body=b"\x91\x00")
    with pytest.raises(Invalid, match="malformed"):
        asyncio.run(collect(setting.role.serve(request)))


@pytest.fixture
def small_model(setting, monkeypatch):
    """Three steps instead of a model; a prompt of five tokens."""
    steps = [SimpleNamespace(text=text, finish_reason=None) for text in ("a", "", "b")]

    def generate(_model, _generation, *, should_stop, top_logprobs, states):
        for step in steps:
            yield step
            if should_stop():
                return

    async def get(model_id, *, cheap=False):
        return SimpleNamespace(model_id=model_id, cheap=cheap, traced_states=0)

    async def run(_kind, function, *arguments):
        return await asyncio.to_thread(function, *arguments)

    setting.role._host = SimpleNamespace(get=get)
    setting.context.threads = SimpleNamespace(run=run)
    monkeypatch.setattr("paceline.inference.backend.generate", generate)
    monkeypatch.setattr(executor, "build_generation", lambda *_: SimpleNamespace(prompt_tokens=(1, 2, 3, 4, 5)))
    monkeypatch.setattr(answering, "build_transcript", lambda *_: SimpleNamespace(finish_reason="stop"))
    monkeypatch.setattr(answering, "encode_transcript", lambda _: b"transcript")
    return steps


def test_an_answer_ends_with_what_the_receipt_says(setting, small_model):
    order = make_order(setting.session_id, setting.executor)
    frames = asyncio.run(collect(setting.role.serve(receive(setting, order))))
    *texts, end = frames
    assert texts == [TextFrame("a"), TextFrame("b")]
    assert isinstance(end, EndFrame)
    assert (end.prompt_tokens, end.completion_tokens, end.finish_reason) == (5, 3, "stop")
    task_id = compute_task_id(setting.session_id, 0)
    assert hash_blob(setting.role._maker.vault.get(task_id)) == end.payload_hash
    setting.role.on_block(setting.state)
    setting.context.duties.run_all()
    [sent] = setting.context.chain.sent
    seal = setting.role._maker.traps.seal(task_id, end.payload_hash)
    assert sent == SubmitReceipts((Receipt(order.voucher, end.payload_hash, 5, 3, seal),))


@pytest.mark.parametrize(("asked", "shown"), [(None, 0), (0, 0), (2, 2)])
def test_logprobs_travel_when_they_are_asked_for(setting, small_model, asked, shown):
    spelling = [b"", b"a", b"\xc3", b"\xa9"]
    model = SimpleNamespace(eos_token_ids=(0,), token_bytes=spelling)
    request = msgspec.structs.replace(REQUEST, top_logprobs=asked)
    writer = FrameWriter(model, request)
    assert writer.top_logprobs == shown
    made = [(1, "a", None), (2, "", None), (3, "é", None), (1, "", None), (0, "", "stop")]
    steps = [
        TokenStep(
            token_id=token, text=text, logprob_micronats=-token, finish_reason=finish, top=((3, -9), (2, -8))[:shown]
        )
        for token, text, finish in made
    ]
    frames = [frame for step in steps if (frame := writer.write(step)) is not None]
    top = ((3, spelling[3], -9), (2, spelling[2], -8))[:shown]
    tokens = {token: TokenLogprob(token, spelling[token], -token, top) for token in (1, 2, 3)}
    if asked is None:
        assert frames == [TextFrame("a"), TextFrame("é")]
    else:
        # The last token made no text that could be shown, and yet it is told of; the end stands for no text.
        assert frames == [
            TextFrame("a", (tokens[1],)),
            TextFrame("é", (tokens[2], tokens[3])),
            TextFrame("", (tokens[1],)),
        ]


def test_an_embedding_is_a_vector_and_costs_its_prompt(setting, small_model, monkeypatch):
    request = EmbedRequest(REQUEST.model, TokenPrompt((1, 2, 3)))
    monkeypatch.setattr(executor, "plan_vector", lambda _, prompt: VectorPlan(prompt.token_ids))
    monkeypatch.setattr(answering, "compute_vector", lambda _, tokens: bytes(tokens) + b"\x00")
    monkeypatch.setattr(answering, "claim_vector", lambda _, tokens, values: b"claim of " + values)
    cost = 3 * TINY.unit_price
    less = make_order(setting.session_id, setting.executor, request=request, max_cost=cost - 1)
    with pytest.raises(Invalid, match="over-maximum"):
        asyncio.run(collect(setting.role.serve(receive(setting, less))))
    order = make_order(setting.session_id, setting.executor, request=request, max_cost=cost)
    vector, end = asyncio.run(collect(setting.role.serve(receive(setting, order))))
    assert vector == VectorFrame(b"\x01\x02\x03\x00")
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 3, 0)
    kept = setting.role._maker.vault.get(compute_task_id(setting.session_id, 0))
    assert hash_blob(kept) == end.payload_hash
    payload = decode(Payload, kept, limit_bytes=1_000)
    assert payload == Payload(request, b"claim of \x01\x02\x03\x00")


def test_invalid_maximum_below_prompt_and_answer(setting, small_model):
    enough = (5 + REQUEST.max_tokens) * TINY.unit_price
    less = make_order(setting.session_id, setting.executor, max_cost=enough - 1)
    with pytest.raises(Invalid, match="over-maximum"):
        asyncio.run(collect(setting.role.serve(receive(setting, less))))
    exact = make_order(setting.session_id, setting.executor, max_cost=enough)
    assert asyncio.run(collect(setting.role.serve(receive(setting, exact))))


def test_invalid_order_beyond_the_queue(setting, small_model):
    order = receive(setting, make_order(setting.session_id, setting.executor))
    line = setting.role.line

    async def ask_behind(others):
        await line.enter("busy", 1)
        waiting = [asyncio.create_task(line.enter(RELAY.address, 1)) for _ in range(others)]
        await asyncio.sleep(0)
        asked = asyncio.create_task(collect(setting.role.serve(order)))
        while line.waiting <= others and not asked.done():  # noqa: ASYNC110 - the line tells nobody
            await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        line.leave(0.0)
        return await asked

    [frame] = asyncio.run(ask_behind(executor.MAX_WAITING_PER_RELAY))
    assert (frame.skip.node, frame.skip.kind) == (setting.executor, BUSY)
    text = frame.skip.signed_bytes("roles-1", setting.session_id, 0)
    assert verify_signature(find_key(setting.executor).public_key, text, frame.skip.signature)
    assert asyncio.run(ask_behind(executor.MAX_WAITING_PER_RELAY - 1))
    assert (line.under_way, line.waiting) == (0, 0)


def test_an_engine_that_is_not_ready_hands_the_task_on(setting, small_model):
    class Starting(TorchBackend):
        parallel = 4

        def check_ready(self):
            raise WorkError("the model server starts")

    setting.role.use_backend(REQUEST.model, Starting())
    order = receive(setting, make_order(setting.session_id, setting.executor))
    [frame] = asyncio.run(collect(setting.role.serve(order)))
    assert (frame.skip.node, frame.skip.kind) == (setting.executor, BUSY)
    setting.role.use_backend(REQUEST.model, TorchBackend())
    assert len(asyncio.run(collect(setting.role.serve(order)))) > 1, "nothing of it was taken for done"


def test_the_search_is_held_off_until_the_answer_is_made_and_not_until_it_is_read(setting, small_model, monkeypatch):
    serving, idle = setting.context.serving, []

    def build_transcript(*_):
        idle.append(serving.wait_idle(0.0))
        return SimpleNamespace(finish_reason="stop")

    async def read_one():
        frames = setting.role.serve(receive(setting, make_order(setting.session_id, setting.executor)))
        first = decode_frame(await anext(frames))
        # Nobody reads on, and yet the work comes to its end and lets go.
        made = await asyncio.to_thread(serving.wait_idle, 20.0)
        return first, made, await collect(frames)

    monkeypatch.setattr(answering, "build_transcript", build_transcript)
    first, made, [second, end] = asyncio.run(read_one())
    assert (idle, made) == ([False], True)
    assert (first, second) == (TextFrame("a"), TextFrame("b"))
    assert isinstance(end, EndFrame)


def test_an_order_that_is_ahead_of_the_chain_waits_for_its_block(tmp_path):
    setting = Setting(tmp_path, drawn=False)
    change = {"seed": b"s" * 32, "version": nodes.get_version(setting.state)}
    setting.context.chain.coming = [
        lambda state: None,
        lambda state: change_session(state, setting.session_id, **change),
    ]
    asyncio.run(setting.role._wait_for_session(setting.session_id))
    assert setting.check()
    setting.context.chain.coming = [lambda state: pytest.fail("nothing was left to wait for")]
    asyncio.run(setting.role._wait_for_session(setting.session_id))


def test_invalid_session_is_waited_for_only_so_long(setting):
    setting.context.chain.coming = [lambda state: None] * 9
    asyncio.run(setting.role._wait_for_session(bytes(16)))
    assert len(setting.context.chain.coming) == 9 - executor.LAG_BLOCKS


def answer(setting, gone: threading.Event) -> list:
    pushed = []
    order = make_order(setting.session_id, setting.executor)
    generation = SimpleNamespace(prompt_tokens=(1, 2, 3, 4, 5))
    setting.role._maker.make(Answer(None, order, generation, TorchBackend(), gone, pushed.append))
    return pushed


def test_a_relay_that_left_stops_the_work_and_pays_for_what_was_made(setting, small_model):
    gone = threading.Event()
    gone.set()
    text, end, last = answer(setting, gone)
    assert (text, last) == (TextFrame("a"), None)
    assert end.completion_tokens == 1


def test_invalid_work_ends_the_stream_with_a_failure(setting, small_model, monkeypatch):
    def fail(*_, **__):
        raise WorkError("out of memory")
        yield

    monkeypatch.setattr("paceline.inference.backend.generate", fail)
    assert answer(setting, threading.Event()) == [FailFrame("work-failed", "out of memory"), None]
    assert not list((setting.folder / "work" / "receipts").iterdir())


def test_the_receipt_is_on_disk_before_the_end_is_said(setting, small_model):
    seen = []
    receipts = setting.folder / "work" / "receipts"
    order = make_order(setting.session_id, setting.executor)
    generation = SimpleNamespace(prompt_tokens=(1,))

    def push(frame):
        if isinstance(frame, EndFrame):
            seen.append(len(list(receipts.glob("*.receipt"))))

    setting.role._maker.make(Answer(None, order, generation, TorchBackend(), threading.Event(), push))
    assert seen == [1]


def test_a_restarted_node_still_sends_its_receipts(setting):
    kept = {keep_receipt(setting, index) for index in range(3)}
    key = setting.context.key
    reborn = ExecutorRole(make_context(setting.state, key, setting.folder), None, make_group_key(key))
    reborn.on_block(setting.state)
    reborn._context.duties.run_all()
    [sent] = reborn._context.chain.sent
    assert {compute_task_id(r.voucher.session, r.voucher.index) for r in sent.receipts} == kept


def test_receipts_go_when_the_ledger_has_them(setting):
    index = next(i for i in range(50) if get_order(setting.state, setting.session_id, i)[0] == setting.executor)
    task_id = keep_receipt(setting, index)
    receipt, _ = make_receipt(setting, index)
    tasks.apply_receipts(setting.state, TINY, "roles-1", setting.executor, (receipt,), 0)
    setting.role.on_block(setting.state)
    assert setting.context.duties.started == {}
    assert not (setting.folder / "work" / "receipts" / f"{task_id.hex()}.receipt").exists()


def test_a_node_that_was_marked_late_says_that_it_is_there(setting):
    setting.role.on_block(setting.state)
    assert setting.context.duties.started == {}
    attendance.MARKED.put(setting.state, setting.executor, setting.state.height)
    setting.role.on_block(setting.state)
    setting.context.duties.run_all()
    [sent] = setting.context.chain.sent
    assert isinstance(sent, DescribeNode)
    registration.apply_description(setting.state, TINY, setting.executor, sent)
    assert not attendance.is_marked(setting.state, setting.executor)


def test_receipts_go_in_batches(setting):
    for index in range(executor.MAX_BATCH + 1):
        keep_receipt(setting, index)
    setting.role.on_block(setting.state)
    setting.context.duties.run_all()
    assert [len(message.receipts) for message in setting.context.chain.sent] == [executor.MAX_BATCH]


def test_invalid_receipt_does_not_hold_back_the_others(setting):
    for index in range(3):
        keep_receipt(setting, index)
    bad = InvalidTransaction("over-escrow", "too dear")
    setting.context.chain.refusals = [bad, None, bad, None]
    setting.role.on_block(setting.state)
    setting.context.duties.run_all()
    assert [len(message.receipts) for message in setting.context.chain.sent] == [3, 1, 1, 1]
    receipts = setting.folder / "work" / "receipts"
    assert len(list(receipts.glob("*.refused"))) == 1
    assert len(list(receipts.glob("*.receipt"))) == 2


class SleepyHost:
    """A model that is there until it is released."""

    model_ids = ("model",)
    wake_seconds = 1.25

    def __init__(self):
        self.loaded = SimpleNamespace(context_tokens=100)
        self.asked = []

    def release(self, idle_seconds):
        self.asked.append(idle_seconds)
        self.loaded = None


def test_an_idle_node_releases_its_model_and_says_how_long_it_takes_to_come_back(setting):
    host = setting.role._host = SleepyHost()
    setting.role.on_block(setting.state)
    assert (host.asked, setting.role.measure_load().wake_milliseconds) == ([], 0)
    setting.context.settings.idle, setting.context.settings.release_after_seconds = "release", 30.0
    setting.role.line.under_way = 1
    setting.role.on_block(setting.state)
    # Not while an answer is in the making.
    assert host.asked == []
    setting.role.line.under_way = 0
    setting.role.on_block(setting.state)
    assert host.asked == [30.0]
    load = setting.role.measure_load()
    assert (load.wake_milliseconds, load.free_context_tokens) == (1_250, 0)
