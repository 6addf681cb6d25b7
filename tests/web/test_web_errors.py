"""Refusals as bytes on the wire: always the four keys, and nothing reaches the gateway."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from scripted_gateway import MODEL, LoopbackServer, ScriptedGateway

from paceline.web.settings import WebSettings

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def read_error(reply: httpx.Response) -> dict[str, str | None]:
    assert reply.headers["content-type"] == "application/json"
    (error,) = reply.json().values()
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


@pytest.mark.parametrize("path", ["/nothing", "/v1/images", "/v1/v1/models", "/static/0/x.js", "/docs", "/redoc"])
def test_invalid_route(http: httpx.Client, path):
    reply = http.get(path)
    assert (reply.status_code, read_error(reply)["code"]) == (404, "unknown_url")


def test_invalid_method(http: httpx.Client):
    reply = http.get(PATH)
    assert (reply.status_code, read_error(reply)["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"{", None, "invalid_json"),
        (b'{"model":"\xff"}', None, "invalid_json"),
        (json.dumps(BODY | {"max_tokens": -1}).encode(), "max_tokens", "invalid_value"),
        (json.dumps(BODY | {"max_tokens": 2049}).encode(), "max_tokens", "context_length_exceeded"),
        (json.dumps(BODY | {"max_tokens": 10**40}).encode(), "max_tokens", "invalid_value"),
        (json.dumps(BODY | {"messages": []}).encode(), "messages", "invalid_value"),
        (json.dumps(BODY | {"n": 300}).encode(), "n", "invalid_value"),
    ],
)
def test_invalid_body(http: httpx.Client, gateway: ScriptedGateway, body, param, code):
    reply = http.post(PATH, content=body, headers=JSON)
    error = read_error(reply)
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
    assert gateway.chats == []


def test_invalid_model(http: httpx.Client, gateway: ScriptedGateway):
    reply = http.post(PATH, json=BODY | {"model": "gpt-9"})
    error = read_error(reply)
    assert (reply.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
    assert gateway.chats == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_invalid_content_type(http: httpx.Client, gateway: ScriptedGateway, kind):
    reply = http.post(PATH, content=json.dumps(BODY), headers={"content-type": kind})
    assert (reply.status_code, read_error(reply)["code"]) == (415, "unsupported_media_type")
    assert gateway.chats == []


@pytest.mark.parametrize("value", ["sk-good", "Basic abc", "Bearer", "bearer"])
def test_invalid_authorization_header(http: httpx.Client, value):
    reply = http.post(PATH, json=BODY, headers={"authorization": value})
    assert (reply.status_code, read_error(reply)["code"]) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_boundary_of_the_body_limit(gateway: ScriptedGateway):
    with LoopbackServer(gateway, WebSettings(body_limit_bytes=1000)) as server, httpx.Client(trust_env=False) as http:
        body = json.dumps(BODY).encode()
        exact = http.post(server.url + PATH, content=body.ljust(1000), headers=JSON)
        assert exact.status_code == 200
        for size in (1001, 15_000, 40_000):
            reply = http.post(server.url + PATH, content=body.ljust(size), headers=JSON)
            assert (reply.status_code, read_error(reply)["code"]) == (413, "body_too_large")
        chunked = http.post(server.url + PATH, content=iter([body.ljust(900), b" " * 900]), headers=JSON)
        assert chunked.status_code == 413
    assert len(gateway.chats) == 1


def test_invalid_body_over_the_default_limit(http: httpx.Client, gateway: ScriptedGateway):
    long = {"role": "user", "content": "x" * (1 << 20)}
    reply = http.post(PATH, json=BODY | {"messages": [long]})
    assert reply.status_code == 413
    assert gateway.chats == []


def test_invalid_body_that_never_ends(gateway: ScriptedGateway):
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    with LoopbackServer(gateway, WebSettings(body_timeout_seconds=0.05)) as server:
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        with raw, raw.makefile("rb") as reply:
            raw.sendall(head)
            told = reply.read()
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in told
    assert gateway.chats == []


def test_health(http: httpx.Client):
    assert http.get("/health").json() == {"status": "ok", "height": 1}
