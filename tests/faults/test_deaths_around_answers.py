"""Whoever dies around an answer, and whatever epoch begins meanwhile: users lose nothing, and nobody honest is punished."""

from __future__ import annotations

import contextlib
import json
import signal
from contextlib import closing

import httpx
import msgspec
import openai
import pytest
from chain_observer import Observer, observe
from up_process import UpProcess, wait_until

from paceline.cli.network import ControlClient
from paceline.ledger import nodes
from paceline.ledger.sessions import GRACE_BLOCKS, SESSIONS, compute_task_id
from paceline.ledger.tasks import FINAL, GUILTY, TASKS
from paceline.node.home import NewHome, create_home
from paceline.protocol.params import PRESETS, TINY

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
RELAY = "node-1"
PARAMS = msgspec.structs.replace(TINY, epoch_blocks=1_500, session_blocks=600, check_blocks=40, dispute_blocks=40)
SOON_SECONDS = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A network of four whose sessions, checks and epochs are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny-short", PARAMS)
        return create_home(tmp_path_factory.mktemp("deaths") / "home", NewHome(nodes=4, seed=8, preset="tiny-short"))


@pytest.fixture(scope="module")
def up(home):
    with UpProcess(home) as process:
        process.wait_ready()
        with closing(control(process)) as client:
            wait_until(lambda: phase(client) == "done", SOON_SECONDS, "the first Race")
        yield process


@pytest.fixture
def observer(home) -> Observer:
    return observe(home)


def control(up) -> ControlClient:
    return ControlClient(up.url, up.home.load_token())


def phase(client) -> str:
    return client.get("/report", dict)["race"]["phase"]


def height_of(client) -> int:
    return client.get("/status", dict)["height"]


def ask(url: str, number: int) -> dict:
    """The receipt of one answer."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        messages = [{"role": "user", "content": f"Say something about the number {number}."}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8)
    assert answer.choices[0].message.content.strip()
    return answer.paceline


def break_off(up) -> tuple[bytes, list[str]]:
    """Kill the relay in the middle of an answer: the task, and the lines that came before the connection broke."""
    question = [{"role": "user", "content": "Tell a long story of a race."}]
    body = {"model": MODEL, "messages": question, "max_tokens": 400, "stream": True}
    task, lines = b"", []
    with (
        contextlib.suppress(httpx.TransportError),
        httpx.Client(timeout=60, trust_env=False) as client,
        client.stream("POST", f"{up.url}/v1/chat/completions", json=body) as reply,
    ):
        task = bytes.fromhex(reply.headers["x-paceline-task"])
        for line in reply.iter_lines():
            lines.append(line)
            if len(lines) == 20:
                up.kill_node(RELAY)
        raise AssertionError("the stream came to an end of its own")
    return task, lines


def test_a_relay_that_dies_breaks_the_stream_and_the_deposit_comes_back(up, observer):
    task, lines = break_off(up)
    # Nothing that a client could take for the end of an answer.
    assert len(lines) >= 20
    assert not [line for line in lines if "[DONE]" in line or '"finish_reason":"' in line]
    up.wait_ready()
    wait_until(lambda: is_answered(up.url), SOON_SECONDS, "the relay answers again")
    observer.catch_up(observer.replica.height + 2)
    state = observer.read()
    before = {session_id for session_id, session in SESSIONS.items(state) if holds(session_id, session, task)}
    assert before
    # Sessions end by themselves; what no receipt took is the owner's again.
    end = max(SESSIONS.get(state, session_id).expires_at for session_id in before) + GRACE_BLOCKS + 2
    with closing(control(up)) as client:
        client.post("/advance", {"height": end}, dict)
    observer.catch_up(end)
    assert not before & set(dict(SESSIONS.items(observer.read())))
    assert observer.find_problems() == []
    assert all(times == 1 for times in observer.paid.values())


def holds(session_id, session, task) -> bool:
    return any(compute_task_id(session_id, index) == task for index in range(session.max_tasks))


def is_answered(url) -> bool:
    try:
        return bool(ask(url, 0))
    except openai.APIError:
        return False


def test_a_checker_that_stands_still_misses_its_duty_and_no_answer_is_lost(up, observer):
    addresses = observer.addresses
    asleep = addresses["node-4"]
    victim = up.find_node("node-4")
    victim.send_signal(signal.SIGSTOP)
    try:
        tasks = [bytes.fromhex(ask(up.url, number)["task"]) for number in range(8)]
        done = observer.follow(lambda state: all(is_final(state, task) for task in tasks))
    finally:
        victim.send_signal(signal.SIGCONT)
    found = [TASKS.get(done, task) for task in tasks]
    missed = [task for task in found if asleep in task.drawn]
    assert missed, "nobody drew the sleeper: ask more"
    assert all(asleep not in {vote.voter for vote in task.votes} for task in missed)
    assert {task.status for task in found}.isdisjoint({GUILTY})
    assert all(task.executor != asleep for task in found)
    awake = {nodes.NODES.get(done, address).guilty for name, address in addresses.items() if name != "node-4"}
    assert awake == {-1}
    height = done.height
    wait_until(lambda: observer.has_block("node-4", height), SOON_SECONDS, "the sleeper follows again")
    assert observer.find_problems() == []


def is_final(state, task_id) -> bool:
    task = TASKS.get(state, task_id)
    return task is not None and task.status in {FINAL, GUILTY}


def test_requests_over_an_epoch_change_are_answered_and_counted_in_one_epoch(up, observer):
    with closing(control(up)) as client:
        ledger = client.get("/report", dict)["ledger"]
        change, epoch = ledger["epoch_ends"], ledger["epoch"]
        client.post("/advance", {"height": change - 24}, dict)
        wait_until(lambda: height_of(client) >= change - 24, SOON_SECONDS, "the end of the epoch is near")
        receipts, heights = [], []
        while not heights or heights[-1] < change + 12:
            receipts.append(ask(up.url, len(receipts)))
            heights.append(height_of(client))
        assert heights[0] < change < heights[-1]
        report = client.get("/report", dict)
    assert report["ledger"]["epoch"] == epoch + 1
    assert report["ledger"]["supply_conserved"] and not report["ledger"]["violations"]
    tasks = {bytes.fromhex(receipt["task"]) for receipt in receipts}
    observer.follow(lambda _: tasks <= set(observer.paid))
    assert observer.find_problems() == []
    assert {observer.paid[task] for task in tasks} == {1}


def test_stream_lines_are_json(up):
    """What the first test looks for in a broken stream is there in a whole one."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
    text = httpx.post(f"{up.url}/v1/chat/completions", json=body, timeout=60, trust_env=False).text
    assert "data: [DONE]" in text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])
    assert '"finish_reason":"' in text
