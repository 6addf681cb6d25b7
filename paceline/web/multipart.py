"""Reads a form with files (multipart/form-data), all of it in memory.

Refuses to know: what the fields mean. Invariant: a form is taken apart exactly at its boundaries or refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

from paceline.node.views import RequestRefused

MAX_PARTS = 16
_LINE = b"\r\n"


@dataclass(frozen=True)
class FormField:
    """One field; `filename` is None unless it is a file."""

    content: bytes
    filename: str | None


def split_form(header: str, body: bytes) -> dict[str, FormField]:
    """Return the fields by name. `header` is the content type with its boundary.

    Errors: RequestRefused when the form is damaged, or names a field twice.
    """
    boundary = _read_parameters(f"Content-Type: {header}", "content-type").get("boundary", "")
    if not re.fullmatch(r"[ -~]{1,70}", boundary):
        raise _refuse("its content type names no boundary")
    parts = (_LINE + body).split(_LINE + b"--" + boundary.encode())
    if len(parts) < 2 or parts[0] or not parts[-1].startswith(b"--"):
        raise _refuse("it does not begin and end with its boundary")
    if len(parts) - 2 > MAX_PARTS:
        raise _refuse(f"it has more than {MAX_PARTS} fields")
    fields: dict[str, FormField] = {}
    for part in parts[1:-1]:
        name, field = _read_part(part)
        if name in fields:
            raise RequestRefused(name, "invalid_value", f"{name} comes twice.")
        fields[name] = field
    return fields


def _read_part(part: bytes) -> tuple[str, FormField]:
    head, found, content = part.lstrip(b" \t").removeprefix(_LINE).partition(_LINE + _LINE)
    if not found:
        raise _refuse("a field has no end of its headers")
    for line in head.split(_LINE):
        text = line.decode("utf-8", "replace")
        if text.lower().startswith("content-disposition:"):
            values = _read_parameters(text, "content-disposition")
            if "name" not in values:
                break
            return values["name"], FormField(content, values.get("filename"))
    raise _refuse("a field has no name")


def _read_parameters(line: str, name: str) -> dict[str, str]:
    """Parameters of a header's value; the library knows quotes, escapes and RFC 2231."""
    message = Message()
    try:
        message[name] = line.partition(":")[2].strip()
        found = message.get_params(failobj=[], header=name)
    except ValueError:
        return {}
    shown: dict[str, str] = {}
    for key, value in found[1:]:
        shown[key.lower()] = value if isinstance(value, str) else value[2]
    return shown


def _refuse(why: str) -> RequestRefused:
    return RequestRefused(None, "invalid_form", f"The form cannot be read: {why}.")
