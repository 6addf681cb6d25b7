"""Function tools for models that know none: rendered into plain turns and a grammar, and read back from plain text.

Refuses to know: routes, and how an answer is made. Invariant: what the model reads and writes is plain text, so that a
checker replays it like any other; a call that names no offered function, or is no JSON object, is text and not a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from paceline.node.views import ChatMessage, Grammar, RequestRefused
from paceline.web.fields import refuse_conflict
from paceline.web.shapes import (
    MAX_SCHEMA_BYTES,
    AssistantMessage,
    DeveloperMessage,
    FunctionSpec,
    Message,
    SystemMessage,
    ToolMessage,
    join_text,
)

OPEN, CLOSE = "<tool_call>", "</tool_call>"
ANY_OBJECT: dict[str, Any] = {"type": "object"}
AUTO_TEXT = (
    "You may call functions. These are offered, one JSON object a line:\n<tools>\n{tools}\n</tools>\n"
    f'To call one, write {OPEN}{{{{"name": NAME, "arguments": OBJECT}}}}{CLOSE}, with a JSON object that fits its parameters. '
    "What it gave comes back inside <tool_response>. If no function helps, answer in plain words."
)
FORCED_TEXT = (
    "You must call one of these functions, one JSON object a line:\n<tools>\n{tools}\n</tools>\n"
    'Answer with nothing but {{"name": NAME, "arguments": OBJECT}}, with a JSON object that fits its parameters.'
)


@dataclass(frozen=True)
class ToolUse:
    """The functions that one answer may call. `forced`: it is one call and nothing else."""

    functions: tuple[FunctionSpec, ...]
    forced: bool = False
    single: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What may be called."""
        return tuple(function.name for function in self.functions)


def pick_tools(
    functions: Sequence[FunctionSpec], choice: str | FunctionSpec | None, *, parallel: bool
) -> ToolUse | None:
    """Return what may be called; None when nothing may. `choice` is a word of OpenAI's, or holds the name that must be called.

    Errors: RequestRefused naming the option.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise refuse_conflict("tools", "Two tools have the same name.")
    if isinstance(choice, FunctionSpec):
        chosen = tuple(function for function in functions if function.name == choice.name)
        if not chosen:
            raise refuse_conflict("tool_choice", f"tool_choice names {choice.name}, which is not among the tools.")
        return ToolUse(chosen, forced=True)
    if choice == "required" and not functions:
        raise refuse_conflict("tool_choice", "tool_choice is required, but there are no tools.")
    if choice == "none" or not functions:
        return None
    if choice != "required" and any(function.strict for function in functions):
        text = "strict is held to only where a call is forced: set tool_choice to required or to one function, or leave strict out."
        raise RequestRefused("tools", "unsupported_option", text)
    return ToolUse(tuple(functions), forced=choice == "required", single=not parallel)


def make_tool_grammar(use: ToolUse) -> Grammar:
    """Return the form of a forced call.

    Errors: RequestRefused when the schemas are too large.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": function.parameters or ANY_OBJECT},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in use.functions
    ]
    return make_schema_grammar(calls[0] if len(calls) == 1 else {"anyOf": calls}, "tools")


def make_schema_grammar(schema: dict[str, Any], field: str) -> Grammar:
    """Return the form of JSON of one schema.

    Errors: RequestRefused when the schema is too large.
    """
    text = msgspec.json.encode(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        message = f"The schema has {len(text)} bytes, at most {MAX_SCHEMA_BYTES} are allowed."
        raise RequestRefused(field, "invalid_value", message)
    return Grammar(kind="json_schema", text=text.decode())


def build_turns(
    messages: Sequence[Message], use: ToolUse | None, hint: str = "", field: str = "messages"
) -> tuple[ChatMessage, ...]:
    """Render a conversation into plain turns. `hint` is told to the model before everything else, like the tools.

    Errors: RequestRefused naming the message.
    """
    turns: list[ChatMessage] = []
    called: dict[str, str] = {}
    for number, message in enumerate(messages):
        place = f"{field}[{number}]"
        if isinstance(message, ToolMessage):
            follows = number > 0 and isinstance(messages[number - 1], ToolMessage)
            _add_result(turns, message, called, place, follows=follows)
        elif isinstance(message, AssistantMessage):
            turns.append(_make_assistant_turn(message, called, place))
        elif isinstance(message, SystemMessage | DeveloperMessage):
            turns.append(ChatMessage(role="system", content=join_text(message.content)))
        else:
            turns.append(ChatMessage(role="user", content=join_text(message.content)))
    return _add_hint(turns, "\n\n".join(text for text in (hint, render_tools(use) if use else "") if text))


def render_tools(use: ToolUse) -> str:
    """Return what the model is told about its tools."""
    lines = "\n".join(_show_function(function) for function in use.functions)
    return (FORCED_TEXT if use.forced else AUTO_TEXT).format(tools=lines)


def render_call(name: str, arguments: str) -> str:
    """Return a call as the model wrote it, or would have."""
    return f'{OPEN}{{"name": {msgspec.json.encode(name).decode()}, "arguments": {arguments or "{}"}}}{CLOSE}'


def _show_function(function: FunctionSpec) -> str:
    shown: dict[str, Any] = {"name": function.name}
    if function.description:
        shown["description"] = function.description
    return msgspec.json.encode({**shown, "parameters": function.parameters or ANY_OBJECT}).decode()


def _make_assistant_turn(message: AssistantMessage, called: dict[str, str], place: str) -> ChatMessage:
    calls = message.tool_calls or []
    if message.content is None and not calls:
        text = f"{place}: an assistant's message needs content or tool_calls."
        raise refuse_conflict(f"{place}.content", text)
    called |= {call.id: call.function.name for call in calls}
    parts = [join_text(message.content), *(render_call(call.function.name, call.function.arguments) for call in calls)]
    return ChatMessage(role="assistant", content="\n".join(part for part in parts if part))


def _add_result(
    turns: list[ChatMessage], message: ToolMessage, called: dict[str, str], place: str, *, follows: bool
) -> None:
    name = called.get(message.tool_call_id)
    if name is None:
        text = f"{place} answers the call {message.tool_call_id!r}, which no earlier message made."
        raise refuse_conflict(f"{place}.tool_call_id", text)
    shown = msgspec.json.encode({"name": name, "content": join_text(message.content)}).decode()
    text = f"<tool_response>{shown}</tool_response>"
    # Many chat templates want turns of user and assistant to alternate, so results of one round are one turn.
    if follows:
        text = f"{turns.pop().content}\n{text}"
    turns.append(ChatMessage(role="user", content=text))


def _add_hint(turns: list[ChatMessage], hint: str) -> tuple[ChatMessage, ...]:
    if not hint:
        return tuple(turns)
    if turns and turns[0].role == "system":
        first = ChatMessage(role="system", content=f"{turns[0].content}\n\n{hint}")
        return (first, *turns[1:])
    return (ChatMessage(role="system", content=hint), *turns)
