"""The parts of which chat, completion and response requests are made, as types.

Refuses to know: routes and answers. Invariant: an unknown member of any of these is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from paceline.web.fields import MAX_INT64, MAX_NAME_CHARS

MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_MESSAGES = 2_048
MAX_CHOICES = 128
MAX_BIASES = 1_024
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
MAX_CALLS = 128
MAX_SCHEMA_BYTES = 64 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Tokens = Annotated[int, Meta(ge=1, le=MAX_INT64)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
TokenKey = Annotated[str, Meta(pattern="^(0|[1-9][0-9]{0,8})$")]
BiasValue = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """Base of everything that a client may send inside a field."""


class TextPart(Part):
    """Text as one of several parts."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1)]
Nothing = Annotated[list[None], Meta(max_length=0)]


class SystemMessage(Part, tag_field="role", tag="system"):
    """What the model is told before the conversation."""

    content: Content
    name: None = None


class DeveloperMessage(Part, tag_field="role", tag="developer"):
    """The newer name of the same."""

    content: Content
    name: None = None


class UserMessage(Part, tag_field="role", tag="user"):
    """What the user says."""

    content: Content
    name: None = None


class CalledFunction(Part):
    """A function with its arguments as JSON text."""

    name: FunctionName
    arguments: str


class ToolCall(Part):
    """A call that an answer made."""

    id: Name
    function: CalledFunction
    type: Literal["function"] = "function"


class AssistantMessage(Part, tag_field="role", tag="assistant"):
    """An earlier answer. The null members let a client send it back exactly as it got it."""

    content: Content | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_CALLS)] | None = None
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Nothing | None = None


class ToolMessage(Part, tag_field="role", tag="tool"):
    """What a called function gave."""

    content: Content
    tool_call_id: Name


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionSpec(Part):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Part):
    """The one kind of tool there is."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Part):
    """A function by its name."""

    name: FunctionName


class NamedChoice(Part):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Part, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Part, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaSpec(Part):
    """A schema with a name. A schema is always held to, whether `strict` is asked for or not."""

    name: FunctionName
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Part, tag_field="type", tag="json_schema"):
    """JSON of one schema."""

    json_schema: SchemaSpec


class StreamOptions(Part):
    """How a stream is sent."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


# Honoured by every route that makes text. The strings at the end group or label requests for the caller; they change no
# answer and are not kept.
SAMPLING: dict[str, Any] = {
    "model": Name,
    "temperature": Annotated[float, Meta(ge=0, le=2)] | None,
    "top_p": Annotated[float, Meta(gt=0, le=1)] | None,
    "presence_penalty": Penalty | None,
    "frequency_penalty": Penalty | None,
    "logit_bias": Annotated[dict[TokenKey, BiasValue], Meta(max_length=MAX_BIASES)] | None,
    "n": Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None,
    "stop": Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None,
    "seed": Annotated[int, Meta(ge=-MAX_INT64 - 1, le=MAX_INT64)] | None,
    "stream": bool | None,
    "stream_options": StreamOptions | None,
    "user": str | None,
}
LABELS: dict[str, Any] = {"safety_identifier": str | None, "prompt_cache_key": str | None}


def join_text(content: str | list[TextPart] | None) -> str:
    """Return the text of a content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)
