"""An answer's states from the executor's disk through the draw to a checker's verdict, and what each kind of silence costs."""

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
    find_key,
    get_order,
    make_context,
    make_group_key,
    make_order,
    make_state,
    open_session,
)

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.base.keys import AccountKey
from paceline.inference.backend import TorchBackend
from paceline.ledger import beacon, suspicion, tasks
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.suspicion import CONFIRMING, INQUIRIES, Inquiry
from paceline.models.language import LanguageModel, prepare_model
from paceline.network.wire import PeerRequest
from paceline.node.answers.answering import Answer
from paceline.node.answers.payloads import PATH
from paceline.node.answers.traces import OpeningRequest, get_draw_seed
from paceline.node.roles.checker import LAST_BLOCKS, CheckerRole
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.answers import EndFrame, Payload, derive_sampler_seed
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import REJECTED, Receipt
from paceline.protocol.params import TINY
from paceline.protocol.traces import decode_opening, encode_opening
from paceline.protocol.transcripts import NO_TRACE, decode_transcript, encode_transcript
from paceline.verification.payloads import build_generation


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return LanguageModel.load(prepare_model(cache, progress=lambda line: None))


async def run_in_thread(_kind, function, *arguments):
    return await asyncio.to_thread(function, *arguments)


class Scene:
    """One answered task on a ledger, its executor, and a checker that can reach it."""

    def __init__(self, folder, model) -> None:
        self.state, self.folder, self.model = make_state(), folder, model
        self.session_id = open_session(self.state)
        self.task_id = compute_task_id(self.session_id, 0)
        address = get_order(self.state, self.session_id)[0]
        self.executor_context = make_context(self.state, find_key(address), folder / "executor")
        self.executor_context.threads = SimpleNamespace(run=run_in_thread)
        self.executor = ExecutorRole(self.executor_context, SimpleNamespace(), make_group_key(find_key(address)))
        self.order = make_order(self.session_id, address)
        self.silent = False
        self.change = lambda opening: opening

    def answer(self) -> None:
        session = SESSIONS.get(self.state, self.session_id)
        seed = derive_sampler_seed(session.seed, self.task_id, self.order.request, session.owner)
        generation = build_generation(self.model, self.order.request, seed)
        frames: list[object] = []
        answer = Answer(self.model, self.order, generation, TorchBackend(), threading.Event(), frames.append)
        self.executor._maker.make(answer)
        assert isinstance(frames[-2], EndFrame)
        [path] = (self.folder / "executor" / "work" / "receipts").glob("*.receipt")
        self.receipt = decode_own(Receipt, path.read_bytes())

    def commit(self) -> None:
        tasks.apply_receipts(self.state, TINY, "roles-1", self.order.voucher.executor, (self.receipt,), 0)

    def draw(self) -> None:
        task = self.task
        beacon.VALUES.put(self.state, beacon._key(task.round_index), beacon.BeaconValue(b"v" * 32, b"", 0, 11))
        deadline = self.state.height + TINY.check_blocks
        checker = next(key.address for key in KEYS if key.address not in {task.executor, RELAY.address})
        task = msgspec.structs.replace(
            task, status=tasks.CHECKING, asked=(checker,), drawn=(checker,), deadline=deadline
        )
        tasks.TASKS.put(self.state, self.task_id, task)

    @property
    def task(self) -> tasks.Task:
        return tasks.TASKS.get(self.state, self.task_id)

    @property
    def traces(self) -> list[Path]:
        return list((self.folder / "executor" / "work" / "traces").iterdir())

    def open(self, asker=RELAY, *, case=False) -> bytes:
        body = encode(OpeningRequest(self.task_id, case))
        request = PeerRequest(sender=asker.public_key, sender_address=asker.address, path="opening", body=body)
        return asyncio.run(self.executor.open_trace(request))

    def judge(self):
        self.asker = find_key(self.task.drawn[-1])
        checker = make_context(self.state, self.asker, self.folder / "checker", peers=self)
        checker.threads = SimpleNamespace(run=run_in_thread)

        async def get(_model_id):
            return self.model

        role = CheckerRole(checker, SimpleNamespace(get=get))
        role.on_block(self.state)
        checker.duties.run_all()
        kept = role._verdicts.get(self.task_id)
        return [] if kept is None else [kept.verdict]

    # What a checker needs of its peers.
    def knows(self, address) -> bool:
        return address == self.task.executor

    def name_of(self, address) -> str:
        return address.hex()

    async def request(self, _name, path, body) -> bytes:
        asker = self.asker
        request = PeerRequest(sender=asker.public_key, sender_address=asker.address, path=path, body=body)
        if path == PATH:
            return await self.executor.hand_out(request)
        if self.silent:
            raise TransportError("nobody answers")
        return encode_opening(self.change(decode_opening(await self.executor.open_trace(request))))


