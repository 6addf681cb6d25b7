"""Tools, schemas, choices and logprobs of chat completions, through the unmodified official client."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest
from openai import OpenAI
from scripted_gateway import MODEL, ScriptedGateway

MESSAGES = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
FORCED = '{"name": "weather", "arguments": {"city": "Os}\\"lo"}}'


class Answer(pydantic.BaseModel):
    city: str
    degrees: int


def ask(client: OpenAI, **options):
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **options)


def split(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_auto_call_is_found_in_the_text(client, gateway, size):
    gateway.texts = split(f"Let me look. {CALL}\n{CALL}", size)
    answer = ask(client, tools=[WEATHER, TIME])
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look. ")
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "weather"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Oslo"}
    assert len({call.id for call in choice.message.tool_calls}) == 2
    request = gateway.chats[0][1]
    assert request.grammar is None
    assert request.messages[0].role == "system"
    assert '"name":"weather"' in request.messages[0].content
    assert "<tools>" in request.messages[0].content


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>no json</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "Oslo"}</tool_call>',
        "a <tool_cal",
        "<tool_call>" + "[" * 5000 + "</tool_call>",
    ],
)
def test_invalid_call_stays_text(client, gateway, text):
    gateway.texts = split(text, 100)
    choice = ask(client, tools=[WEATHER]).choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", text, None)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("size", [1, 1000])
def test_forced_call(client, gateway, choice, size):
    gateway.texts = split(FORCED, size)
    answer = ask(client, tools=[TIME, WEATHER], tool_choice=choice).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"city": 'Os}"lo'}
    schema = json.loads(gateway.chats[0][1].grammar.text)
    names = [part["properties"]["name"]["const"] for part in schema.get("anyOf", [schema])]
    assert names == (["time", "weather"] if choice == "required" else ["weather"])


def test_forced_call_that_is_cut_short(client, gateway):
    gateway.texts, gateway.finish_reason = ['{"name": "weather", "arguments": {"ci'], "length"
    choice = ask(client, tools=[WEATHER], tool_choice="required").choices[0]
    assert (choice.finish_reason, choice.message.tool_calls[0].function.arguments) == ("length", '{"ci')
    gateway.texts = ['{"name": "wea']
    choice = ask(client, tools=[WEATHER], tool_choice="required").choices[0]
    assert (choice.finish_reason, choice.message.content) == ("length", '{"name": "wea')


@pytest.mark.parametrize(("text", "choice"), [(CALL, "auto"), (FORCED, "required")])
def test_streamed_call(client, gateway, text, choice):
    gateway.texts = split(text, 7)
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice=choice) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert json.loads(final.message.tool_calls[0].function.arguments)["city"].startswith("Os")
    chunks = list(ask(client, tools=[WEATHER], tool_choice=choice, stream=True))
    starts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or [] if call.id]
    assert [(call.index, call.type, call.function.name) for call in starts] == [(0, "function", "weather")]


def test_tools_with_choice_none_are_not_shown(client, gateway):
    gateway.texts = [CALL]
    choice = ask(client, tools=[WEATHER], tool_choice="none").choices[0]
    assert (choice.finish_reason, choice.message.content) == ("stop", CALL)
    assert len(gateway.chats[0][1].messages) == 1


def test_one_call_at_most(client, gateway):
    ask(client, tools=[WEATHER], parallel_tool_calls=False, stop=["a"])
    assert gateway.chats[0][1].stop == ("a", "</tool_call>")
    gateway.texts = [CALL.removesuffix("</tool_call>")]
    assert ask(client, tools=[WEATHER], parallel_tool_calls=False).choices[0].finish_reason == "tool_calls"


def test_results_go_back_as_turns(client, gateway):
    gateway.texts = [CALL + CALL]
    message = ask(client, tools=[WEATHER]).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": '"rain" é'} for call in message.tool_calls]
    gateway.texts = ["It rains."]
    client.chat.completions.create(model=MODEL, messages=[*MESSAGES, message, *results], tools=[WEATHER])
    turns = gateway.chats[1][1].messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2].content.count("<tool_call>") == 2
    assert turns[3].content.count('<tool_response>{"name":"weather","content":"\\"rain\\" é"}</tool_response>') == 2


@pytest.mark.parametrize(
    ("options", "field", "code"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools", "conflicting_options"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "conflicting_options",
        ),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format", "conflicting_options"),
        (
            {"tools": [WEATHER], "parallel_tool_calls": False, "stop": ["a", "b", "c", "d"]},
            "parallel_tool_calls",
            "conflicting_options",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools",
            "unsupported_option",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"description": "x" * 70_000}},
                }
            },
            "response_format.json_schema.schema",
            "invalid_value",
        ),
    ],
)
def test_invalid_tool_options(client, gateway, options, field, code):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert (caught.value.param, caught.value.code) == (field, code)
    assert gateway.chats == []


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "tool", "tool_call_id": "nobody", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "assistant"}], "messages[0].content"),
    ],
)
def test_invalid_conversation(client, messages, field):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert caught.value.param == field


def test_parse_of_a_schema(client: OpenAI, gateway: ScriptedGateway):
    gateway.texts = ['{"city": "Oslo", ', '"degrees": 4}']
    parsed = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Answer)
    assert parsed.choices[0].message.parsed == Answer(city="Oslo", degrees=4)
    grammar = gateway.chats[0][1].grammar
    assert grammar.kind == "json_schema"
    assert set(json.loads(grammar.text)["properties"]) == {"city", "degrees"}


def test_parse_of_a_strict_tool_that_is_forced(client: OpenAI, gateway: ScriptedGateway):
    gateway.texts = ['{"name": "Answer", "arguments": {"city": "Oslo", "degrees": 4}}']
    tool = openai.pydantic_function_tool(Answer)
    parsed = client.chat.completions.parse(model=MODEL, messages=MESSAGES, tools=[tool], tool_choice="required")
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == Answer(city="Oslo", degrees=4)


def test_json_mode(client, gateway):
    ask(client, response_format={"type": "json_object"})
    assert gateway.chats[0][1].grammar.kind == "json_object"


def test_every_sampling_option_arrives(client, gateway):
    ask(
        client,
        n=2,
        logit_bias={"7": -100, "3": 2.5},
        presence_penalty=-2,
        frequency_penalty=0.5,
        top_p=0.9,
        max_completion_tokens=9,
        seed=4,
        logprobs=True,
        top_logprobs=2,
        user="u",
    )
    request = gateway.chats[0][1]
    assert request.logit_bias == ((3, 2.5), (7, -100.0))
    assert (request.presence_penalty, request.frequency_penalty, request.top_p) == (-2, 0.5, 0.9)
    assert (request.n, request.max_tokens, request.seed, request.top_logprobs) == (2, 9, 4, 2)


def test_choices_of_a_whole_answer(client, gateway):
    answer = ask(client, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (number, "Hello, world") for number in range(3)
    ]
    assert answer.usage.completion_tokens == 9
    assert [task["task"] for task in answer.paceline["tasks"]] == ["task-1", "task-1-1", "task-1-2"]
    assert answer.paceline["cost_nicoin"] == 30_000


def test_choices_of_a_stream_interleave(client, gateway):
    chunks = list(ask(client, n=2, stream=True, stream_options={"include_usage": True}))
    order = [chunk.choices[0].index for chunk in chunks if chunk.choices]
    assert order == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    for index in range(2):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == "Hello, world"
        assert [choice.finish_reason for choice in own][-1] == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 20)


def test_logprobs_whole_and_streamed(client, gateway):
    content = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes[0]) for token in content] == [
        ("Hello", -0.5, 72),
        (", ", -0.5, 44),
        ("world", -0.5, 119),
    ]
    assert content[0].top_logprobs[0].token == "t0"
    chunks = list(ask(client, logprobs=True, stream=True))
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [(token.token, token.top_logprobs) for token in streamed] == [("Hello", []), (", ", []), ("world", [])]
