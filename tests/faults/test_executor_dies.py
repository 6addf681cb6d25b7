"""`kill -9` of the node that is answering: the client sees one whole answer, made again by the next drawn node, paid once."""

from __future__ import annotations

import json
import time

import httpx
import pytest

import paceline
from paceline.cli.network import Network

MODEL = "smollm2-135m-instruct"
TOKENS = 200
DONE = "[DONE]"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    home = tmp_path_factory.mktemp("network") / "home"
    with paceline.local_network(nodes=4, home=home, seed=5) as network:
        network.wait(lambda report: report.race.phase == "done", 240, "the first Race")
        yield network


def ask(net: Network, kill_after: int | None = None) -> tuple[list[dict], str]:
    """The chunks of one answer, and who began it; that node's process is killed behind so many pieces of text."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell a long story of a race in the mountains."}],
        "max_tokens": TOKENS,
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks, pieces = [], 0
    url = f"{net.base_url}/chat/completions"
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("POST", url, json=body) as reply:
        assert reply.status_code == 200
        executor = reply.headers["x-paceline-executor"]
        for line in reply.iter_lines():
            if line.startswith("data: ") and line[6:] != DONE:
                chunks.append(json.loads(line[6:]))
                pieces += 1
                if pieces == kill_after:
                    net.supervisor._children[executor].kill()
    return chunks, executor


def join(chunks) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def count_charged(net: Network) -> int:
    return sum(net.report().inference.answered.values())


def test_the_answer_goes_on_and_is_paid_once(net):
    whole, _ = ask(net)
    net.wait(lambda report: sum(report.inference.answered.values()) >= 1, 60, "the first receipt")
    before = count_charged(net)
    began = time.monotonic()
    chunks, first = ask(net, kill_after=20)
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert join(chunks) == join(whole)
    [receipt] = [chunk["paceline"] for chunk in chunks if "paceline" in chunk]
    assert receipt["executor"] != first
    assert chunks[-1]["usage"] == whole[-1]["usage"]
    assert time.monotonic() - began < 60
    net.wait(lambda report: sum(report.inference.answered.values()) > before, 60, "the receipt")
    assert count_charged(net) == before + 1