@pytest.fixture
def scene(tmp_path, model) -> Scene:
    scene = Scene(tmp_path, model)
    scene.answer()
    return scene


def test_states_go_from_the_answer_to_an_honest_verdict(scene):
    assert len(scene.traces) == 1
    scene.commit()
    scene.draw()
    [verdict] = scene.judge()
    assert verdict.outcome != REJECTED
    tokens = scene.receipt.completion_tokens
    assert verdict.evidence[9] == tokens == verdict.evidence[0]
    assert verdict.evidence[-1] < 0, "an honest answer lowers suspicion"


def test_nothing_is_opened_before_the_draw(scene):
    with pytest.raises(Invalid, match="unknown-task"):
        scene.open()
    scene.commit()
    with pytest.raises(Invalid, match="not-drawn-yet"):
        scene.open()
    scene.draw()
    assert len(decode_opening(scene.open()).states) == min(8, scene.receipt.completion_tokens)


def test_invalid_sketch_is_proof_of_fraud(scene):
    scene.commit()
    scene.draw()
    scene.change = lambda opening: msgspec.structs.replace(opening, sketch=bytes(len(opening.sketch)))
    [verdict] = scene.judge()
    assert (verdict.outcome, verdict.reason) == (REJECTED, "contradicts itself: states forged")


def test_invalid_silence_is_judged_only_close_to_the_deadline(scene):
    scene.commit()
    scene.draw()
    scene.silent = True
    with pytest.raises(TransportError):
        scene.judge()
    scene.state.height = scene.task.deadline - LAST_BLOCKS
    [verdict] = scene.judge()
    assert (verdict.outcome, verdict.reason) == (REJECTED, "opening of the committed states withheld")


def test_invalid_answer_that_commits_to_no_states(scene):
    vault = scene.executor._maker.vault
    payload = decode_own(Payload, vault.get(scene.task_id))
    bare = msgspec.structs.replace(decode_transcript(payload.transcript), trace_root=NO_TRACE)
    digest = vault.put(scene.task_id, encode(msgspec.structs.replace(payload, transcript=encode_transcript(bare))))
    scene.receipt = msgspec.structs.replace(scene.receipt, payload_hash=digest)
    scene.commit()
    scene.draw()
    [verdict] = scene.judge()
    assert verdict.outcome == REJECTED
    assert verdict.reason.startswith("states-not-committed")


def test_states_stay_while_they_may_be_asked_for(scene):
    keep = scene.executor._maker.traces
    keep.sweep(scene.state)
    assert scene.traces
    scene.commit()
    scene.draw()
    keep.sweep(scene.state)
    assert scene.traces
    # A user may still report an answer that nobody found fault with.
    tasks.TASKS.put(scene.state, scene.task_id, msgspec.structs.replace(scene.task, status=tasks.FINAL))
    keep.sweep(scene.state)
    assert scene.traces
    tasks.TASKS.put(scene.state, scene.task_id, msgspec.structs.replace(scene.task, status=tasks.GUILTY))
    keep.sweep(scene.state)
    assert not scene.traces
    with pytest.raises(Invalid, match="no-trace"):
        scene.open()


