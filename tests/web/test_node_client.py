"""The unmodified official client for Node.js against a real server: what it retries, pages, decodes and throws by itself."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from scripted_gateway import EXECUTOR, MODEL, LoopbackServer, ScriptedGateway

from paceline.node.views import Busy, OutOfFunds, RequestRefused, UpstreamFailed

CLIENT = Path(__file__).resolve().parents[2] / ".tools" / "node"
SCRIPT = Path(__file__).with_name("node_client.mjs")


@pytest.fixture
def play(server: LoopbackServer):
    """Plays a scene of node_client.mjs and returns what it saw."""
    assert (CLIENT / "node").exists(), "make tools-node"

    def run(scene: str, *, retries: int = 0) -> dict:
        command = [CLIENT / "node", SCRIPT, CLIENT, f"{server.url}/v1", scene, MODEL, str(retries)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_models(play):
    assert play("models") == {"listed": [MODEL], "one": "paceline"}


def test_whole_answer(play, gateway: ScriptedGateway):
    assert play("whole") == {"content": "Hello, world", "tokens": 10, "executor": EXECUTOR}
    ((_, request),) = gateway.chats
    assert request.seed == 3


def test_stream_with_usage(play):
    assert play("stream") == {"text": "Hello, world", "tokens": 10}


def test_the_stream_helper(play):
    assert play("helper") == {"content": "Hello, world", "reason": "stop"}


def test_aborting_frees_the_answer(play, gateway: ScriptedGateway):
    gateway.hang = True
    assert play("abort") == {"aborted": True}
    assert gateway.closed.wait(10)
    assert gateway.open_chats == 0


def test_embeddings_come_as_base64_and_as_numbers(play):
    expected = [[1.0, 0.0], [1.0, -1.0]]
    assert play("embeddings") == {"vectors": expected, "plain": expected}


def test_files_page_by_page(play):
    found = play("files")
    assert found["paged"] == found["made"]
    assert len(set(found["made"])) == 3
    assert found["same"]


def test_responses_whole_and_streamed(play):
    assert play("response") == {"text": "Hello, world", "first": "response.created", "last": "response.completed"}


@pytest.mark.parametrize(
    ("error", "name", "status", "code"),
    [
        (OutOfFunds("too dear"), "RateLimitError", 429, "insufficient_quota"),
        (UpstreamFailed("gone"), "InternalServerError", 502, "upstream_failed"),
        (
            RequestRefused("messages", "context_length_exceeded", "long"),
            "BadRequestError",
            400,
            "context_length_exceeded",
        ),
    ],
)
def test_invalid_what_a_repeat_cannot_help_is_not_repeated(play, gateway, error, name, status, code):
    gateway.fail_before = error
    found = play("whole", retries=3)
    assert (found["error"], found["status"], found["code"]) == (name, status, code)
    assert len(gateway.chats) == 1


def test_a_busy_network_is_asked_again_when_it_said(play, gateway: ScriptedGateway):
    gateway.fail_before = Busy("full", 1)
    began = time.monotonic()
    found = play("whole", retries=2)
    assert (found["error"], found["code"]) == ("RateLimitError", "busy")
    assert len(gateway.chats) == 3
    # One second each, as the header says; the client's own pauses would be half of that.
    assert time.monotonic() - began >= 2


def test_invalid_error_in_mid_stream_is_thrown(play, gateway: ScriptedGateway):
    gateway.fail_after = UpstreamFailed("the node went away")
    found = play("stream", retries=3)
    assert found["error"] == "APIError"
    assert found["code"] == "upstream_failed"
    assert len(gateway.chats) == 1
