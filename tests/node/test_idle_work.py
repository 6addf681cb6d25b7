"""An idle node: when it takes marked work, that this makes way for everybody, and that what it did is sent once."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import msgspec
import pytest
from role_setup import RELAY, find_key, get_order, make_context, make_group_key, make_order, make_state
from role_setup import open_session as open_user_session

from paceline.base.errors import Invalid, InvalidTransaction, WorkError
from paceline.inference.run import TokenStep
from paceline.ledger import beacon, clock, marked, nodes, race, race_claims, tasks, training
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import CHECKING, OPEN_TASKS, TASKS
from paceline.network.wire import PeerRequest
from paceline.node.answers import answering
from paceline.node.dummies import idle
from paceline.node.dummies.idle import QUIET_SECONDS, is_occupied
from paceline.node.duties import BACKGROUND
from paceline.node.roles import executor
from paceline.node.roles.executor import ExecutorRole
from paceline.protocol.answers import EndFrame, decode_frame
from paceline.protocol.codec import encode
from paceline.protocol.dummies import SubmitMarked
from paceline.protocol.params import TINY

WINDOW = 3
HEIGHT = WINDOW * TINY.dummies.marked_blocks + 20
NUMBER = WINDOW * TINY.dummies.marked_per_window
PATIENCE_SECONDS = 20.0


class Pace:
    """A model whose marked answers go on only when a test lets them; notes what was made."""

    def __init__(self) -> None:
        self.go_on, self.began = threading.Event(), threading.Event()
        self.made: list[str] = []
        self.kinds: list[str] = []
        self.fails = False

    def generate(self, _model, generation, *, should_stop, **_options):
        for number in range(3):
            if generation.name == "marked":
                self.began.set()
                assert self.go_on.wait(PATIENCE_SECONDS)
            if self.fails:
                raise WorkError("out of memory")
            self.made.append(generation.name)
            yield TokenStep(token_id=number, text="a", logprob_micronats=-1, finish_reason=None)
            if should_stop():
                return

    async def run(self, kind, function, *arguments):
        self.kinds.append(kind)
        return await asyncio.to_thread(function, *arguments)


class Scene:
    """The first executor of a user's task after a Race, with nobody about, and a clock that a test moves."""

    def __init__(self, folder, monkeypatch) -> None:
        self.state, self.folder, self.pace, self.now = make_state(HEIGHT), folder, Pace(), 0.0
        self.session_id = open_user_session(self.state)
        self.key = find_key(get_order(self.state, self.session_id)[0])
        self.set_phase(race.DONE)
        # The latest window that any test reaches is the next one.
        for window in (WINDOW, WINDOW + 1):
            index = -(-window * TINY.dummies.marked_blocks // TINY.beacon_interval)
            value = beacon.BeaconValue(bytes([window]) * 32, b"", 0, HEIGHT)
            beacon.VALUES.put(self.state, index.to_bytes(8, "big"), value)
        monkeypatch.setattr("paceline.inference.backend.generate", self.pace.generate)
        for module, name in ((executor, "user"), (idle, "marked")):
            plan = SimpleNamespace(prompt_tokens=(1, 2, 3, 4, 5), name=name)
            monkeypatch.setattr(module, "build_generation", lambda *_, plan=plan: plan)
        transcript = SimpleNamespace(finish_reason="length", output_tokens=(0, 1, 2))
        monkeypatch.setattr(answering, "build_transcript", lambda *_: transcript)
        monkeypatch.setattr(answering, "encode_transcript", lambda _: b"transcript")
        self.restart()

    def restart(self) -> None:
        self.context = make_context(self.state, self.key, self.folder)
        self.context.settings.idle = "dummy"
        self.context.threads = SimpleNamespace(run=self.pace.run)
        self.role = ExecutorRole(self.context, SimpleNamespace(get=self.get_model), make_group_key(self.key))
        self.worker = self.role._idle
        self.worker._clock = lambda: self.now
        self.worker._asked_at = self.now

    async def get_model(self, model_id, *, cheap=False):
        return SimpleNamespace(model_id=model_id, cheap=cheap, traced_states=0)

    def set_phase(self, phase) -> None:
        current = race.RaceState(clock.compute_epoch(TINY, HEIGHT), phase, HEIGHT)
        race_claims.STATE.put(self.state, b"", current)

    def block(self):
        """One height; the duties that it started."""
        self.context.duties.started.clear()
        self.role.on_block(self.state)
        return self.context.duties.started

    def wait(self, seconds=QUIET_SECONDS):
        self.now += seconds
        return self.block()

    def do_marked(self) -> None:
        self.pace.go_on.set()
        asyncio.run(self.wait()["marked"]())

    def list_files(self) -> list[str]:
        return [path.suffix for path in self.folder.rglob("*") if path.suffix in {".marked", ".receipt", ".payload"}]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


def test_an_idle_node_does_the_marked_task_of_its_window_and_sends_it_once(scene):
    scene.do_marked()
    assert scene.pace.made == ["marked"] * 3
    assert sorted(scene.list_files()) == [".marked", ".payload"]
    started = scene.block()
    assert list(started) == ["submit-marked"]
    asyncio.run(started["submit-marked"]())
    [sent] = scene.context.chain.sent
    payload = scene.role._maker.vault.get(compute_task_id(marked.compute_session(scene.key.address), NUMBER))
    assert payload
    assert (sent.number, sent.prompt_tokens, sent.completion_tokens) == (NUMBER, 5, 3)
    marked.apply_submission(scene.state, TINY, scene.key.address, sent, 0)
    assert scene.wait() == {}, "the window has no further one"
    assert scene.list_files() == [".payload"]
    scene.state.height += TINY.dummies.marked_blocks
    assert list(scene.wait()) == ["marked"]


def test_a_restarted_node_sends_what_it_did(scene):
    scene.do_marked()
    scene.restart()
    asyncio.run(scene.block()["submit-marked"]())
    assert isinstance(scene.context.chain.sent[0], SubmitMarked)


def test_invalid_submission_is_forgotten(scene):
    scene.do_marked()
    scene.context.chain.refusals = [InvalidTransaction("wrong-window", "too late")]
    asyncio.run(scene.block()["submit-marked"]())
    assert scene.list_files() == [".payload"]


def test_the_payload_stays_until_the_ledger_has_the_task(scene):
    scene.do_marked()
    scene.state.height -= scene.state.height % 16
    scene.block()
    assert ".payload" in scene.list_files()
    # Neither waiting nor on the ledger: nobody will ask for it.
    next(scene.folder.rglob("*.marked")).unlink()
    scene.block()
    assert scene.list_files() == []


def test_quiet_is_a_boundary(scene):
    assert scene.wait(QUIET_SECONDS - 0.001) == {}
    assert list(scene.wait(0.001)) == ["marked"]
    scene.worker.make_way()
    assert scene.wait(QUIET_SECONDS - 0.001) == {}


@pytest.mark.parametrize("way", ["ready", "release"])
def test_other_ways_of_being_idle_do_no_marked_work(scene, way):
    scene.context.settings.idle, scene.context.settings.release_after_seconds = way, 600.0
    scene.role._host.release = lambda _seconds: False
    assert scene.wait() == {}


def test_an_order_drops_marked_work_and_does_not_wait_for_it(scene):
    """The user's answer is whole while the marked one is still held in its first step; that one leaves nothing."""
    order = make_order(scene.session_id, scene.key.address)
    request = PeerRequest(sender=RELAY.public_key, sender_address=RELAY.address, path="task", body=encode(order))

    async def collect():
        return [decode_frame(frame) async for frame in scene.role.serve(request)]

    async def play():
        work = asyncio.create_task(scene.wait()["marked"]())
        await asyncio.to_thread(scene.pace.began.wait, PATIENCE_SECONDS)
        frames = await asyncio.wait_for(collect(), PATIENCE_SECONDS)
        assert not work.done()
        assert scene.pace.made == ["user"] * 3
        scene.pace.go_on.set()
        await work
        return frames

    assert isinstance(asyncio.run(play())[-1], EndFrame)
    # One step was under way; then it ended.
    assert scene.pace.made == ["user"] * 3 + ["marked"]
    assert sorted(scene.list_files()) == [".payload", ".receipt"]
    assert scene.pace.kinds == ["idle", "answer"]
    assert "idle" in BACKGROUND


@pytest.mark.parametrize("phase", [race.COMMIT, race.RACING, race.CLAIMS, race.CHECKS])
def test_a_race_stops_marked_work(scene, phase):
    async def play():
        work = asyncio.create_task(scene.wait()["marked"]())
        await asyncio.to_thread(scene.pace.began.wait, PATIENCE_SECONDS)
        # The search of the Race does not stand still for it.
        assert scene.context.serving.wait_idle(0.0)
        scene.set_phase(phase)
        assert scene.block() == {}
        scene.pace.go_on.set()
        await work

    asyncio.run(play())
    assert scene.pace.made == ["marked"]
    assert scene.list_files() == []
    scene.set_phase(race.CONFIRM)
    assert list(scene.wait()) == ["marked"]


def test_invalid_work_is_not_tried_again_in_its_window(scene):
    scene.pace.fails = True
    scene.do_marked()
    assert scene.list_files() == []
    assert scene.wait() == {}
    scene.state.height += TINY.dummies.marked_blocks
    assert list(scene.wait()) == ["marked"]


def test_invalid_request_for_this_model_is_left_alone(scene, monkeypatch):
    def refuse(*_):
        raise Invalid("messages", "this model has no chat template")

    monkeypatch.setattr(idle, "build_generation", refuse)
    scene.do_marked()
    assert scene.wait() == {}


def test_an_order_between_the_start_and_the_first_step_is_enough(scene):
    started = scene.wait()
    scene.worker.make_way()
    asyncio.run(started["marked"]())
    assert (scene.pace.made, scene.pace.kinds) == ([], [])


def test_a_guilty_node_has_no_marked_work_until_its_epoch_is_over(scene):
    nodes.update_node(scene.state, scene.key.address, guilty=clock.compute_epoch(TINY, HEIGHT))
    assert scene.wait() == {}
    nodes.update_node(scene.state, scene.key.address, guilty=clock.compute_epoch(TINY, HEIGHT) - 1)
    assert list(scene.wait()) == ["marked"]


def test_a_node_without_weight_or_chance_has_no_marked_work(scene):
    nodes.update_node(scene.state, scene.key.address, weight=0)
    assert scene.wait() == {}
    nodes.update_node(scene.state, scene.key.address, weight=1)
    assert list(scene.wait()) == ["marked"]
    scene.state.height += 2 * TINY.dummies.marked_blocks
    assert scene.wait() == {}


def test_who_trains_or_has_to_check_is_not_idle(scene):
    me, state = scene.key.address, scene.state
    assert not is_occupied(state, me)
    run = training.Run(
        owner=me, plan=b"", data_hash=b"", state_hash=b"", rounds=1, seats=1, segments=1, budget=0, pay_per_update=0,
        opened_at=0, phase=training.TRAINING, deadline=0, joined=(me,),
    )  # fmt: skip
    training.RUNS.put(state, bytes(16), run)
    assert is_occupied(state, me)
    assert not is_occupied(state, RELAY.address)
    training.RUNS.put(state, bytes(16), msgspec.structs.replace(run, phase=training.ENDED))
    assert not is_occupied(state, me)
    marked.apply_submission(state, TINY, RELAY.address, SubmitMarked(NUMBER, bytes(32), 1, 1), 0)
    [(task_id, task)] = TASKS.items(state)
    assert not is_occupied(state, me)
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=CHECKING, asked=(me,)))
    assert is_occupied(state, me)
    TASKS.put(state, task_id, msgspec.structs.replace(task, status=tasks.FINAL, asked=(me,)))
    OPEN_TASKS.delete(state, task_id)
    assert not is_occupied(state, me)
