"""Completions, embeddings and responses through the unmodified official client."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai import OpenAI
from scripted_gateway import GOOD_KEY, MODEL, ScriptedGateway

from paceline.node.views import UpstreamFailed

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
JSON = {"content-type": "application/json"}


def test_completion_of_a_text(client: OpenAI, gateway: ScriptedGateway):
    answer = client.completions.create(model=MODEL, prompt="Once", logprobs=1)
    assert (answer.object, answer.id, answer.choices[0].text) == ("text_completion", "cmpl-text-1", "Hello, world")
    logprobs = answer.choices[0].logprobs
    assert (logprobs.tokens, logprobs.text_offset) == (["Hello", ", ", "world"], [0, 5, 7])
    assert (logprobs.token_logprobs, logprobs.top_logprobs[0]) == ([-0.5] * 3, {"t0": -1.0})
    request = gateway.completions[0][1]
    assert (request.prompt, request.max_tokens, request.top_logprobs) == ("Once", 16, 1)


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
        (["a", [4]], ["a", (4,)]),
    ],
)
def test_completion_prompts_and_choices(client, gateway, prompt, seen):
    answer = client.completions.create(model=MODEL, prompt=prompt, n=2)
    assert sorted(map(str, (request.prompt for _, request in gateway.completions))) == sorted(map(str, seen))
    assert [choice.index for choice in answer.choices] == list(range(2 * len(seen)))
    assert len(answer.paceline["tasks"]) == 2 * len(seen)


def test_completion_stream(client, gateway):
    options = {"include_usage": True}
    chunks = list(client.completions.create(model=MODEL, prompt=["a", "b"], stream=True, stream_options=options))
    for index in range(2):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == index]
        assert "".join(choice.text for choice in own) == "Hello, world"
        assert own[-1].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 6


@pytest.mark.parametrize(
    ("options", "field", "code"),
    [
        ({"echo": True}, "echo", "unsupported_option"),
        ({"suffix": "x"}, "suffix", "unsupported_option"),
        ({"best_of": 2}, "best_of", "unsupported_option"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "conflicting_options"),
        ({"prompt": ["a"] * 65}, "prompt", "conflicting_options"),
        ({"prompt": ["a"] * 3, "n": 50}, "n", "conflicting_options"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"tools": []}, "tools", "unknown_parameter"),
    ],
)
def test_invalid_completion(http: httpx.Client, gateway, options, field, code):
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": "x"} | options)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, field, code)
    assert gateway.completions == []


def test_embeddings_as_the_client_asks_for_them(client, gateway):
    found = client.embeddings.create(model=MODEL, input=["a", "b", "c"])
    assert [entry.embedding for entry in found.data] == [[1.0, 0.0], [1.0, -1.0], [1.0, -2.0]]
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (6, 6)
    plain = client.embeddings.create(model=MODEL, input=[[1, 2], [3]], encoding_format="float")
    assert plain.data[1].embedding == [1.0, -1.0]
    assert gateway.embeds[1][1].inputs == ((1, 2), (3,))
    assert client.embeddings.create(model=MODEL, input=[1, 2]).data[0].index == 0
    assert gateway.embeds[2][1].inputs == ((1, 2),)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"dimensions": 5}, "dimensions"), ({"encoding_format": "int8"}, "encoding_format"), ({"input": []}, "input")],
)
def test_invalid_embedding(http: httpx.Client, gateway, options, field):
    reply = http.post("/v1/embeddings", json={"model": MODEL, "input": "x"} | options)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert gateway.embeds == []


def test_response_whole(client: OpenAI, gateway: ScriptedGateway):
    answer = client.responses.create(model=MODEL, input="hi", instructions="Be brief.", metadata={"a": "b"})
    assert (answer.output_text, answer.status, answer.id) == ("Hello, world", "completed", "resp_task-1")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert answer.metadata == {"a": "b"}
    assert [turn.role for turn in gateway.chats[0][1].messages] == ["system", "user"]


def test_response_stream(client, gateway):
    with client.responses.stream(model=MODEL, input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "Hello, world"
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_response_events_are_numbered(client, gateway):
    events = list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_response_that_hits_its_limit(client, gateway):
    gateway.finish_reason = "length"
    answer = client.responses.create(model=MODEL, input="hi", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_response_goes_on_from_the_last(client, gateway):
    first = client.responses.create(model=MODEL, input="one")
    client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    turns = gateway.chats[1][1].messages
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "one"),
        ("assistant", "Hello, world"),
        ("user", "two"),
    ]
    assert client.responses.retrieve(first.id).output_text == "Hello, world"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="x", previous_response_id=first.id)


def test_response_that_is_not_kept(client, gateway):
    answer = client.responses.create(model=MODEL, input="one", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_response_belongs_to_its_key(client, gateway, server):
    gateway.known_keys.add("sk-other")
    mine = client.responses.create(model=MODEL, input="one")
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="sk-other", max_retries=0) as other,
        pytest.raises(openai.NotFoundError),
    ):
        other.responses.retrieve(mine.id)


@pytest.mark.parametrize("stream", [False, True])
def test_response_tools(client, gateway, stream):
    gateway.texts = ["Wait. ", CALL]
    answer = client.responses.create(model=MODEL, input="weather?", tools=[WEATHER], stream=stream)
    if stream:
        answer = list(answer)[-1].response
    message, call = answer.output
    assert (message.content[0].text, call.type, call.name, call.arguments) == (
        "Wait. ",
        "function_call",
        "weather",
        '{"city":"Oslo"}',
    )
    gateway.texts = ["It rains."]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    client.responses.create(model=MODEL, input=[result], previous_response_id=answer.id, tools=[WEATHER])
    turns = gateway.chats[1][1].messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert "<tool_response>" in turns[3].content


def test_response_of_a_schema(client, gateway):
    gateway.texts = ['{"a": 1}']
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    answer = client.responses.create(model=MODEL, input="hi", text=wanted)
    assert (gateway.chats[0][1].grammar.kind, answer.text.format.name) == ("json_schema", "x")


def test_response_logprobs(client, gateway):
    answer = client.responses.create(model=MODEL, input="hi", include=["message.output_text.logprobs"], top_logprobs=1)
    assert [token.token for token in answer.output[0].content[0].logprobs] == ["Hello", ", ", "world"]


def test_response_stream_that_breaks_off(client, gateway):
    gateway.fail_after = UpstreamFailed("gone")
    events = list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert (events[-1].type, events[-1].response.error.code) == ("response.failed", "upstream_failed")


@pytest.mark.parametrize(
    ("options", "field", "code", "status"),
    [
        ({"background": True}, "background", "unsupported_option", 400),
        ({"reasoning": {"effort": "low"}}, "reasoning", "unsupported_option", 400),
        ({"truncation": "auto"}, "truncation", "unsupported_option", 400),
        ({"conversation": "c"}, "conversation", "unsupported_option", 400),
        ({"previous_response_id": "resp_no"}, "previous_response_id", "previous_response_not_found", 404),
        ({"input": [{"type": "reasoning"}]}, "input[0].type", "invalid_value", 400),
        ({"input": [{"role": "user"}]}, "input[0].content", "conflicting_options", 400),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].arguments", "conflicting_options", 400),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "input[0].tool_call_id",
            "conflicting_options",
            400,
        ),
        ({"top_logprobs": 2}, "top_logprobs", "conflicting_options", 400),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value", 400),
        ({"max_output_tokens": 4096}, "max_output_tokens", "context_length_exceeded", 400),
        ({"top_k": 4}, "top_k", "unknown_parameter", 400),
    ],
)
def test_invalid_response(http: httpx.Client, gateway, options, field, code, status):
    headers = {"authorization": f"Bearer {GOOD_KEY}"}
    reply = http.post("/v1/responses", json={"model": MODEL, "input": "x"} | options, headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, field, code)
    assert gateway.chats == []
