"""Reads a request to /v1/responses into what the gateway is asked.

Refuses to know: routes and stored answers. Invariant: items come out as the messages that chat completions take, so that
both routes put the same turns before the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from paceline.node.views import ChatRequest, Grammar
from paceline.web.batch_routes import Metadata
from paceline.web.fields import BodyShape, refuse_conflict
from paceline.web.requests import add_closing_stop, read_sampling
from paceline.web.shapes import (
    LABELS,
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    SAMPLING,
    AssistantMessage,
    CalledFunction,
    DeveloperMessage,
    FunctionName,
    FunctionSpec,
    JsonObjectFormat,
    Message,
    Name,
    Part,
    SystemMessage,
    TextFormat,
    Tokens,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from paceline.web.tools import ToolUse, build_turns, make_schema_grammar, make_tool_grammar, pick_tools

LOGPROBS = "message.output_text.logprobs"
Status = Literal["completed", "incomplete", "in_progress"]


class ResponsePart(Part):
    """Text of an item. What an answer carried besides may come back with it."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[None], Meta(max_length=0)] | None = None
    logprobs: list[Any] | None = None


class ResponseItem(Part, omit_defaults=True):
    """A message (the default), a call that an answer made, or what the called function gave."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Annotated[list[ResponsePart], Meta(min_length=1)] | None = None
    call_id: Name | None = None
    name: FunctionName | None = None
    arguments: str | None = None
    output: str | None = None
    id: str | None = None
    status: Status | None = None


class ResponseTool(Part):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseChoice(Part):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class ResponseSchema(Part, tag_field="type", tag="json_schema"):
    """JSON of one schema."""

    name: FunctionName
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseText(Part):
    """The form of the answer."""

    format: TextFormat | JsonObjectFormat | ResponseSchema | None = None
    verbosity: None = None


class ResponseStream(Part):
    """How a stream is sent."""

    include_obfuscation: Literal[False] | None = None


RESPONSE_SHAPE = BodyShape(
    "ResponseRequest",
    {
        **{name: SAMPLING[name] for name in ("model", "temperature", "top_p", "stream", "user")},
        **LABELS,
        "input": str | Annotated[list[ResponseItem], Meta(min_length=1, max_length=MAX_MESSAGES)],
        "instructions": str | None,
        "max_output_tokens": Tokens | None,
        "metadata": Metadata | None,
        "store": bool | None,
        "previous_response_id": Name | None,
        "stream_options": ResponseStream | None,
        "include": Annotated[list[Literal["message.output_text.logprobs"]], Meta(max_length=1)] | None,
        "top_logprobs": Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None,
        "tools": Annotated[list[ResponseTool], Meta(max_length=MAX_TOOLS)] | None,
        "tool_choice": Literal["none", "auto", "required"] | ResponseChoice | None,
        "parallel_tool_calls": bool | None,
        "text": ResponseText | None,
    },
    required=("model", "input"),
    calm={
        "background": (None, False),
        "context_management": (None,),
        "conversation": (None,),
        "max_tool_calls": (None,),
        "prompt": (None,),
        "prompt_cache_retention": (None,),
        "reasoning": (None, {}),
        "service_tier": (None, "auto", "default"),
        "truncation": (None, "disabled"),
    },
)


@dataclass(frozen=True, kw_only=True)
class ResponseCall:
    """A request, the items that it adds to the conversation, and the options that its answer repeats."""

    values: dict[str, Any]
    items: tuple[ResponseItem, ...]

    @property
    def stream(self) -> bool:
        """Whether to stream."""
        return bool(self.values.get("stream"))

    @property
    def keep(self) -> bool:
        """Whether the answer is kept to go on from; it is unless the client says no."""
        return self.values.get("store") is not False

    @property
    def previous(self) -> str | None:
        """The kept answer to go on from."""
        found: str | None = self.values.get("previous_response_id")
        return found


def decode_response_call(body: bytes) -> ResponseCall:
    """Decode the body of POST /v1/responses.

    Errors: RequestRefused naming the field.
    """
    values = RESPONSE_SHAPE.decode(body)
    if values.get("stream_options") is not None and not values.get("stream"):
        raise refuse_conflict("stream_options", "stream_options is only for requests with stream=true.")
    given = values["input"]
    items = (ResponseItem(role="user", content=given),) if isinstance(given, str) else tuple(given)
    return ResponseCall(values=values, items=items)


def build_request(call: ResponseCall, before: Sequence[ResponseItem]) -> tuple[ChatRequest, ToolUse | None]:
    """Return what the gateway is asked, with the kept conversation `before` it.

    Errors: RequestRefused naming the field.
    """
    values = call.values
    tools = _pick_tools(values)
    grammar, hint = _pick_grammar(values, tools)
    options = read_sampling(values)
    if tools is not None and tools.single and not tools.forced:
        options["stop"] = add_closing_stop(options["stop"])
    messages = make_messages([*before, *call.items])
    if values.get("instructions"):
        messages.insert(0, SystemMessage(content=values["instructions"]))
    request = ChatRequest(
        **options,
        messages=build_turns(messages, tools, hint, "input"),
        max_tokens=values.get("max_output_tokens"),
        top_logprobs=_pick_logprobs(values),
        grammar=grammar,
    )
    return request, tools


def make_messages(items: Sequence[ResponseItem]) -> list[Message]:
    """Return items as messages; calls join the message before them.

    Errors: RequestRefused naming the item.
    """
    messages: list[Message] = []
    for number, item in enumerate(items):
        place = f"input[{number}]"
        if item.type == "message":
            messages.append(_make_message(item, place))
        elif item.type == "function_call_output":
            call_id, output = _need(item, "call_id", place), _need(item, "output", place)
            messages.append(ToolMessage(content=output, tool_call_id=call_id))
        else:
            function = CalledFunction(name=_need(item, "name", place), arguments=_need(item, "arguments", place))
            call = ToolCall(id=_need(item, "call_id", place), function=function)
            last = messages[-1] if messages else None
            if isinstance(last, AssistantMessage):
                last.tool_calls = [*(last.tool_calls or []), call]
            else:
                messages.append(AssistantMessage(tool_calls=[call]))
    return messages


def _make_message(item: ResponseItem, place: str) -> Message:
    role = _need(item, "role", place)
    if item.content is None:
        raise refuse_conflict(f"{place}.content", f"{place}: a message needs content.")
    content = item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)
    kinds = {"user": UserMessage, "system": SystemMessage, "developer": DeveloperMessage}
    return AssistantMessage(content=content) if role == "assistant" else kinds[role](content=content)


def _need(item: ResponseItem, name: str, place: str) -> str:
    value: str | None = getattr(item, name)
    if value is None:
        raise refuse_conflict(f"{place}.{name}", f"{place}: a {item.type} needs {name}.")
    return value


def _pick_logprobs(values: dict[str, Any]) -> int | None:
    wanted, top = bool(values.get("include")), values.get("top_logprobs")
    if top and not wanted:
        raise refuse_conflict("top_logprobs", f"top_logprobs is only for requests with include=[{LOGPROBS!r}].")
    return (top or 0) if wanted else None


def _pick_tools(values: dict[str, Any]) -> ToolUse | None:
    functions = [
        FunctionSpec(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
        for tool in values.get("tools") or []
    ]
    choice = values.get("tool_choice")
    named = FunctionSpec(name=choice.name) if isinstance(choice, ResponseChoice) else choice
    return pick_tools(functions, named, parallel=values.get("parallel_tool_calls") is not False)


def _pick_grammar(values: dict[str, Any], tools: ToolUse | None) -> tuple[Grammar | None, str]:
    text = values.get("text")
    wanted = text.format if text is not None else None
    if isinstance(wanted, TextFormat) or wanted is None:
        return (make_tool_grammar(tools) if tools is not None and tools.forced else None), ""
    if tools is not None:
        told = "An answer cannot both call tools and keep to a text.format; set tool_choice to none or leave one out."
        raise refuse_conflict("text.format", told)
    if isinstance(wanted, JsonObjectFormat):
        return Grammar(kind="json_object"), ""
    hint = f"Answer with JSON: {wanted.name}, {wanted.description}" if wanted.description else ""
    return make_schema_grammar(wanted.schema, "text.format.schema"), hint
