"""A relay's dummies: promised before the session, sent at drawn indices, in the shape of its users' requests, shown later."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
from contextlib import aclosing
from random import Random
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import CHAIN_ID, MODEL, RELAY, REQUEST, USER, change_session, get_order, make_context, make_state
from test_relay_order import END, FakePeers

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.integers import PPM
from paceline.ledger import accounts, dummies, nodes, sessions, tasks
from paceline.ledger.sessions import SESSIONS, compute_session_id, compute_task_id
from paceline.ledger.tasks import FINAL, TASKS
from paceline.node.ceremony import CeremonyKey
from paceline.node.dummies.injector import Injector, NoDummies
from paceline.node.dummies.plans import PlanStore, split_amount
from paceline.node.dummies.prompts import compose_prompt
from paceline.node.dummies.traffic import MAX_HOLD_SECONDS, RECENT, Candidate, SharedPrompt, Traffic
from paceline.node.roles.relay import RelayRole
from paceline.node.roles.relay_sessions import OpenedSession
from paceline.protocol.answers import AnswerRequest, ChatPrompt, EmbedRequest, TextFrame, TextPrompt, Turn
from paceline.protocol.dummies import LEAVES, RevealDummies
from paceline.protocol.messages import Receipt, Transfer
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NICOIN_PER_COIN, TINY, DummyParams

EPOCH = 400
PARAMS = msgspec.structs.replace(TINY, epoch_blocks=EPOCH, dummies=DummyParams(rate_ppm=500_000, share_ppm=PPM))
PROMPT_TOKENS = 10
SECRET_WORDS = "my sister's diagnosis"


def ask_for(text, **changes):
    return msgspec.structs.replace(REQUEST, prompt=ChatPrompt((Turn("user", text),)), **changes)


def make_traffic(seed=1, clock=None):
    return Traffic(lambda prompt: (PROMPT_TOKENS, 8_192), random=Random(seed), clock=clock or (lambda: 0.0))


class Setting:
    """A relay that has seen some traffic, with a session opened and drawn as it opens them."""

    def __init__(self, folder, *, dummies_on=True, shares=True, params=PARAMS) -> None:
        self.params = params
        self.state = make_state()
        self.peers = FakePeers()
        settings = make_settings(dummies_on)
        self.context = make_context(self.state, RELAY, folder, peers=self.peers, params=params, settings=settings)
        self.key = CeremonyKey(RELAY.address, RELAY.secret)
        self.injector = self.make_injector()
        self.injector.sample_hold_seconds = lambda: 0.0
        for number in range(LEAVES):
            self.injector.note_arrival(ask_for(f"question {number}"), PROMPT_TOKENS, shares=shares)
        self.role = RelayRole(self.context, MODEL, USER, injector=self.injector)
        self.open()

    def make_injector(self):
        return Injector(self.context, MODEL, USER, self.key, lambda prompt: (PROMPT_TOKENS, 8_192), Random(3))

    def open(self):
        prepared = self.injector.prepare()
        message = OpenSession(RELAY.address, MODEL, 100 * NICOIN_PER_COIN, prepared.root)
        sessions.apply_open(self.state, self.params, USER.address, USER.public_key, b"t" * 32, message)
        dummies.note_session(self.state, USER.address, b"t" * 32, message, 0)
        self.session_id = compute_session_id(USER.address, b"t" * 32)
        change_session(self.state, self.session_id, seed=b"s" * 32, version=nodes.get_version(self.state), drawn_at=10)
        self.injector.adopt(self.session_id, prepared)
        self.session = SESSIONS.get(self.state, self.session_id)
        self.role.sessions.current = OpenedSession(self.session_id, self.session)

    def is_drawn(self, index):
        return self.injector.is_drawn(self.session_id, self.session, index)

    def ask(self, text, *, shares=False):
        async def run():
            async with aclosing(self.role.ask(ask_for(text), PROMPT_TOKENS, shares=shares)) as answer:
                found = [event async for event in answer]
            await self.role.stop()
            return found

        found = asyncio.run(run())
        self.context.duties.run_all()
        return found

    def ask_until_dummies(self, count):
        number = 0
        while len(self.sent_dummies()) < count:
            self.ask(f"users {number}")
            number += 1
            assert number < 50

    def orders(self):
        return {order.voucher.index: (executor, order) for executor, order in self.peers.asked}

    def sent_dummies(self):
        plan = self.injector._plans.get(self.session_id)
        return [used.index for used in plan.used]

    def pay_all(self):
        """Every executor hands in its receipt, and nobody is drawn to check."""
        for index, (executor, order) in sorted(self.orders().items()):
            receipt = Receipt(order.voucher, bytes(32), PROMPT_TOKENS, 2)
            tasks.apply_receipts(self.state, self.params, CHAIN_ID, executor, (receipt,), 0)
            task_id = compute_task_id(self.session_id, index)
            TASKS.put(self.state, task_id, msgspec.structs.replace(TASKS.get(self.state, task_id), status=FINAL))


def make_settings(dummies_on):
    return SimpleNamespace(cheat="", serves=True, name="node", parallel_answers=1, dummies=dummies_on)


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def test_a_dummy_takes_the_drawn_index_and_the_user_the_one_behind(setting):
    setting.ask_until_dummies(3)
    orders = setting.orders()
    assert sorted(orders) == list(range(len(orders)))
    for index, (_, order) in orders.items():
        text = order.request.prompt.turns[0].content
        assert text.startswith("question" if setting.is_drawn(index) else "users")
    # Every user was answered, and what is promised in all adds up over both kinds.
    totals = [order.voucher.total for _, (_, order) in sorted(orders.items())]
    costs = [order.voucher.max_cost for _, (_, order) in sorted(orders.items())]
    assert totals == [sum(costs[: place + 1]) for place in range(len(costs))]
    assert setting.role.sessions.current.active == 0


def test_without_dummies_every_index_is_a_users_and_sessions_look_the_same(tmp_path):
    setting = Setting(tmp_path, dummies_on=False)
    for number in range(6):
        setting.ask(f"users {number}")
    assert sorted(setting.orders()) == list(range(6))
    assert setting.sent_dummies() == []
    roots = {NoDummies().prepare().root, setting.injector.prepare().root, setting.injector.prepare().root}
    assert len(roots) == 3
    assert {len(root) for root in roots} == {32}


def test_a_session_of_a_relay_whose_key_changed_carries_none(setting):
    prepared = setting.injector.prepare()
    promise = dummies.PROMISES.get(setting.state, setting.session_id)
    other = msgspec.structs.replace(promise, root=prepared.root, draw_key=b"k" * 48)
    dummies.PROMISES.put(setting.state, b"o" * 16, other)
    setting.injector.adopt(b"o" * 16, prepared)
    assert not any(setting.injector.is_drawn(b"o" * 16, setting.session, index) for index in range(20))


def test_no_prompt_goes_to_a_node_that_is_known_to_have_seen_it():
    traffic = make_traffic()
    seen = [SharedPrompt(ask_for(f"q {n}"), PROMPT_TOKENS, {b"e" * 20}) for n in range(5)]
    known = [(n, Candidate(kept.request, PROMPT_TOKENS, kept)) for n, kept in enumerate(seen)]
    fresh = (9, Candidate(ask_for("new"), PROMPT_TOKENS, SharedPrompt(ask_for("new"), PROMPT_TOKENS)))
    assert traffic.choose(known, b"e" * 20) is None
    assert traffic.choose([*known, fresh], b"e" * 20) == fresh
    assert traffic.choose(known, b"f" * 20) in known


def test_who_was_asked_and_who_was_drawn_to_check_has_seen_a_prompt(setting):
    setting.ask("lend me", shares=True)
    kept = next(kept for kept in setting.injector.traffic.shared if kept.request == ask_for("lend me"))
    index = next(i for i, (_, order) in setting.orders().items() if order.request == ask_for("lend me"))
    assert kept.seen == {setting.orders()[index][0]}
    setting.pay_all()
    task_id = compute_task_id(setting.session_id, index)
    task = TASKS.get(setting.state, task_id)
    TASKS.put(setting.state, task_id, msgspec.structs.replace(task, drawn=(b"c" * 20,)))
    setting.state.height = 16
    setting.injector.on_block(setting.state)
    assert b"c" * 20 in kept.seen


def test_invalid_not_one_word_of_a_user_who_did_not_share_is_kept(tmp_path):
    setting = Setting(tmp_path, shares=False)
    request = ask_for(SECRET_WORDS, stop=(SECRET_WORDS,), user_seed=7)
    setting.injector.note_arrival(request, PROMPT_TOKENS, shares=False)
    setting.injector.note_arrival(EmbedRequest(model=MODEL, prompt=TextPrompt(SECRET_WORDS)), 3, shares=False)
    traffic = setting.injector.traffic
    assert not traffic.shared
    kept = pickle.dumps([list(traffic._shapes), list(traffic._gaps)])
    assert SECRET_WORDS.encode() not in kept
    sample = traffic.sample(LEAVES)
    assert all(SECRET_WORDS not in str(candidate.request) for candidate in sample)


def test_composed_dummies_have_the_fields_and_sizes_of_the_traffic():
    traffic = make_traffic()
    request = ask_for("x" * 400, temperature_ppm=330_000, max_tokens=77, user_seed=5)
    traffic.note(request, 100, shares=False)
    traffic.note(EmbedRequest(model=MODEL, prompt=TextPrompt("y" * 60)), 20, shares=False)
    found = [candidate.request for candidate in traffic.sample(LEAVES)]
    answers = [one for one in found if isinstance(one, AnswerRequest)]
    assert 0 < len(answers) < LEAVES
    assert {(one.temperature_ppm, one.max_tokens, one.stop) for one in answers} == {(330_000, 77, ())}
    assert len({one.user_seed for one in answers}) == len(answers)
    assert all(300 < len(one.prompt.turns[0].content) < 520 for one in answers)
    assert len({hashlib.sha256(str(one.prompt).encode()).digest() for one in found}) == LEAVES


def test_nothing_is_composed_before_any_traffic_or_without_a_measure():
    assert make_traffic().sample(LEAVES) == []
    blind = Traffic(lambda prompt: None, random=Random(1), clock=lambda: 0.0)
    blind.note(REQUEST, 10, shares=False)
    assert blind.sample(LEAVES) == []


def test_a_composed_request_fits_the_context():
    traffic = Traffic(lambda prompt: (100, 120), random=Random(1), clock=lambda: 0.0)
    traffic.note(ask_for("hello", max_tokens=64), 3, shares=False)
    assert {candidate.request.max_tokens for candidate in traffic.sample(LEAVES)} == {20}


def distance(left, right):
    """Largest distance of two empirical distributions."""
    points = sorted([*left, *right])
    return max(abs(sum(x <= p for x in left) / len(left) - sum(x <= p for x in right) / len(right)) for p in points)


@pytest.mark.parametrize("draw", [lambda r: r.expovariate(1), lambda r: r.choice([0.01, 0.05, 2.0, 5.0]) * r.random()])
def test_dummies_that_go_out_by_themselves_come_after_gaps_like_those_of_users(draw):
    random, now = Random(5), [0.0]
    traffic = make_traffic(clock=lambda: now[0])
    for _ in range(RECENT):
        now[0] += draw(random)
        traffic.note(REQUEST, 10, shares=False)
    users = [draw(random) for _ in range(6_000)]
    first = [wait for user in users if (wait := traffic.sample_wait_seconds()) < user]
    assert len(first) > 600
    assert distance(users[:1_000], first[:1_000]) < 0.12
    # Without the weights the short gaps win.
    plain = [wait for user in users if (wait := random.choice(list(traffic._gaps))) < user]
    assert distance(users[:1_000], plain[:1_000]) > 0.15
    assert 0 <= traffic.sample_hold_seconds() <= MAX_HOLD_SECONDS


def test_a_dummy_also_comes_without_a_user(setting):
    index = next(index for index in range(30) if setting.is_drawn(index))
    setting.injector.sample_wait_seconds = lambda: 0.0

    async def run():
        setting.role.sessions.current.next_index = index
        setting.role._await_quiet()
        # Twice through the loop: the timer, then what it started.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await setting.role.stop()

    asyncio.run(run())
    assert setting.sent_dummies()[:1] == [index]


def show(setting, height=EPOCH - 10):
    setting.state.height = height
    setting.injector.on_block(setting.state)
    setting.context.duties.run_all()
    return [message for message in setting.context.chain.sent if isinstance(message, RevealDummies)]


def test_dummies_are_shown_late_in_the_epoch_and_the_ledger_takes_them(setting):
    setting.ask_until_dummies(3)
    setting.pay_all()
    assert show(setting, height=100) == []
    [message] = show(setting)
    assert [entry.index for entry in message.entries] == setting.sent_dummies()
    before = {payout.to: accounts.get_account(setting.state, payout.to).balance for payout in message.payouts}
    assert set(before.values()) == {0}
    dummies.apply_reveal(setting.state, setting.params, CHAIN_ID, RELAY.address, message)
    assert all(
        TASKS.get(setting.state, compute_task_id(setting.session_id, index)).is_dummy
        for index in setting.sent_dummies()
    )
    assert len(show(setting)) == 1


def test_what_came_back_moves_on_part_by_part(setting):
    setting.ask_until_dummies(2)
    setting.pay_all()
    [message] = show(setting)
    dummies.apply_reveal(setting.state, setting.params, CHAIN_ID, RELAY.address, message)
    due = setting.injector._plans.get(setting.session_id).due
    assert len(due) == len(message.payouts) >= 2
    assert len({part.height for part in due}) > 1
    show(setting, height=EPOCH * 2)
    moved = [sent for sent in setting.context.chain.sent if isinstance(sent, Transfer)]
    assert {transfer.to for transfer in moved} == {USER.address}
    fees = PARAMS.transfer_fee * len(moved)
    assert sum(transfer.amount for transfer in moved) == sum(p.amount for p in message.payouts) - fees


def test_a_reveal_that_lands_late_loses_no_part(setting):
    setting.ask_until_dummies(2)
    setting.pay_all()
    [message] = show(setting)
    due = setting.injector._plans.get(setting.session_id).due
    late = max(part.height for part in due) + 1
    show(setting, height=late)
    assert not [sent for sent in setting.context.chain.sent if isinstance(sent, Transfer)]
    setting.state.height = EPOCH - 1
    dummies.apply_reveal(setting.state, setting.params, CHAIN_ID, RELAY.address, message)
    show(setting, height=late + 1)
    moved = [sent for sent in setting.context.chain.sent if isinstance(sent, Transfer)]
    assert len(moved) == len(message.payouts)


def test_a_restarted_relay_still_shows_its_dummies(setting):
    setting.ask_until_dummies(2)
    setting.pay_all()
    used = setting.sent_dummies()
    setting.injector = setting.make_injector()
    [message] = show(setting)
    assert [entry.index for entry in message.entries] == used
    dummies.apply_reveal(setting.state, setting.params, CHAIN_ID, RELAY.address, message)


def test_no_more_is_asked_back_than_the_ledger_gives(setting):
    setting.params = setting.context.params = msgspec.structs.replace(
        PARAMS, dummies=DummyParams(rate_ppm=500_000, share_ppm=300_000)
    )
    setting.ask_until_dummies(4)
    setting.pay_all()
    [message] = show(setting)
    assert 0 < len(message.entries) < len(setting.sent_dummies())
    dummies.apply_reveal(setting.state, setting.params, CHAIN_ID, RELAY.address, message)


def test_plans_are_locked_at_rest_and_hold_no_prompt(setting, tmp_path):
    setting.ask_until_dummies(2)
    [path] = (tmp_path / "work" / "dummies" / MODEL).glob("*.plan")
    assert setting.session_id.hex() in path.name
    assert b"question" not in path.read_bytes()
    assert PlanStore(path.parent, RELAY).get(setting.session_id).used
    with pytest.raises(Exception, match="do not open"):
        PlanStore(path.parent, USER)


def test_parts_add_up_and_name_no_cost():
    random = Random(2)
    for total in (2, 3, 1_000_000):
        for _ in range(50):
            parts = split_amount(total, random)
            assert sum(parts) == total
            assert min(parts) >= 1
            assert 2 <= len(parts) <= 6


def test_composed_prompts_have_about_the_length_that_is_asked_for():
    random = Random(4)
    assert len({compose_prompt(random, 0) for _ in range(500)}) > 480
    assert all(abs(len(compose_prompt(random, 600)) - 600) < 110 for _ in range(100))


def render(setting):
    return setting.context.metrics.render().splitlines()


def test_a_dummy_whose_node_fails_goes_to_nobody_else(setting):
    """The next drawn node may have seen the prompt when its user lent it."""
    plain = setting.peers.stream

    async def stream(executor, path, body, traceparent=""):
        async with aclosing(plain(executor, path, body, traceparent)) as frames:
            async for frame in frames:
                _, order = setting.peers.asked[-1]
                if setting.is_drawn(order.voucher.index):
                    raise TransportError("gone")
                yield frame

    setting.peers.stream = stream
    setting.ask_until_dummies(2)
    places = [order.voucher.index for _, order in setting.peers.asked]
    assert all(places.count(index) == 1 for index in setting.sent_dummies())


def test_the_answers_of_dummies_are_read_to_the_end(setting):
    setting.peers.scripts = {
        address: [TextFrame("a"), TextFrame("b"), END] for address in get_order(setting.state, setting.session_id)
    }
    setting.ask_until_dummies(1)
    assert len(setting.peers.hung_up) == len(setting.peers.asked)
    # Nothing that others may read says that there are any, before they are shown.
    assert not any(line.startswith("paceline_relay_dummies_total ") for line in render(setting))
    setting.pay_all()
    show(setting)
    assert f"paceline_relay_dummies_total {len(setting.sent_dummies())}" in render(setting)


def test_a_prompt_lent_twice_is_one_prompt(setting):
    setting.ask("lend me", shares=True)
    setting.ask("lend me", shares=True)
    kept = [kept for kept in setting.injector.traffic.shared if kept.request == ask_for("lend me")]
    asked = {executor for executor, order in setting.peers.asked if order.request == ask_for("lend me")}
    assert [one.seen for one in kept] == [asked]


def test_a_reveal_that_fails_is_tried_again(setting):
    setting.ask_until_dummies(1)
    setting.pay_all()
    sent, refused = setting.context.chain.sent, []

    async def fail(message, *, key=None):
        refused.append(message)
        raise InvalidTransaction("not-fresh", "somebody was quicker")

    send, setting.context.chain.send = setting.context.chain.send, fail
    with pytest.raises(InvalidTransaction):
        show(setting)
    setting.context.chain.send = send
    [message] = show(setting)
    assert message.entries == refused[0].entries
    # To other accounts, so that whoever pays into the first ones stops nothing.
    assert not {payout.to for payout in message.payouts} & {payout.to for payout in refused[0].payouts}
    assert sent == [message]
