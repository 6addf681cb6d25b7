"""Limits of API keys, and idempotency keys: one request, one answer, one payment."""

from __future__ import annotations

import json
import threading

import httpx
import openai
import pytest
from openai import OpenAI
from scripted_gateway import GOOD_KEY, MODEL, LoopbackServer, ScriptedGateway

from paceline.node.api.desk import ApiDesk
from paceline.node.views import KeyLimits, UpstreamFailed

PATH = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
AUTH = {"authorization": f"Bearer {GOOD_KEY}"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_is_full(gateway: ScriptedGateway):
    gateway.limits, clock = KeyLimits(requests_per_minute=2), Clock()
    with LoopbackServer(gateway, desk=ApiDesk(now=clock)) as server, httpx.Client(trust_env=False, timeout=20) as http:
        first, second, third = (http.post(server.url + PATH, json=BODY, headers=AUTH) for _ in range(3))
        assert (first.status_code, first.headers["x-ratelimit-limit-requests"]) == (200, "2")
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in (first, second)] == ["1", "0"]
        assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(third.headers["retry-after"]) <= 61
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        other = http.post(server.url + PATH, json=BODY)
        assert other.status_code == 200, "keys do not share a limit"
        clock.now += 61
        assert http.post(server.url + PATH, json=BODY, headers=AUTH).status_code == 200


def test_the_client_waits_and_tries_again(gateway: ScriptedGateway):
    gateway.limits, clock = KeyLimits(requests_per_minute=1), Clock()

    def now() -> float:
        clock.now += 59.5
        return clock.now

    with (
        LoopbackServer(gateway, desk=ApiDesk(now=now)) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=2) as client,
    ):
        for _ in range(2):
            client.chat.completions.create(**BODY)
    assert len(gateway.chats) == 2


def test_a_day_is_used_up_and_the_next_begins(gateway: ScriptedGateway):
    gateway.limits, clock = KeyLimits(tokens_per_day=30), Clock()
    with LoopbackServer(gateway, desk=ApiDesk(now=clock)) as server, httpx.Client(trust_env=False, timeout=20) as http:
        asked = BODY | {"max_tokens": 3}
        replies = [http.post(server.url + PATH, json=asked, headers=AUTH) for _ in range(4)]
        # Each answer used 10 tokens, and was expected to use at most 4.
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        error = replies[3].json()["error"]
        assert (error["code"], error["type"]) == ("daily_limit_exceeded", "rate_limit_error")
        assert replies[3].headers["x-should-retry"] == "false"
        assert replies[3].headers["x-ratelimit-remaining-tokens"] == "0"
        clock.now += 24 * 3600
        assert http.post(server.url + PATH, json=asked, headers=AUTH).status_code == 200


def test_spending_of_a_day(gateway: ScriptedGateway):
    gateway.limits = KeyLimits(nicoin_per_day=15_000)
    with LoopbackServer(gateway) as server, httpx.Client(trust_env=False, timeout=20) as http:
        asked = BODY | {"max_tokens": 3}
        statuses = [http.post(server.url + PATH, json=asked, headers=AUTH).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert len(gateway.chats) == 2


def test_leaving_early_is_no_way_around_a_limit(gateway: ScriptedGateway):
    gateway.limits, gateway.hang = KeyLimits(tokens_per_day=1500), True
    desk = ApiDesk()
    with LoopbackServer(gateway, desk=desk) as server, httpx.Client(trust_env=False, timeout=20) as http:
        with http.stream("POST", server.url + PATH, json=BODY | {"stream": True}, headers=AUTH) as reply:
            reply_lines = reply.iter_lines()
            next(reply_lines)
        assert gateway.closed.wait(20)
        while not (spent := desk.meter.get_today(f"id-{GOOD_KEY}")).requests:
            http.get(server.url + "/health")
    assert spent.completion_tokens == 3
    assert spent.prompt_tokens >= 1


def test_models_of_a_key(server: LoopbackServer, gateway: ScriptedGateway, http: httpx.Client):
    gateway.limits = KeyLimits(models=("another",))
    reply = http.post(PATH, json=BODY, headers=AUTH)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "key_forbidden")
    gateway.limits = KeyLimits(models=(MODEL,))
    assert http.post(PATH, json=BODY, headers=AUTH).status_code == 200
    assert len(gateway.chats) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_gets_the_same_answer_and_costs_nothing(http: httpx.Client, gateway: ScriptedGateway, stream):
    headers = AUTH | {"idempotency-key": "one"}
    body = BODY | {"stream": stream}
    first, second = (http.post(PATH, json=body, headers=headers) for _ in range(2))
    assert first.content == second.content
    assert (first.headers.get("x-paceline-repeated"), second.headers["x-paceline-repeated"]) == (None, "true")
    assert second.headers["x-paceline-task"] == first.headers["x-paceline-task"]
    assert second.headers["content-type"] == first.headers["content-type"]
    assert len(gateway.chats) == 1
    other = http.post(PATH, json=body, headers={"idempotency-key": "one"})
    assert other.content != first.content, "another API key, another answer"


