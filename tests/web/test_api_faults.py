"""Slow, broken and hostile clients: each gets one clear refusal, and nobody else notices."""

from __future__ import annotations

import json
import socket

import httpx
import openai
import pytest
from openai import OpenAI
from scripted_gateway import GOOD_KEY, MODEL, LoopbackServer, ScriptedGateway

from paceline.node.patience import PatientProtocol
from paceline.node.views import RequestRefused, UpstreamFailed
from paceline.web.settings import WebSettings

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/batches")
JSON = {"content-type": "application/json"}


def test_a_hundred_slow_clients_hold_up_nobody(gateway: ScriptedGateway):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with LoopbackServer(gateway, WebSettings(body_timeout_seconds=1.0)) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(100)]
        for client in slow:
            client.sendall(head)
        reply = httpx.post(
            f"{server.url}/v1/completions", json={"model": MODEL, "prompt": "x"}, trust_env=False, timeout=20
        )
        assert reply.status_code == 200
        for client in slow:
            with client, client.makefile("rb") as told:
                assert told.readline().startswith(b"HTTP/1.1 408 ")
    assert len(gateway.completions) == 1


class HastyProtocol(PatientProtocol):
    head_seconds = 0.2


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_head_that_never_ends_is_cut_off(gateway: ScriptedGateway, sent):
    with (
        LoopbackServer(gateway, protocol=HastyProtocol) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        client.sendall(sent)
        assert client.recv(100) == b""


def test_a_second_head_that_never_ends_is_cut_off_too(gateway: ScriptedGateway):
    with (
        LoopbackServer(gateway, protocol=HastyProtocol) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
        client.makefile("rb") as told,
    ):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        assert told.read().count(b"HTTP/1.1 200 OK") == 1


def test_an_answer_may_take_longer_than_a_head(gateway: ScriptedGateway):
    gateway.hang = True
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": True}).encode()
    with (
        LoopbackServer(gateway, protocol=HastyProtocol) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as client,
    ):
        client.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert not gateway.closed.wait(0.5)


@pytest.mark.parametrize("path", ROUTES)
def test_invalid_bodies_of_every_route(http: httpx.Client, gateway: ScriptedGateway, path):
    bodies = [b"", b"{", b"[]", b'{"model":"\xff"}', b"[" * 200_000, b'{"a":' * 100_000, json.dumps({"x": 1}).encode()]
    deep = {"model": MODEL, "metadata": None}
    bodies += [json.dumps(deep)[:-1].encode() + b', "input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"]
    for body in bodies:
        reply = http.post(path, content=body, headers=JSON)
        assert reply.status_code == 400, body[:20]
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert http.post(path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert http.post(path, content=b"{}" + b" " * (1 << 20), headers=JSON).status_code == 413
    assert not gateway.chats + gateway.completions + gateway.embeds


@pytest.mark.parametrize("path", ROUTES[:4])
def test_invalid_model_on_every_route(http: httpx.Client, path):
    body = {"model": "gpt-9", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    needed = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}.get(path, "input")
    reply = http.post(path, json={"model": "gpt-9", needed: body[needed]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("n", [129, 10**9, 2**70, -1])
def test_invalid_number_of_choices(http: httpx.Client, gateway: ScriptedGateway, n):
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "n": n})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")
    assert gateway.completions == []


def test_boundary_of_the_choices(client: OpenAI):
    answer = client.completions.create(model=MODEL, prompt="x", n=128)
    assert [choice.index for choice in answer.choices] == list(range(128))


def test_a_prompt_over_the_context_is_told_by_name(client: OpenAI, gateway: ScriptedGateway):
    gateway.fail_before = RequestRefused("prompt", "context_length_exceeded", "the prompt has 9999 tokens")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="x", stream=stream)
        assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


def test_one_of_several_choices_breaks_off(client: OpenAI, gateway: ScriptedGateway):
    gateway.fail_after = UpstreamFailed("gone")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model=MODEL, prompt=["a", "b"])
    stream = client.completions.create(model=MODEL, prompt=["a", "b"], stream=True)
    with stream, pytest.raises(openai.APIError):
        list(stream)
    assert gateway.open_chats == 0


def test_a_client_that_leaves_stops_every_choice(server: LoopbackServer, gateway: ScriptedGateway, http: httpx.Client):
    gateway.hang = True
    body = {"model": MODEL, "prompt": ["a", "b", "c"], "n": 2, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as reply:
        reply_lines = reply.iter_lines()
        next(reply_lines)
    while gateway.open_chats:
        http.get("/health")
    assert len(gateway.completions) == 3


def test_the_client_retries_a_fault_of_ours_only_where_that_helps(server: LoopbackServer, gateway: ScriptedGateway):
    gateway.fail_before = UpstreamFailed("gone")
    client = OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=3)
    with client, pytest.raises(openai.InternalServerError):
        client.embeddings.create(model=MODEL, input="x")
    assert len(gateway.embeds) == 1
