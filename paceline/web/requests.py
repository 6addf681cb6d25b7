"""Reads a chat request strictly: every option is honoured, known to change nothing, or refused by its name.

Refuses to know: accounts, models, prices. Invariant: what comes out holds only options that the network
honours; nothing is silently dropped or converted (a number in quotes is refused).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from paceline.node.views import ChatMessage, ChatRequest, ModelView, RequestRefused, Role

MAX_INT64 = 2**63 - 1
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_MESSAGES = 2_048
MAX_NAME_CHARS = 256

ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Options of the public API that this network does not honour, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "parallel_tool_calls": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}


class _TextPart(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    """The null members let a client send an assistant's message back exactly as it got it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_TextPart], msgspec.Meta(min_length=1)]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[None], msgspec.Meta(max_length=0)] | None = None
    annotations: Annotated[list[None], msgspec.Meta(max_length=0)] | None = None


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_CHARS)]
_Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_INT64)]

# The three strings at the end group or label requests for the caller; they change no answer and are not kept.
_FIELDS: Mapping[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(kind)
    for name, kind in {
        "model": _Name,
        "messages": Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)],
        "max_tokens": _Tokens | None,
        "max_completion_tokens": _Tokens | None,
        "temperature": Annotated[float, msgspec.Meta(ge=0, le=2)] | None,
        "top_p": Annotated[float, msgspec.Meta(gt=0, le=1)] | None,
        "stop": _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=MAX_STOPS)] | None,
        "seed": Annotated[int, msgspec.Meta(ge=-MAX_INT64 - 1, le=MAX_INT64)] | None,
        "stream": bool | None,
        "stream_options": _StreamOptions | None,
        "user": str | None,
        "safety_identifier": str | None,
        "prompt_cache_key": str | None,
    }.items()
}
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")


@dataclass(frozen=True, kw_only=True)
class ChatCall:
    """A request and how its answer shall be sent. `limit_field` is the name the client gave its token limit."""

    request: ChatRequest
    stream: bool
    include_usage: bool
    limit_field: str


def decode_chat_call(body: bytes) -> ChatCall:
    """Decode the body of POST /v1/chat/completions.

    Errors: RequestRefused naming the field, for the client.
    """
    raw = _decode_object(body)
    values = {name: _decode_field(name, text) for name, text in raw.items() if not _asks_nothing(name, text)}
    for name in ("model", "messages"):
        if name not in values:
            raise RequestRefused(name, "missing_required_parameter", f"{name} is required.")
    stream = bool(values.get("stream"))
    options = values.get("stream_options")
    if options is not None and not stream:
        raise RequestRefused("stream_options", "invalid_value", "stream_options is only for requests with stream=true.")
    limit_field, max_tokens = _pick_limit(values)
    return ChatCall(
        request=_build_request(values, max_tokens),
        stream=stream,
        include_usage=bool(options and options.include_usage),
        limit_field=limit_field,
    )


def check_limit(call: ChatCall, model: ModelView) -> None:
    """Refuse a token limit that the model's context could never hold.

    Errors: RequestRefused naming the field as the client wrote it.
    """
    asked = call.request.max_tokens
    if asked is not None and 0 < model.context_tokens < asked:
        message = f"{call.limit_field} is {asked}, but {model.model_id} holds {model.context_tokens} tokens at most."
        raise RequestRefused(call.limit_field, "invalid_value", message)


def _decode_object(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        body.decode("utf-8")
        return _OBJECT.decode(body)
    except UnicodeDecodeError as error:
        raise RequestRefused(None, "invalid_json", f"The body is not UTF-8 (byte {error.start}).") from error
    except msgspec.ValidationError as error:
        raise RequestRefused(None, "invalid_json", "The body must be one JSON object.") from error
    except msgspec.DecodeError as error:
        raise RequestRefused(None, "invalid_json", f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise RequestRefused(None, "invalid_json", "The body is nested too deeply.") from error


def _asks_nothing(name: str, text: msgspec.Raw) -> bool:
    """Tell whether an unsupported option carries a value that asks for nothing; refuse it otherwise."""
    neutral = UNSUPPORTED.get(name)
    if neutral is None:
        return False
    value = _decode_with(msgspec.json.Decoder(), name, text)
    # True equals 1 in Python, and a client that sends n=true is mistaken.
    if any(value == calm and isinstance(value, bool) == isinstance(calm, bool) for calm in neutral):
        return True
    shown = ", ".join(msgspec.json.encode(calm).decode() for calm in neutral)
    raise RequestRefused(name, "unsupported_option", f"{name} is not supported here; leave it out (or send {shown}).")


def _decode_field(name: str, text: msgspec.Raw) -> Any:
    decoder = _FIELDS.get(name)
    if decoder is None:
        raise RequestRefused(name[:MAX_NAME_CHARS], "unknown_parameter", f"Unknown parameter: {name[:MAX_NAME_CHARS]}.")
    return _decode_with(decoder, name, text)


def _decode_with(decoder: msgspec.json.Decoder[Any], name: str, text: msgspec.Raw) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        told = str(error)
        place = _PLACE.search(told)
        field = name + (place["path"] if place else "")
        code = "invalid_type" if ", got `" in told else "invalid_value"
        raise RequestRefused(field, code, f"{field}: {_PLACE.sub('', told)}.") from error


def _pick_limit(values: Mapping[str, Any]) -> tuple[str, int | None]:
    old, new = values.get("max_tokens"), values.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        message = "max_tokens and max_completion_tokens disagree; send one of them."
        raise RequestRefused("max_completion_tokens", "invalid_value", message)
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _build_request(values: Mapping[str, Any], max_tokens: int | None) -> ChatRequest:
    temperature, top_p, stop = values.get("temperature"), values.get("top_p"), values.get("stop")
    return ChatRequest(
        model=values["model"],
        messages=tuple(_build_message(message) for message in values["messages"]),
        max_tokens=max_tokens,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        seed=values.get("seed"),
    )


def _build_message(message: _Message) -> ChatMessage:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return ChatMessage(role=ROLES[message.role], content=text)