def test_a_repeat_after_a_restart_and_after_a_day(gateway: ScriptedGateway, tmp_path):
    clock, headers = Clock(), AUTH | {"idempotency-key": "one"}
    for seconds, chats in ((0, 1), (86_399, 1), (1, 2)):
        clock.now += seconds
        desk = ApiDesk(tmp_path / "api.sqlite", now=clock)
        with LoopbackServer(gateway, desk=desk) as server:
            reply = httpx.post(server.url + PATH, json=BODY, headers=headers, trust_env=False, timeout=20)
        desk.close()
        assert reply.status_code == 200
        assert len(gateway.chats) == chats


def test_invalid_repeat_with_another_body(http: httpx.Client, gateway: ScriptedGateway):
    headers = {"idempotency-key": "one"}
    http.post(PATH, json=BODY, headers=headers)
    for path, body in ((PATH, BODY | {"seed": 1}), ("/v1/responses", {"model": MODEL, "input": "x"})):
        reply = http.post(path, json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(gateway.chats) == 1


@pytest.mark.parametrize("key", ["", "x" * 257, "a\tb"])
def test_invalid_idempotency_key(http: httpx.Client, key):
    reply = http.post(PATH, json=BODY, headers={"idempotency-key": key})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "idempotency-key")


def test_boundary_of_an_idempotency_key(http: httpx.Client):
    assert http.post(PATH, json=BODY, headers={"idempotency-key": "x" * 256}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_not_repeated(http: httpx.Client, gateway: ScriptedGateway, stream):
    headers, body = {"idempotency-key": "one"}, BODY | {"stream": stream}
    gateway.fail_after = UpstreamFailed("gone")
    http.post(PATH, json=body, headers=headers)
    gateway.fail_after = None
    good = http.post(PATH, json=body, headers=headers)
    assert good.status_code == 200
    assert "error" not in good.text
    assert len(gateway.chats) == 2


def test_a_second_request_under_way_is_refused(server: LoopbackServer, http: httpx.Client, gateway: ScriptedGateway):
    gateway.hang = True
    headers, body = {"idempotency-key": "one"}, BODY | {"stream": True}
    with http.stream("POST", PATH, json=body, headers=headers) as reply:
        # An iterator that is dropped hangs up.
        lines = reply.iter_lines()
        next(lines)
        second = http.post(PATH, json=body, headers=headers)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
        third = http.post(PATH, json=BODY, headers=headers)
        assert third.status_code == 422
    assert gateway.closed.wait(20)
    assert len(gateway.chats) == 1


def test_the_client_retries_under_its_key_until_the_first_is_done(server: LoopbackServer, gateway: ScriptedGateway):
    answers: list[str] = []

    def ask() -> None:
        with OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=5) as client:
            answer = client.chat.completions.create(**BODY, extra_headers={"Idempotency-Key": "k"})
        answers.append(answer.id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == ["chatcmpl-task-1"] * 4
    assert len(gateway.chats) == 1


def test_a_repeat_that_looked_before_the_first_one_ended_gets_its_answer(gateway: ScriptedGateway, monkeypatch):
    desk = ApiDesk()
    headers, looks, find = AUTH | {"idempotency-key": "one"}, [], desk.replies.get_repeat

    def look(*asked):
        looks.append(asked)
        return None if len(looks) == 1 else find(*asked)

    with LoopbackServer(gateway, desk=desk) as server, httpx.Client(trust_env=False, timeout=20) as http:
        first = http.post(server.url + PATH, json=BODY, headers=headers)
        monkeypatch.setattr(desk.replies, "get_repeat", look)
        second = http.post(server.url + PATH, json=BODY, headers=headers)
    assert second.content == first.content
    assert second.headers["x-paceline-repeated"] == "true"
    assert len(looks) == 2
    assert len(gateway.chats) == 1


def test_the_client_is_told_of_a_revoked_key(client: OpenAI, gateway: ScriptedGateway):
    client.chat.completions.create(**BODY)
    gateway.known_keys.discard(GOOD_KEY)
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**BODY)
    assert len(gateway.chats) == 1


@pytest.mark.parametrize("size", [500_000, 1_000_000])
def test_a_prompt_of_a_megabyte(http: httpx.Client, gateway: ScriptedGateway, size):
    body = json.dumps(BODY | {"messages": [{"role": "user", "content": "x" * size}]})
    assert http.post(PATH, content=body, headers={"content-type": "application/json"}).status_code == 200
    assert len(gateway.chats[0][1].messages[0].content) == size


def test_only_a_header_lends_a_prompt(http: httpx.Client, gateway: ScriptedGateway):
    for headers in ({}, {"x-paceline-share-prompt": "no"}, {"x-paceline-share-prompt": "yes"}):
        assert http.post(PATH, json=BODY, headers=headers).status_code == 200
    assert [account.shares_prompts for account, _ in gateway.chats] == [False, False, True]


def test_invalid_word_of_lending(http: httpx.Client, gateway: ScriptedGateway):
    reply = http.post(PATH, json=BODY, headers={"x-paceline-share-prompt": "true"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-paceline-share-prompt")
    assert gateway.chats == []
