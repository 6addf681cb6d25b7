"""The real vLLM server behind an executor: it answers through the network, a torch checker agrees, and its deaths are seen.

Needs `.tools/vllm`; `make test-long` builds it, and without it these tests fail.
"""

from __future__ import annotations

import contextlib
import json
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import openai
import psutil
import pytest
from up_process import wait_until

import paceline
from paceline.node.backends.vllm_server import find_python
from paceline.node.home import NewHome, create_home
from paceline.node.settings import VLLM, load_settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_000)]

MODEL = "smollm2-135m-instruct"
VICTIM, TWIN = "node-2", "node-3"
START_SECONDS = 1_200.0
SOON_SECONDS = 30.0


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A gateway, an executor with vLLM and one with torch, which check each other."""
    find_python("")
    path = tmp_path_factory.mktemp("vllm") / "home"
    home = create_home(path, NewHome(nodes=3, seed=3))
    for name in home.node_names():
        former = load_settings(home.node_path(name) / "node.toml")
        changes = {VICTIM: {"backend": VLLM}, TWIN: {}}.get(name, {"serves": False})
        home.save_settings(msgspec.structs.replace(former, trains=False, **changes))
    with paceline.local_network(home=path) as network:
        network.wait(lambda report: report.race.phase == "done", 300, "the first Race")
        yield network


@pytest.fixture(scope="module")
def client(net):
    with net.openai_client(max_retries=0, timeout=120) as client:
        yield client


def ask(client, number: int, *, tokens: int = 24):
    """(executor, answer) of one request; the executor is empty when nobody answered."""
    messages = [{"role": "user", "content": f"Write a story about {number} cyclists in the mountains."}]
    try:
        reply = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, max_tokens=tokens)
    except openai.APIError:
        return "", None
    return reply.headers["x-paceline-executor"], reply.parse()


def answers_of_vllm(client, wanted: int, *, tokens: int = 24):
    """Answers of the node with vLLM, asking several at once until there are enough."""
    found = []

    def is_enough() -> bool:
        with ThreadPoolExecutor(4) as pool:
            for executor, answer in pool.map(lambda number: ask(client, number, tokens=tokens), range(4)):
                if executor == VICTIM:
                    found.append(answer)
        return len(found) >= wanted

    wait_until(is_enough, START_SECONDS, "vLLM answers")
    return found


@contextlib.contextmanager
def open_stream(client):
    """A long answer of the node with vLLM that has begun to come; yields its iterator."""
    for number in range(60):
        messages = [{"role": "user", "content": f"Write a long story about {number} cyclists."}]
        with client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=messages, max_tokens=900, stream=True, temperature=1.2
        ) as reply:
            if reply.headers["x-paceline-executor"] == VICTIM:
                lines = reply.iter_lines()
                begun = [line for line, _ in zip(lines, range(12), strict=False)]
                assert any('"content"' in line for line in begun)
                yield lines
                return
    raise AssertionError("no request was drawn to vLLM")


def find_node() -> psutil.Process:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if VICTIM in child.cmdline():
                return child
    raise AssertionError("the node does not run")


def find_server() -> psutil.Process:
    """The process that speaks HTTP; the model runs in a child of it."""
    (server,) = [child for child in find_node().children() if "vllm_launch" in " ".join(child.cmdline())]
    return server


def count_running() -> float:
    """Answers that vLLM is writing now, as it says itself."""
    (listener,) = [link.laddr for link in find_server().net_connections("tcp4") if link.status == psutil.CONN_LISTEN]
    text = httpx.get(f"http://{listener.ip}:{listener.port}/metrics", trust_env=False).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))


def are_gone(processes) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_while_vllm_starts_another_node_answers(net, client):
    executor, answer = ask(client, 0)
    assert executor == TWIN
    assert answer.choices[0].message.content.strip()


def test_vllm_answers_and_a_checker_on_another_engine_agrees(net, client):
    answers = answers_of_vllm(client, 6, tokens=48)
    assert all(answer.choices[0].message.content.strip() for answer in answers)
    report = net.wait(lambda now: now.inference.verified.get(VICTIM, 0) >= 1, 300, "a verdict on an answer of vLLM")
    assert report.inference.rejected_nodes == []


def test_a_user_who_leaves_frees_the_row_at_once(net, client):
    with open_stream(client):
        assert count_running() >= 1
    wait_until(lambda: count_running() == 0, SOON_SECONDS, "vLLM lets go of the cancelled answer")


def test_a_killed_servers_answer_goes_on_elsewhere_or_ends_with_an_error_and_it_comes_back(net, client):
    server = find_server()
    family = [server, *server.children(recursive=True)]
    with open_stream(client) as lines:
        server.send_signal(signal.SIGKILL)
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    # The other engine makes the same answer again; a near tie that it breaks otherwise within the part already sent ends it.
    errors = [chunk["error"]["message"] for chunk in rest if "error" in chunk]
    finished = [chunk["paceline"]["executor"] for chunk in rest if "paceline" in chunk]
    if errors:
        assert "could go on" in errors[0]
        assert finished == []
    else:
        assert finished == [TWIN]
    wait_until(lambda: are_gone(family), SOON_SECONDS, "what the dead server spawned ends too")
    executor, answer = ask(client, 1)
    assert executor == TWIN
    assert answer.choices[0].message.content.strip()
    assert answers_of_vllm(client, 1)
    assert find_server().pid != server.pid


def test_a_killed_node_leaves_no_server_behind(net):
    server = find_server()
    family = [server, *server.children(recursive=True)]
    assert len(family) > 1
    find_node().send_signal(signal.SIGKILL)
    wait_until(lambda: are_gone(family), SOON_SECONDS, "the server ends with its node")
