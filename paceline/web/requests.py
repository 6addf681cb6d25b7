"""Reads a chat request into what the gateway is asked: options, turns with the tools in them, and a grammar.

Refuses to know: accounts, prices, how an answer is made. Invariant: what comes out holds only options that the network
honours; options that contradict each other are refused, never settled by a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from paceline.node.views import ChatRequest, Grammar, ModelView, RequestRefused
from paceline.web.fields import BodyShape, refuse_conflict
from paceline.web.shapes import (
    LABELS,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    SAMPLING,
    FunctionSpec,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedChoice,
    TextFormat,
    Tokens,
)
from paceline.web.tools import CLOSE, ToolUse, build_turns, make_schema_grammar, make_tool_grammar, pick_tools

# Options of the public API that this network does not honour, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
}

CHAT_SHAPE = BodyShape(
    "ChatRequest",
    {
        **SAMPLING,
        **LABELS,
        "messages": Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)],
        "max_tokens": Tokens | None,
        "max_completion_tokens": Tokens | None,
        "logprobs": bool | None,
        "top_logprobs": Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None,
        "tools": Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None,
        "tool_choice": Literal["none", "auto", "required"] | NamedChoice | None,
        "parallel_tool_calls": bool | None,
        "response_format": TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    },
    required=("model", "messages"),
    calm=UNSUPPORTED,
)


@dataclass(frozen=True, kw_only=True)
class ChatCall:
    """A request and how its answer shall be sent. `limit_field` is the name the client gave its token limit."""

    request: ChatRequest
    stream: bool
    include_usage: bool
    limit_field: str
    tools: ToolUse | None = None


def decode_chat_call(body: bytes) -> ChatCall:
    """Decode the body of POST /v1/chat/completions.

    Errors: RequestRefused naming the field, for the client.
    """
    values = CHAT_SHAPE.decode(body)
    stream, include_usage = read_streaming(values)
    limit_field, max_tokens = _pick_limit(values)
    tools = _pick_tools(values)
    grammar, hint = _pick_grammar(values, tools)
    options = read_sampling(values)
    if tools is not None and tools.single and not tools.forced:
        options["stop"] = add_closing_stop(options["stop"])
    request = ChatRequest(
        **options,
        messages=build_turns(values["messages"], tools, hint),
        max_tokens=max_tokens,
        top_logprobs=_pick_logprobs(values),
        grammar=grammar,
    )
    return ChatCall(request=request, stream=stream, include_usage=include_usage, limit_field=limit_field, tools=tools)


def check_limit(max_tokens: int | None, field: str, model: ModelView) -> None:
    """Refuse a token limit that the model's context could never hold.

    Errors: RequestRefused naming the field as the client wrote it.
    """
    if max_tokens is not None and 0 < model.context_tokens < max_tokens:
        message = f"{field} is {max_tokens}, but {model.model_id} holds {model.context_tokens} tokens at most."
        raise RequestRefused(field, "context_length_exceeded", message)


def read_sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `AnswerOptions` needs of the common options."""
    stop, bias = values.get("stop"), values.get("logit_bias") or {}
    return {
        "model": values["model"],
        "temperature": _or(values.get("temperature"), 1.0),
        "top_p": _or(values.get("top_p"), 1.0),
        "presence_penalty": _or(values.get("presence_penalty"), 0.0),
        "frequency_penalty": _or(values.get("frequency_penalty"), 0.0),
        "logit_bias": tuple(sorted((int(token), float(value)) for token, value in bias.items())),
        "n": _or(values.get("n"), 1),
        "stop": (stop,) if isinstance(stop, str) else tuple(stop or ()),
        "seed": values.get("seed"),
    }


def read_streaming(values: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether to stream, and whether usage closes the stream. Errors: RequestRefused."""
    stream, options = bool(values.get("stream")), values.get("stream_options")
    if options is not None and not stream:
        raise refuse_conflict("stream_options", "stream_options is only for requests with stream=true.")
    return stream, bool(options and options.include_usage)


def add_closing_stop(stop: tuple[str, ...]) -> tuple[str, ...]:
    """Make the answer end with its first call. Errors: RequestRefused when there is no room for one more stop."""
    if len(stop) >= MAX_STOPS:
        text = f"parallel_tool_calls=false takes one of the {MAX_STOPS} stop strings; send one less."
        raise refuse_conflict("parallel_tool_calls", text)
    return (*stop, CLOSE)


def _pick_limit(values: Mapping[str, Any]) -> tuple[str, int | None]:
    old, new = values.get("max_tokens"), values.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        message = "max_tokens and max_completion_tokens disagree; send one of them."
        raise refuse_conflict("max_completion_tokens", message)
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _pick_logprobs(values: Mapping[str, Any]) -> int | None:
    wanted, top = bool(values.get("logprobs")), values.get("top_logprobs")
    if top and not wanted:
        raise refuse_conflict("top_logprobs", "top_logprobs is only for requests with logprobs=true.")
    return (top or 0) if wanted else None


def _pick_tools(values: Mapping[str, Any]) -> ToolUse | None:
    functions = [tool.function for tool in values.get("tools") or []]
    choice = values.get("tool_choice")
    named = FunctionSpec(name=choice.function.name) if isinstance(choice, NamedChoice) else choice
    return pick_tools(functions, named, parallel=values.get("parallel_tool_calls") is not False)


def _pick_grammar(values: Mapping[str, Any], tools: ToolUse | None) -> tuple[Grammar | None, str]:
    wanted = values.get("response_format")
    if isinstance(wanted, TextFormat) or wanted is None:
        return (make_tool_grammar(tools) if tools is not None and tools.forced else None), ""
    if tools is not None:
        text = (
            "An answer cannot both call tools and keep to a response_format; set tool_choice to none or leave one out."
        )
        raise refuse_conflict("response_format", text)
    if isinstance(wanted, JsonObjectFormat):
        return Grammar(kind="json_object"), ""
    spec = wanted.json_schema
    hint = f"Answer with JSON: {spec.name}, {spec.description}" if spec.description else ""
    return make_schema_grammar(spec.schema, "response_format.json_schema.schema"), hint


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
