"""The unmodified official client against a real server."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from scripted_gateway import EXECUTOR, GOOD_KEY, MODEL, LoopbackServer, ScriptedGateway

from paceline.node.views import Busy, ChatMessage, OutOfFunds, RequestRefused, UpstreamFailed
from paceline.web.settings import WebSettings

MESSAGES = [{"role": "user", "content": "hi"}]
GOLDEN = """\
data: {"id":"chatcmpl-task-1","object":"chat.completion.chunk","created":#,"model":"smol-135m","system_fingerprint":null,\
"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-task-1","object":"chat.completion.chunk","created":#,"model":"smol-135m","system_fingerprint":null,\
"choices":[{"index":0,"delta":{"content":"\\"é\\u2028\\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-task-1","object":"chat.completion.chunk","created":#,"model":"smol-135m","system_fingerprint":null,\
"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null,\
"paceline":{"task":"task-1","executor":"node-3","cost_nicoin":10000}}

data: {"id":"chatcmpl-task-1","object":"chat.completion.chunk","created":#,"model":"smol-135m","system_fingerprint":null,\
"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}

data: [DONE]

"""


def test_models(client: OpenAI):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by, model.created) == (MODEL, "model", "paceline", 1)
    assert client.models.retrieve(MODEL) == model


@pytest.mark.parametrize("name", ["other", "org/other", "%2e%2e"])
def test_invalid_model_lookup(client: OpenAI, name):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_whole_answer(client: OpenAI, gateway: ScriptedGateway):
    reply = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=5, seed=3)
    answer = reply.parse()
    assert answer.choices[0].message.content == "Hello, world"
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-task-1", "chat.completion", MODEL)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert (reply.headers["x-paceline-task"], reply.headers["x-paceline-executor"]) == ("task-1", EXECUTOR)
    ((account, request),) = gateway.chats
    assert (account.name, request.max_tokens, request.seed) == (GOOD_KEY, 5, 3)
    assert request.messages == (ChatMessage(role="user", content="hi"),)


def test_a_conversation_goes_on_with_the_object_received(client: OpenAI, gateway: ScriptedGateway):
    first = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    client.chat.completions.create(model=MODEL, messages=[*MESSAGES, first.choices[0].message, *MESSAGES])
    assert [message.role for message in gateway.chats[1][1].messages] == ["user", "assistant", "user"]


def test_streamed_answer(client: OpenAI):
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        chunks = list(stream)
    assert stream.response.headers["x-paceline-executor"] == EXECUTOR
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, world"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-task-1"}
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].paceline["cost_nicoin"] == 10_000


def test_streamed_usage_comes_last_with_no_choices(client: OpenAI):
    options = {"include_usage": True}
    with client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, stream_options=options) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 10


def test_the_stream_helper_of_the_client(client: OpenAI):
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == "Hello, world"


def test_golden_bytes(http: httpx.Client, gateway: ScriptedGateway):
    gateway.texts, gateway.finish_reason = ['"é\u2028\n'], "length"
    body = {"model": MODEL, "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    head, _, rest = reply.text.partition('"created":')
    created = rest.partition(",")[0]
    assert int(created) > 1_700_000_000
    golden = GOLDEN.replace("#", created).replace("\\u2028", "\u2028")
    assert head + '"created":' + rest == golden


@pytest.mark.parametrize(
    ("error", "kind", "status", "code"),
    [
        (OutOfFunds("too dear"), openai.RateLimitError, 429, "insufficient_quota"),
        (Busy("full", 3), openai.RateLimitError, 429, "busy"),
        (UpstreamFailed("gone"), openai.InternalServerError, 502, "upstream_failed"),
        (
            RequestRefused("messages", "context_length_exceeded", "long"),
            openai.BadRequestError,
            400,
            "context_length_exceeded",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_invalid_request_is_told_before_the_answer(client, gateway, error, kind, status, code, stream):
    gateway.fail_before = error
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    retry = caught.value.response.headers
    assert retry.get("retry-after") == ("3" if code == "busy" else None)
    assert retry.get("x-should-retry") == ("false" if code in {"insufficient_quota", "upstream_failed"} else None)


def test_a_refusal_for_lack_of_funds_is_not_repeated(server: LoopbackServer, gateway: ScriptedGateway):
    gateway.fail_before = OutOfFunds("too dear")
    client = OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=3)
    with client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert len(gateway.chats) == 1


@pytest.mark.parametrize("error", [UpstreamFailed("the node went away"), ValueError("a bug")])
def test_an_error_in_mid_stream_raises_in_the_client(client: OpenAI, gateway: ScriptedGateway, error):
    gateway.fail_after = error
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    with stream, pytest.raises(openai.APIError) as caught:
        list(stream)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert "a bug" not in str(caught.value)


def test_an_error_after_text_of_a_whole_answer(client: OpenAI, gateway: ScriptedGateway):
    gateway.fail_after = UpstreamFailed("the node went away")
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.status_code == 502


def test_invalid_unexpected_error_tells_nothing(client: OpenAI, gateway: ScriptedGateway):
    gateway.fail_before = ValueError("secret path")
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert (caught.value.status_code, caught.value.code) == (500, "internal_error")
    assert "secret" not in str(caught.value)


def test_invalid_key(server: LoopbackServer, gateway: ScriptedGateway):
    with OpenAI(base_url=f"{server.url}/v1", api_key="sk-bad", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert gateway.chats == []


def test_keys_required(gateway: ScriptedGateway):
    with LoopbackServer(gateway, WebSettings(api_keys_required=True)) as server:
        assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 401
        headers = {"authorization": f"Bearer {GOOD_KEY}"}
        assert httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False).status_code == 200
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_many_streams_at_once(server: LoopbackServer, gateway: ScriptedGateway):
    async def ask(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        async with stream:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, timeout=60) as client:
            return await asyncio.gather(*(ask(client) for _ in range(40)))

    gateway.texts = [f"{number} " for number in range(50)]
    assert set(asyncio.run(ask_all())) == {"".join(gateway.texts)}
    assert gateway.open_chats == 0
