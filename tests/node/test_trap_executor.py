"""An executor that forces errors: wrong for its checkers, true for its user, and shown when it is time, also after a restart."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from role_setup import (
    KEYS,
    RELAY,
    REQUEST,
    find_key,
    get_order,
    make_context,
    make_group_key,
    make_order,
    make_state,
    open_session,
)

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.base.hashing import hash_blob
from paceline.inference.backend import TorchBackend
from paceline.inference.check import Lie, find_lies
from paceline.inference.claim import build_transcript
from paceline.inference.forced_errors import KINDS, OTHER_STATES, OTHER_TOKENS, make_wrong_version
from paceline.inference.run import generate
from paceline.inference.trace import Trace, derive_draw
from paceline.ledger import nodes, suspicion, tasks, traps
from paceline.ledger.beacon import get_value
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.suspicion import CONFIRMING, INQUIRIES, Inquiry
from paceline.ledger.tasks import LIFTED, SHOWING, TASKS, TRAP
from paceline.models.language import LanguageModel, prepare_model
from paceline.network.sealing import unseal
from paceline.network.wire import PeerRequest
from paceline.node.answers.answering import Answer
from paceline.node.answers.payloads import PATH, PayloadReply, PayloadRequest
from paceline.node.answers.traces import OpeningRequest, get_draw_seed
from paceline.node.answers.traps import is_evident
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.answers import MAX_PAYLOAD_BYTES, Payload, derive_sampler_seed
from paceline.protocol.codec import decode, decode_own, encode
from paceline.protocol.messages import REJECTED, Receipt
from paceline.protocol.params import TINY
from paceline.protocol.traces import encode_opening
from paceline.protocol.traps import ShowDraws
from paceline.verification.payloads import Expected, build_generation, judge_payload, judge_transcript

TOKENS = 20
ALWAYS = msgspec.structs.replace(TINY, tasks=msgspec.structs.replace(TINY.tasks, forced_error_ppm=1_000_000))
SAMPLED = msgspec.structs.replace(REQUEST, max_tokens=TOKENS, temperature_ppm=1_000_000)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return LanguageModel.load(prepare_model(cache, progress=lambda line: None))


async def run_in_thread(_kind, function, *arguments):
    return await asyncio.to_thread(function, *arguments)


class Scene:
    """One answer of an executor whose every task is drawn."""

    def __init__(self, folder, params=ALWAYS) -> None:
        self.state, self.folder, self.params = make_state(), folder, params
        self.session_id = open_session(self.state)
        self.task_id = compute_task_id(self.session_id, 0)
        self.key = find_key(get_order(self.state, self.session_id)[0])
        self.order = make_order(self.session_id, self.key.address, request=SAMPLED)
        self.restart()

    def restart(self) -> None:
        self.context = make_context(self.state, self.key, self.folder, params=self.params)
        self.context.threads = SimpleNamespace(run=run_in_thread)
        self.role = ExecutorRole(self.context, None, make_group_key(self.key))

    def answer(self, model) -> Receipt:
        session = SESSIONS.get(self.state, self.session_id)
        seed = derive_sampler_seed(session.seed, self.task_id, SAMPLED, session.owner)
        generation = build_generation(model, SAMPLED, seed)
        frames: list[object] = []
        answer = Answer(model, self.order, generation, TorchBackend(), threading.Event(), frames.append)
        self.role._maker.make(answer)
        [path] = (self.folder / "work" / "receipts").glob("*.receipt")
        return decode_own(Receipt, path.read_bytes())

    def commit(self, receipt) -> None:
        tasks.apply_receipts(self.state, self.params, "roles-1", self.key.address, (receipt,), 0)
        self.checker = next(key for key in KEYS if key not in (self.key, RELAY))
        self.change(drawn=(self.checker.address,), asked=(self.checker.address,), round_index=0)

    @property
    def task(self) -> tasks.Task:
        return TASKS.get(self.state, self.task_id)

    def change(self, **changes) -> None:
        TASKS.put(self.state, self.task_id, msgspec.structs.replace(self.task, **changes))

    def request(self, asker, path, body) -> PeerRequest:
        return PeerRequest(sender=asker.public_key, sender_address=asker.address, path=path, body=body)

    def fetch(self, asker, *, answer=False, case=False) -> PayloadReply:
        asked = self.request(asker, PATH, encode(PayloadRequest(self.task_id, answer, case)))
        sealed = asyncio.run(self.role.hand_out(asked))
        return decode(PayloadReply, unseal(asker, sealed), limit_bytes=MAX_PAYLOAD_BYTES)

    def judge(self, model):
        """What an honest checker says of what it is shown."""
        payload = self.fetch(self.checker).payload
        assert hash_blob(payload) == self.task.payload_hash
        asked = self.request(self.checker, "opening", encode(OpeningRequest(self.task_id)))
        opening = asyncio.run(self.role.open_trace(asked))
        task = self.task
        expected = Expected(
            task_id=self.task_id,
            session_seed=task.seed,
            owner=task.owner,
            prompt_hash=task.prompt_hash,
            prompt_tokens=task.prompt_tokens,
            completion_tokens=task.completion_tokens,
            draw_seed=get_draw_seed(self.state, self.task_id, task),
        )
        return judge_payload(model, decode_own(Payload, payload), expected, opening)

    def show(self) -> list[object]:
        self.context.chain.sent.clear()
        self.role.on_block(self.state)
        self.context.duties.run_all()
        return [message for message in self.context.chain.sent if isinstance(message, ShowDraws)]


def test_every_kind_of_wrong_version_is_rejected_for_the_models_numbers_alone(model):
    generation = build_generation(model, SAMPLED, bytes(32))
    states: list[torch.Tensor] = []
    steps = list(generate(model, generation, should_stop=lambda: False, states=states))
    trace = Trace.join(states)
    true = build_transcript(model, generation, steps, trace.compute_root())
    for kind in KINDS:
        wrong = make_wrong_version(model, kind, true, trace, b"n" * 32)
        assert wrong.transcript != true
        assert len(wrong.transcript.output_tokens) == len(true.output_tokens)
        assert find_lies(model, wrong.transcript) == Lie.NONE
        assert is_evident(model, wrong, trace, b"d" * 32)
    draw = derive_draw(b"d" * 32, len(steps), model.traced_states)
    assert judge_transcript(model, true, b"d" * 32, encode_opening(trace.open(draw))).outcome != REJECTED


def test_invalid_ground_for_a_wrong_version(model):
    greedy = build_generation(model, msgspec.structs.replace(SAMPLED, temperature_ppm=0), bytes(32))
    steps = list(generate(model, greedy, should_stop=iter([False, True]).__next__))
    plain = build_transcript(model, greedy, steps)
    # A greedy answer has no other tokens, one without states has no other states.
    assert make_wrong_version(model, OTHER_TOKENS, plain, None, bytes(32)) is None
    assert make_wrong_version(model, OTHER_STATES, plain, None, bytes(32)) is None


def test_checkers_see_the_wrong_version_until_it_is_lifted_and_the_user_never_does(model, tmp_path):
    scene = Scene(tmp_path)
    assert scene.show() == []
    receipt = scene.answer(model)
    true = scene.role._maker.vault.get(scene.task_id)
    assert receipt.payload_hash != hash_blob(true)
    scene.commit(receipt)
    verdict = scene.judge(model)
    assert (verdict.outcome, bool(verdict.evidence)) == (REJECTED, True)
    reply = scene.fetch(RELAY, answer=True)
    assert reply.payload == true
    assert traps.is_answer(scene.task, hash_blob(true), reply.salt)
    assert not traps.is_answer(scene.task, receipt.payload_hash, reply.salt)
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.fetch(scene.checker, answer=True)
    # Nothing is shown before its time; then the same by a node that was killed in between.
    assert scene.show() == []
    scene.change(status=SHOWING, deadline=10_000)
    first = scene.show()
    scene.restart()
    [message] = scene.show()
    assert first == [message]
    traps.apply_showings(scene.state, ALWAYS, "roles-1", scene.key.address, message)
    assert scene.task.shown == TRAP
    assert scene.show() == []
    traps.lift(scene.state, scene.task_id, scene.task, REJECTED)
    assert scene.task.shown == LIFTED
    scene.change(round_index=0)
    assert scene.judge(model).outcome != REJECTED
    scene.role._maker.vault.sweep(scene.state, scene.key.address, ())
    assert scene.fetch(RELAY, answer=True).payload == true
    TASKS.delete(scene.state, scene.task_id)
    SESSIONS.delete(scene.state, scene.session_id)
    scene.role._maker.vault.sweep(scene.state, scene.key.address, ())
    scene.role._maker.traces.sweep(scene.state)
    left = [path for folder in ("payloads", "traces") for path in (tmp_path / "work" / folder).iterdir()]
    assert left == []


def test_after_a_report_fresh_checkers_see_the_true_answer_and_judges_of_the_case_the_kept_one(model, tmp_path):
    scene = Scene(tmp_path)
    scene.commit(scene.answer(model))
    wrong, true = scene.fetch(scene.checker).payload, scene.role._maker.vault.get(scene.task_id)
    # It was never shown, and its checkers passed it: so it is kept. Then its user reported it, and it was lifted.
    suspicion.KEPT.put(
        scene.state, scene.key.address + scene.task_id, suspicion.CheckedTask(scene.task, 9, get_value(scene.state, 0))
    )
    old, fresh = scene.checker, next(key for key in KEYS if key not in (scene.key, RELAY, scene.checker))
    scene.change(reported=True, shown=TRAP, answer_hash=hash_blob(true), asked=(fresh.address,))
    traps.lift(scene.state, scene.task_id, scene.task, REJECTED)
    scene.change(round_index=0, asked=(fresh.address,), drawn=(old.address, fresh.address))
    scene.checker = fresh
    assert scene.judge(model).outcome != REJECTED
    assert scene.fetch(fresh).payload == true
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.fetch(old, case=True)
    inquiry = Inquiry(status=CONFIRMING, round_index=0, rest=0, drawn=(old.address,), deadline=99)
    INQUIRIES.put(scene.state, scene.key.address, inquiry)
    assert scene.fetch(old, case=True).payload == wrong
    assert scene.fetch(old).payload == true
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.fetch(fresh, case=True)


def make_transcript(tokens=TOKENS):
    return SimpleNamespace(output_tokens=(1,) * tokens)


def test_no_error_is_forced_in_short_answers_or_while_the_key_changes(tmp_path, monkeypatch):
    forced = []
    monkeypatch.setattr("paceline.node.answers.traps.make_wrong_version", lambda *_: forced.append(1))
    scene = Scene(tmp_path)
    setter = scene.role._maker.traps
    least = ALWAYS.tasks.forced_error_tokens

    def try_it(tokens) -> bool:
        forced.clear()
        assert setter.force_error(None, scene.task_id, make_transcript(tokens), None) is None
        return bool(forced)

    assert not try_it(TOKENS), "the ledger was not looked at yet"
    scene.show()
    assert [try_it(tokens) for tokens in (0, least - 1, least)] == [False, False, True]
    nodes.update_node(scene.state, scene.key.address, next_group_key_from=5)
    scene.show()
    assert not try_it(least)


def test_a_refused_showing_does_not_hold_back_the_others(tmp_path):
    scene = Scene(tmp_path)
    setter = scene.role._maker.traps
    seal = setter.seal(scene.task_id, hash_blob(b"answer"))
    scene.commit(Receipt(scene.order.voucher, hash_blob(b"answer"), 3, TOKENS, seal))
    scene.change(status=SHOWING)
    other = bytes(32)
    TASKS.put(scene.state, other, scene.task)
    tasks.OPEN_TASKS.put(scene.state, other, 0)
    for task_id in (scene.task_id, other):
        scene.role._maker.vault.put(task_id, b"answer")
    scene.context.chain.refusals = [InvalidTransaction("nothing-to-show", "one is late"), None, None]
    assert [len(message.showings) for message in scene.show()] == [2, 1, 1]


def test_nothing_is_shown_of_a_receipt_that_another_key_is_bound_to(tmp_path):
    scene = Scene(tmp_path)
    seal = scene.role._maker.traps.seal(scene.task_id, hash_blob(b"answer"))
    scene.commit(Receipt(scene.order.voucher, hash_blob(b"answer"), 3, TOKENS, seal))
    scene.role._maker.vault.put(scene.task_id, b"answer")
    bound = scene.task.lot_key
    scene.change(status=SHOWING, lot_key=make_group_key(RELAY).public_key)
    assert scene.show() == []
    scene.change(lot_key=bound)
    assert len(scene.show()) == 1


def test_an_answer_whose_forced_error_fails_is_committed_as_it_is(model, tmp_path, monkeypatch, caplog):
    scene = Scene(tmp_path)
    scene.show()

    def fail(*_):
        raise WorkError("out of memory")

    monkeypatch.setattr("paceline.node.answers.traps.make_wrong_version", fail)
    receipt = scene.answer(model)
    assert receipt.payload_hash == hash_blob(scene.role._maker.vault.get(scene.task_id))
    assert "out of memory" in caplog.text


def test_a_payload_that_is_lost_keeps_nothing_else_from_being_shown(tmp_path):
    scene = Scene(tmp_path)
    voucher = scene.order.voucher
    seal = scene.role._maker.traps.seal(scene.task_id, hash_blob(b"answer"))
    scene.commit(Receipt(voucher, hash_blob(b"answer"), 3, TOKENS, seal))
    scene.change(status=SHOWING)
    assert scene.show() == []
    with pytest.raises(WorkError, match="not here"):
        scene.role._maker.vault.get(scene.task_id)
    scene.role._maker.vault.put(scene.task_id, b"answer")
    # Refused alone it is tried again at the next height.
    scene.context.chain.refusals = [InvalidTransaction("nothing-to-show", "not yet")]
    scene.show()
    [message] = scene.show()
    traps.apply_showings(scene.state, ALWAYS, "roles-1", scene.key.address, message)
    # It was drawn, and no error was forced in it.
    assert (scene.task.shown, scene.task.unpaid) == ("plain", True)
