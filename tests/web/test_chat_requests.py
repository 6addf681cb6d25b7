"""Every option of a chat request: honoured, harmless, or refused by its name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from scripted_gateway import MODEL

from paceline.node.views import ChatMessage, ModelView, RequestRefused
from paceline.web.fields import MAX_INT64
from paceline.web.requests import UNSUPPORTED, check_limit, decode_chat_call
from paceline.web.shapes import MAX_MESSAGES

MESSAGES = [{"role": "user", "content": "hi"}]


def decode(**options):
    body = {"model": MODEL, "messages": MESSAGES} | options
    return decode_chat_call(json.dumps(body).encode())


def refuse(body: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        decode_chat_call(body)
    return caught.value


def refuse_option(**options) -> RequestRefused:
    return refuse(json.dumps({"model": MODEL, "messages": MESSAGES} | options).encode())


def test_defaults():
    call = decode()
    assert call.request.messages == (ChatMessage(role="user", content="hi"),)
    assert (call.request.max_tokens, call.request.temperature, call.request.top_p) == (None, 1.0, 1.0)
    assert (call.request.stop, call.request.seed, call.stream, call.include_usage) == ((), None, False, False)


def test_every_honoured_option_arrives():
    call = decode(
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        stop=["a", "b"],
        seed=-3,
        stream=True,
        stream_options={"include_usage": True},
        user="me",
    )
    assert (call.request.max_tokens, call.request.temperature, call.request.top_p) == (5, 0, 0.5)
    assert (call.request.stop, call.request.seed) == (("a", "b"), -3)
    assert (call.stream, call.include_usage) == (True, True)


def test_null_means_absent():
    names = ("max_tokens", "temperature", "top_p", "stop", "seed", "stream", "stream_options", "user")
    assert decode(**dict.fromkeys(names)) == decode()


def test_text_parts_join_and_developer_is_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": parts}, {"role": "user", "content": "c"}]
    assert decode(messages=messages).request.messages == (
        ChatMessage(role="system", content="ab"),
        ChatMessage(role="user", content="c"),
    )


def test_an_assistant_message_may_be_sent_back_as_received():
    echo = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "annotations": [], "audio": None}
    assert decode(messages=[*MESSAGES, echo]).request.messages[1].content == "x"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, calm in UNSUPPORTED.items() for value in calm])
def test_unsupported_options_that_ask_nothing_pass(name, value):
    assert decode(**{name: value}) == decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content"}),
        ("reasoning_effort", "low"),
        ("service_tier", "flex"),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
)
def test_invalid_unsupported_option(name, value):
    refused = refuse_option(**{name: value})
    assert (refused.field, refused.code, refused.status) == (name, "unsupported_option", 400)


def test_every_unsupported_option_has_a_refused_case():
    marks = test_invalid_unsupported_option.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(UNSUPPORTED)


@pytest.mark.parametrize(
    ("name", "value", "field", "code"),
    [
        ("model", "", "model", "invalid_value"),
        ("model", None, "model", "invalid_type"),
        ("model", 3, "model", "invalid_type"),
        ("messages", [], "messages", "invalid_value"),
        ("messages", "hi", "messages", "invalid_type"),
        ("messages", [1], "messages[0]", "invalid_type"),
        ("messages", [{"role": "user"}], "messages[0]", "invalid_value"),
        ("messages", [{"role": "user", "content": None}], "messages[0].content", "invalid_type"),
        ("messages", [{"role": "user", "content": []}], "messages[0].content", "invalid_value"),
        ("messages", [{"role": "user", "content": 1}], "messages[0].content", "invalid_type"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0]", "invalid_value"),
        ("messages", [*MESSAGES, {"role": "user", "content": "x", "name": "y"}], "messages[1].name", "invalid_type"),
        ("messages", [{"role": "user", "content": "x", "mood": 1}], "messages[0]", "invalid_value"),
        ("max_tokens", 0, "max_tokens", "invalid_value"),
        ("max_tokens", -1, "max_tokens", "invalid_value"),
        ("max_tokens", 10**30, "max_tokens", "invalid_value"),
        ("max_tokens", "5", "max_tokens", "invalid_type"),
        ("max_tokens", 5.0, "max_tokens", "invalid_type"),
        ("max_tokens", True, "max_tokens", "invalid_type"),
        ("max_completion_tokens", 0, "max_completion_tokens", "invalid_value"),
        ("temperature", -0.01, "temperature", "invalid_value"),
        ("temperature", 2.01, "temperature", "invalid_value"),
        ("temperature", "1", "temperature", "invalid_type"),
        ("top_p", 0, "top_p", "invalid_value"),
        ("top_p", 1.01, "top_p", "invalid_value"),
        ("stop", "", "stop", "invalid_value"),
        ("stop", ["a"] * 5, "stop", "invalid_value"),
        ("stop", [1], "stop[0]", "invalid_type"),
        ("seed", 2**63, "seed", "invalid_value"),
        ("seed", "1", "seed", "invalid_type"),
        ("stream", "true", "stream", "invalid_type"),
        ("stream", 1, "stream", "invalid_type"),
        ("stream_options", {"include_usage": True}, "stream_options", "conflicting_options"),
        ("user", 5, "user", "invalid_type"),
        ("top_k", 5, "top_k", "unknown_parameter"),
        ("n", 0, "n", "invalid_value"),
        ("n", 129, "n", "invalid_value"),
        ("n", True, "n", "invalid_type"),
        ("n", "1", "n", "invalid_type"),
        ("logprobs", 0, "logprobs", "invalid_type"),
        ("top_logprobs", 2, "top_logprobs", "conflicting_options"),
        ("top_logprobs", 21, "top_logprobs", "invalid_value"),
        ("logit_bias", {"5": 101}, "logit_bias[...]", "invalid_value"),
        ("logit_bias", {"x": 1}, "logit_bias", "invalid_value"),
        ("logit_bias", {"05": 1}, "logit_bias", "invalid_value"),
        ("presence_penalty", 2.01, "presence_penalty", "invalid_value"),
        ("frequency_penalty", -2.01, "frequency_penalty", "invalid_value"),
        ("tool_choice", "required", "tool_choice", "conflicting_options"),
        ("tool_choice", "some", "tool_choice", "invalid_value"),
        ("response_format", {"type": "grammar"}, "response_format.type", "invalid_value"),
    ],
)
def test_invalid_option(name, value, field, code):
    refused = refuse_option(**{name: value})
    assert (refused.field, refused.code, refused.status) == (field, code, 400)
    assert field in refused.message


def test_invalid_image_part():
    image = {"type": "image_url", "image_url": {"url": "http://x"}}
    assert refuse_option(messages=[{"role": "user", "content": [image]}]).field == "messages[0].content[0].type"


def test_invalid_stream_option():
    assert refuse_option(stream=True, stream_options={"extra": 1}).field == "stream_options"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_invalid_missing(missing):
    body = {"model": MODEL, "messages": MESSAGES}
    del body[missing]
    refused = refuse(json.dumps(body).encode())
    assert (refused.field, refused.code) == (missing, "missing_required_parameter")


def test_invalid_limits_that_disagree():
    assert refuse_option(max_tokens=4, max_completion_tokens=5).field == "max_completion_tokens"
    assert decode(max_tokens=4, max_completion_tokens=4).request.max_tokens == 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"model": NaN}',
        b'{"model": "\xff"}',
        b"\xff\xfe{}",
        b'{"model": "x"} trailing',
        b"[" * 200_000,
        b'{"a":' * 150_000,
        b"{'model': 1}",
    ],
)
def test_invalid_json(body):
    refused = refuse(body)
    assert (refused.field, refused.code, refused.status) == (None, "invalid_json", 400)


@pytest.mark.parametrize("digits", [b"9" * 5_000, b"1e999", b"-" + b"9" * 400])
def test_invalid_huge_number_names_its_field(digits):
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":' + digits + b"}"
    assert refuse(body).field == "max_tokens"


def test_invalid_lone_surrogate():
    assert refuse(b'{"messages":[],"model":"\\ud800"}').status == 400


@pytest.mark.parametrize(
    ("name", "edge"),
    [
        ("max_tokens", 1),
        ("max_tokens", MAX_INT64),
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("stop", ["a"] * 4),
        ("stop", []),
        ("seed", MAX_INT64),
        ("seed", -(2**63)),
        ("messages", MESSAGES * MAX_MESSAGES),
        ("user", ""),
    ],
)
def test_boundary_values_pass(name, edge):
    decode(**{name: edge})


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_boundary_of_the_context(name):
    model = ModelView(model_id=MODEL, owner="o", created_unix_seconds=1, context_tokens=100, price_nicoin=1)
    for asked, view in ((100, model), (MAX_INT64, replace(model, context_tokens=0))):
        call = decode(**{name: asked})
        check_limit(call.request.max_tokens, call.limit_field, view)
    call = decode(**{name: 101})
    with pytest.raises(RequestRefused) as caught:
        check_limit(call.request.max_tokens, call.limit_field, model)
    assert caught.value.field == name
