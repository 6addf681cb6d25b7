"""A client that goes away: the gateway's iterator is closed, in whatever state the reply was."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from openai import OpenAI
from scripted_gateway import MODEL, LoopbackServer, ScriptedGateway

MESSAGES = [{"role": "user", "content": "hi"}]
PROMPT_SECONDS = 5


def post_raw(server: LoopbackServer, **options: object) -> socket.socket:
    body = json.dumps({"model": MODEL, "messages": MESSAGES} | options).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    raw.sendall(head.encode() + body)
    return raw


def test_leaving_a_stream_while_the_node_thinks(client: OpenAI, gateway: ScriptedGateway):
    gateway.hang = True
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        seen = [next(stream).choices[0].delta.content for _ in range(4)]
        assert "".join(seen) == "Hello, world"
        assert not gateway.closed.is_set()
    assert gateway.closed.wait(PROMPT_SECONDS)
    assert gateway.open_chats == 0


def test_leaving_a_whole_answer(server: LoopbackServer, gateway: ScriptedGateway):
    gateway.hang = True
    with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ReadTimeout):
        http.post(f"{server.url}/v1/chat/completions", json={"model": MODEL, "messages": MESSAGES}, timeout=0.3)
    assert gateway.closed.wait(PROMPT_SECONDS)


def test_a_reader_that_stalls_holds_generation_back_until_it_leaves(server: LoopbackServer, gateway: ScriptedGateway):
    gateway.endless = True
    with post_raw(server, stream=True) as raw:
        assert raw.recv(12) == b"HTTP/1.1 200"
    assert gateway.closed.wait(PROMPT_SECONDS)
    made = gateway.produced
    assert gateway.open_chats == 0
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
    assert gateway.produced == made


def test_leaving_before_the_body_is_complete(server: LoopbackServer, gateway: ScriptedGateway):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
    assert gateway.chats == []


def test_a_complete_answer_closes_too(client: OpenAI, gateway: ScriptedGateway):
    client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert gateway.closed.wait(PROMPT_SECONDS)
    assert gateway.open_chats == 0
