"""Reads the body of a request strictly: every option is honoured, known to ask for nothing, or refused by its name.

Refuses to know: what any option means. Invariant: what comes out holds only options that the shape names, each of
its type; nothing is silently dropped or converted (a number in quotes is refused). The schema that the API's document
shows is made from the same types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from paceline.node.views import RequestRefused

MAX_INT64 = 2**63 - 1
MAX_NAME_CHARS = 256
REFERENCE = "#/components/schemas/{name}"

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACE = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")


class BodyShape:
    """The options that one route takes. `calm` holds options that are not honoured, with the values that ask for nothing."""

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        required: tuple[str, ...],
        calm: Mapping[str, tuple[object, ...]] | None = None,
    ) -> None:
        self.name = name
        self.required = required
        self.calm = calm or {}
        self._types = fields
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {
            field: msgspec.json.Decoder(kind) for field, kind in fields.items()
        }

    def decode(self, body: bytes) -> dict[str, Any]:
        """Decode a body.

        Errors: RequestRefused naming the field, for the client.
        """
        raw = decode_object(body)
        values = {name: self._decode(name, text) for name, text in raw.items() if not self._asks_nothing(name, text)}
        for name in self.required:
            if name not in values:
                raise RequestRefused(name, "missing_required_parameter", f"{name} is required.")
        return values

    def to_schema(self) -> dict[str, Any]:
        """Return all schemas of this shape by name, its own among them."""
        names = list(self._types)
        found, parts = msgspec.json.schema_components([self._types[name] for name in names], ref_template=REFERENCE)
        properties: dict[str, Any] = dict(zip(names, found, strict=True))
        properties |= {name: {"enum": list(values)} for name, values in self.calm.items()}
        own = {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
        }
        return {**parts, self.name: own}

    def _asks_nothing(self, name: str, text: msgspec.Raw) -> bool:
        """Tell whether an unsupported option carries a value that asks for nothing; refuse it otherwise."""
        neutral = self.calm.get(name)
        if neutral is None:
            return False
        value = _decode_with(msgspec.json.Decoder(), name, text)
        # True equals 1 in Python, and a client that sends n=true is mistaken.
        if any(value == calm and isinstance(value, bool) == isinstance(calm, bool) for calm in neutral):
            return True
        shown = ", ".join(msgspec.json.encode(calm).decode() for calm in neutral)
        text_told = f"{name} is not supported here; leave it out (or send {shown})."
        raise RequestRefused(name, "unsupported_option", text_told)

    def _decode(self, name: str, text: msgspec.Raw) -> Any:
        decoder = self._decoders.get(name)
        if decoder is None:
            shown = name[:MAX_NAME_CHARS]
            raise RequestRefused(shown, "unknown_parameter", f"Unknown parameter: {shown}.")
        return _decode_with(decoder, name, text)


def decode_object(body: bytes) -> dict[str, msgspec.Raw]:
    """Decode one JSON object, its members still as text.

    Errors: RequestRefused with code invalid_json.
    """
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


def refuse_conflict(field: str, message: str) -> RequestRefused:
    """Options that are each good, but not together."""
    return RequestRefused(field, "conflicting_options", message)


def _decode_with(decoder: msgspec.json.Decoder[Any], name: str, text: msgspec.Raw) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        told = str(error)
        place = _PLACE.search(told)
        field = name + (place["path"] if place else "")
        code = "invalid_type" if ", got `" in told else "invalid_value"
        raise RequestRefused(field, code, f"{field}: {_PLACE.sub('', told)}.") from error
    except RecursionError as error:
        raise RequestRefused(name, "invalid_value", f"{name} is nested too deeply.") from error