def test_states_of_an_answer_that_a_case_rests_on_stay_and_are_opened_by_its_own_draw(scene):
    scene.commit()
    scene.draw()
    task, seed = scene.task, get_draw_seed(scene.state, scene.task_id, scene.task)
    suspicion.KEPT.put(scene.state, task.executor + scene.task_id, suspicion.CheckedTask(task, 9, b"v" * 32))
    tasks.TASKS.delete(scene.state, scene.task_id)
    beacon.VALUES.delete(scene.state, beacon._key(task.round_index))
    scene.executor._maker.traces.sweep(scene.state)
    scene.executor._maker.vault.sweep(scene.state, task.executor, ())
    assert scene.traces and scene.executor._maker.vault.get(scene.task_id)
    assert get_draw_seed(scene.state, scene.task_id, task) == seed
    assert decode_opening(scene.open()).sketch
    suspicion.clear(scene.state, task.executor)
    scene.executor._maker.traces.sweep(scene.state)
    scene.executor._maker.vault.sweep(scene.state, task.executor, ())
    assert not scene.traces
    with pytest.raises(WorkError):
        scene.executor._maker.vault.get(scene.task_id)


def keep_and_report(scene) -> tuple[tasks.Task, AccountKey]:
    """A checked task that is kept for a case is reported and drawn again; the task as it was, and its fresh checker."""
    scene.commit()
    scene.draw()
    old = msgspec.structs.replace(scene.task, status=tasks.FINAL)
    suspicion.KEPT.put(scene.state, old.executor + scene.task_id, suspicion.CheckedTask(old, 9, b"v" * 32))
    again = msgspec.structs.replace(old, reported=True, round_index=old.round_index + 1)
    tasks.TASKS.put(scene.state, scene.task_id, again)
    known = {old.executor, RELAY.address, *old.drawn}
    fresh = next(key for key in KEYS if key.address not in known)
    with pytest.raises(Invalid, match="not-drawn-yet"):
        get_draw_seed(scene.state, scene.task_id, again)
    beacon.VALUES.put(scene.state, beacon._key(again.round_index), beacon.BeaconValue(b"w" * 32, b"", 0, 12))
    asked = {"asked": (fresh.address,), "drawn": (*old.drawn, fresh.address)}
    changes = {"status": tasks.CHECKING, "deadline": scene.state.height + TINY.check_blocks}
    tasks.TASKS.put(scene.state, scene.task_id, msgspec.structs.replace(again, **asked, **changes))
    return old, fresh


def test_a_fresh_checker_of_a_reported_answer_gets_what_it_needs_of_one_that_is_kept(scene):
    keep_and_report(scene)
    scene.state.height = scene.task.deadline - LAST_BLOCKS
    [verdict] = scene.judge()
    assert verdict.outcome != REJECTED, verdict.reason


def test_a_judge_of_the_case_gets_the_kept_draw_also_while_the_answer_is_checked_anew(scene):
    old, fresh = keep_and_report(scene)
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.open(fresh, case=True)
    now = scene.open(fresh)
    # In a small network one node may be both: its request says as which it asks.
    inquiry = Inquiry(status=CONFIRMING, round_index=0, rest=0, drawn=(fresh.address,), deadline=99)
    INQUIRIES.put(scene.state, old.executor, inquiry)
    kept = scene.open(fresh, case=True)
    assert kept != now == scene.open(fresh)
    assert get_draw_seed(scene.state, scene.task_id, old) != get_draw_seed(scene.state, scene.task_id, scene.task)
    INQUIRIES.put(scene.state, old.executor, msgspec.structs.replace(inquiry, drawn=()))
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.open(fresh, case=True)


def test_invalid_asker_of_states(scene):
    scene.commit()
    scene.draw()
    stranger = next(key for key in KEYS if key.address not in {scene.task.executor, RELAY.address, *scene.task.drawn})
    with pytest.raises(Invalid, match="not-a-reader"):
        scene.open(stranger)


def test_states_of_a_task_that_nobody_pays_go_with_its_session(scene):
    SESSIONS.delete(scene.state, scene.session_id)
    scene.executor._maker.traces.sweep(scene.state)
    assert not scene.traces
