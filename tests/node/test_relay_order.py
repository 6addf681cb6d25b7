"""The relay walks the drawn order, spends what the session holds, and says why nobody answered."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import pytest
from role_setup import (
    KEYS,
    MODEL,
    RELAY,
    REQUEST,
    USER,
    change_session,
    find_key,
    get_order,
    make_context,
    make_state,
    open_session,
)

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import verify_signature
from paceline.ledger import accounts, attendance, nodes
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.vouchers import check_place
from paceline.node.roles import relay_sessions
from paceline.node.roles.relay import RelayRole, Started
from paceline.node.roles.relay_sessions import ENDING_SHARE, OpenedSession
from paceline.node.views import Busy, OutOfFunds, UpstreamFailed
from paceline.protocol.answers import BusyFrame, EndFrame, FailFrame, TaskOrder, TextFrame
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import BUSY, LATE, CloseSession, Skip
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import TINY

PROMPT_TOKENS = 10
MAX_COST = (PROMPT_TOKENS + REQUEST.max_tokens) * TINY.unit_price
END = EndFrame("stop", PROMPT_TOKENS, 2, bytes(32))


class FakePeers:
    """Executors by script: frames, or an exception in their place."""

    def __init__(self) -> None:
        self.scripts: dict[bytes, list[object]] = {}
        self.asked: list[tuple[bytes, TaskOrder]] = []
        self.hung_up: list[bytes] = []

    def name_of(self, address: bytes) -> str:
        return address.hex()[:6]

    async def stream(self, executor: bytes, path: str, body: bytes, traceparent: str = ""):
        assert path == "task"
        self.asked.append((executor, decode(TaskOrder, body, limit_bytes=2**20)))
        try:
            for frame in self.scripts.get(executor, [TextFrame("hi"), END]):
                if isinstance(frame, Exception):
                    raise frame
                yield encode(frame)
        finally:
            self.hung_up.append(executor)


class Setting:
    """A relay with one open session."""

    def __init__(self, folder) -> None:
        self.state = make_state()
        self.session_id = open_session(self.state)
        self.peers = FakePeers()
        self.context = make_context(self.state, RELAY, folder, peers=self.peers)
        self.role = RelayRole(self.context, MODEL, USER)
        session = SESSIONS.get(self.state, self.session_id)
        self.opened = OpenedSession(self.session_id, session)
        self.role.sessions.current = self.opened

    def order(self, index: int = 0) -> list[bytes]:
        return get_order(self.state, self.session_id, index)

    def ask(self, *, stop_after: int | None = None) -> list[object]:
        async def run() -> list[object]:
            events = []
            async with aclosing(self.role.ask(REQUEST, PROMPT_TOKENS)) as answer:
                async for event in answer:
                    events.append(event)
                    if len(events) == stop_after:
                        break
            await self.role.stop()
            return events

        return asyncio.run(run())

    def asked(self) -> list[bytes]:
        return [executor for executor, _ in self.peers.asked]


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path)


def test_the_first_drawn_node_answers(setting):
    first = setting.order()[0]
    task_id = compute_task_id(setting.session_id, 0)
    assert setting.ask() == [Started(task_id, first, TINY.unit_price), TextFrame("hi"), END]
    assert setting.asked() == [first]
    assert RELAY.address not in setting.order()
    assert 'relay_requests_total{outcome="answered"} 1' in setting.context.metrics.render()


def test_the_voucher_names_node_prompt_and_maximum(setting):
    setting.ask()
    [(executor, order)] = setting.peers.asked
    voucher = order.voucher
    assert (voucher.executor, voucher.index, voucher.max_cost) == (executor, 0, MAX_COST)
    assert voucher.prompt_hash == REQUEST.compute_hash()
    assert verify_signature(USER.public_key, voucher.signed_bytes("roles-1"), voucher.signature)


def test_who_does_not_answer_is_followed_by_the_next_drawn(setting):
    first, second, third, _ = setting.order()
    setting.peers.scripts = {first: [TransportError("gone")], second: [FailFrame("work-failed", "no model")]}
    events = setting.ask()
    assert setting.asked() == [first, second, third]
    assert events[0] == Started(compute_task_id(setting.session_id, 0), third, TINY.unit_price)
    voucher = setting.peers.asked[-1][1].voucher
    assert [(skip.node, skip.kind) for skip in voucher.skips] == [(first, LATE), (second, LATE)]
    check_place(setting.state, "roles-1", setting.opened.session, voucher)


def test_a_full_node_is_skipped_by_its_own_word_and_by_no_other(setting):
    first, second, *_ = setting.order()
    unsigned = Skip(first, BUSY, setting.state.height, bytes(64))
    text = unsigned.signed_bytes("roles-1", setting.session_id, 0)
    signed = msgspec.structs.replace(unsigned, signature=find_key(first).sign(text))
    setting.peers.scripts = {first: [BusyFrame(signed)]}
    assert setting.ask()[0].executor == second
    assert setting.peers.asked[-1][1].voucher.skips == (signed,)
    # A mark that the ledger would refuse is not passed on: the relay answers for the skip then.
    first, second, *_ = setting.order(1)
    setting.peers.scripts = {first: [BusyFrame(unsigned)]}
    assert setting.ask()[0].executor == second
    assert [skip.kind for skip in setting.peers.asked[-1][1].voucher.skips] == [LATE]


def test_a_node_that_is_away_is_not_asked(setting):
    first, second, *_ = setting.order()
    attendance.MARKED.put(setting.state, first, setting.state.height - TINY.tasks.away_blocks)
    assert setting.ask()[0].executor == second
    assert setting.asked() == [second]


def test_indices_go_up_one_by_one_and_each_has_its_own_draw(setting):
    for index in range(6):
        [started, *_] = setting.ask()
        assert started.executor == setting.order(index)[0]
        assert setting.peers.asked[-1][1].voucher.index == index


def test_a_guilty_node_is_passed_over_in_its_epoch(setting):
    first, second, *_ = setting.order()
    nodes.update_node(setting.state, first, guilty=0)
    assert setting.ask()[0].executor == second


def test_invalid_answer_that_breaks_off_everywhere(setting):
    setting.peers.scripts = {address: [TextFrame("no end")] for address in setting.order()}
    with pytest.raises(UpstreamFailed, match=r"broke off.*ended early"):
        setting.ask()
    assert setting.asked() == setting.order()


def test_invalid_order_in_which_nobody_answers(setting):
    setting.peers.scripts = {address: [TransportError("gone")] for address in setting.order()}
    with pytest.raises(UpstreamFailed, match="no drawn node answered"):
        setting.ask()
    assert setting.asked() == setting.order()


def test_invalid_moment_in_which_everybody_is_full(setting):
    full = TransportError("this node is at its limit of waiting requests")
    setting.peers.scripts = {address: [full] for address in setting.order()}
    with pytest.raises(Busy) as caught:
        setting.ask()
    assert caught.value.retry_after_seconds > 0


def test_only_what_was_used_stays_promised(setting):
    before = setting.opened.left
    setting.ask()
    cost = (END.prompt_tokens + END.completion_tokens) * TINY.unit_price
    assert before - setting.opened.left == MAX_COST
    # What the receipt leaves of the maximum comes back with it.
    change_session(setting.state, setting.session_id, freed=MAX_COST - cost)
    assert setting.role.sessions.count_left(setting.opened) == (before - cost) // TINY.unit_price
    assert before - setting.opened.left == cost
    assert setting.opened.active == 0


def test_a_user_that_leaves_hangs_up_on_the_executor(setting):
    setting.ask(stop_after=2)
    assert setting.peers.hung_up == [setting.order()[0]]
    assert setting.opened.active == 0
    assert setting.opened.total == MAX_COST


def test_a_session_of_former_weights_is_replaced_and_closed(setting, monkeypatch):
    nodes.set_weights(setting.state, TINY, {key.address: 1_000 for key in KEYS})
    fresh = open_session(setting.state, mark=b"n")
    opened = OpenedSession(fresh, SESSIONS.get(setting.state, fresh))

    async def open_instead(deposit):
        return opened

    monkeypatch.setattr(setting.role.sessions, "_open_session", open_instead)
    [started, *_] = setting.ask()
    assert started.task_id == compute_task_id(fresh, 0)
    setting.context.duties.run_all()
    assert setting.context.chain.sent == [CloseSession(setting.session_id)]


def test_boundary_of_the_time_that_a_session_needs_for_another_request(setting):
    last = setting.state.height + setting.context.params.session_blocks // ENDING_SHARE
    for expires_at, usable in ((last + 1, True), (last, False)):
        change_session(setting.state, setting.session_id, expires_at=expires_at)
        opened = OpenedSession(setting.session_id, SESSIONS.get(setting.state, setting.session_id))
        assert setting.role.sessions.is_usable(opened) is usable


def test_a_new_session_is_opened_before_the_old_one_runs_dry(setting, monkeypatch):
    asked = []

    async def open_instead(deposit):
        asked.append(deposit)
        return setting.opened

    async def run() -> None:
        setting.role.sessions.open_ahead()
        await asyncio.sleep(0)

    monkeypatch.setattr(setting.role.sessions, "_open_session", open_instead)
    monkeypatch.setattr(relay_sessions, "DEPOSIT", setting.opened.session.left)
    quarter = setting.opened.session.max_tasks // relay_sessions.REOPEN_SHARE
    setting.opened.next_index = setting.opened.session.max_tasks - quarter
    asyncio.run(run())
    assert asked == []
    setting.opened.next_index += 1
    asyncio.run(run())
    assert len(asked) == 1


def test_invalid_account_without_coins_is_told_before_anything_is_sent(setting):
    setting.role.sessions.current = None
    held = accounts.get_account(setting.state, USER.address).balance
    accounts.move_coins(setting.state, USER.address, KEYS[1].address, held - 5)
    with pytest.raises(OutOfFunds, match="holds 5 nicoin"):
        setting.ask()
    assert setting.context.chain.sent == []
    assert setting.peers.asked == []


def test_a_dear_request_opens_a_session_that_can_pay_for_it(setting):
    setting.role.sessions.current = None
    tokens = relay_sessions.DEPOSIT // TINY.unit_price + 1
    seen = []

    async def send(message, *, key):
        assert key is USER
        seen.append(message)
        raise TransportError("stop here")

    setting.context.chain.send = send
    with pytest.raises(UpstreamFailed, match="stop here"):
        asyncio.run(setting.role.sessions._open(tokens))
    price = TINY.unit_price
    assert seen == [OpenSession(RELAY.address, MODEL, tokens * price, seen[0].dummies_root, price)]


def test_a_price_that_rose_before_the_session_was_opened_is_asked_for_again(setting):
    setting.role.sessions.current = None

    async def send(_message, *, key):
        assert key is USER
        raise InvalidTransaction("price-moved", "a token costs more")

    setting.context.chain.send = send
    with pytest.raises(Busy, match="the price rose"):
        asyncio.run(setting.role.sessions._open(1))
