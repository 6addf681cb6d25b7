"""Plain values, as a settings file holds them, become one type; what does not fit is told by its key and by what is allowed.

It refuses to read files and to know what a setting means. Invariant: no message speaks of the library that converts, and none
leaves out which key is wrong; a list's entries are counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as kinds

from paceline.base.errors import ConfigError

T = TypeVar("T")
_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<place>\d+)\]|(?P<any>\[\.\.\.\])")
_QUOTED = re.compile(r"`([^`]*)`")
_PLAIN: Mapping[type[kinds.Type], str] = MappingProxyType(
    {
        kinds.BoolType: "true or false",
        kinds.IntType: "a whole number",
        kinds.FloatType: "a number",
        kinds.StrType: "text",
        kinds.StructType: "a table",
        kinds.DictType: "a table",
    }
)
MAX_SHOWN = 60


def convert_table(data: Any, kind: type[T], where: str) -> T:
    """A typed value; `where` may be empty. Errors: ConfigError naming where, the key and what is allowed."""
    try:
        found = msgspec.convert(data, kind)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{where}{_explain(str(problem), data, kind)}".removeprefix(": ")) from None
    odd = _find_odd(data)
    if odd is not None:
        raise ConfigError(f"{where}: {odd}: it is no number".removeprefix(": "))
    return found


def _explain(told: str, data: Any, kind: Any) -> str:
    place = _PLACE.search(told)
    path = place["path"] if place else ""
    told = _PLACE.sub("", told)
    named = _QUOTED.findall(told)
    if told.startswith("Object missing required field"):
        return f"{_show_place(_join(path, named[0]))}: it is missing"
    if told.startswith("Object contains unknown field"):
        return f"{_show_place(_join(path, named[0]))}: unknown; the keys are {', '.join(_list_keys(kind, path))}"
    if place and place["key"]:
        return f"{_show_place(path)}: a key must be {_describe(_find_kind(kind, path + '[...]', key=True))}"
    allowed = _describe(_find_kind(kind, path)) if told.startswith(("Expected", "Invalid")) else ""
    return f"{_show_place(path)}: " + (f"{_show(_find_value(data, path))}must be {allowed}" if allowed else told)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}"


def _show_place(path: str) -> str:
    shown = ""
    for step in _STEP.finditer(path):
        if step["place"] is not None:
            shown += f" {int(step['place']) + 1}"
        elif step["any"] is not None:
            shown += ", each value"
        else:
            shown += f"{'.' if shown else ''}{step['name']}"
    return f": {shown.strip()}" if shown else ""


def _find_value(data: Any, path: str) -> Any:
    for step in _STEP.finditer(path):
        if step["any"] is not None:
            return None
        try:
            data = data[int(step["place"])] if step["name"] is None else data[step["name"]]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _show(value: Any) -> str:
    """Values that fit into a line, with a blank behind."""
    if value is None or isinstance(value, dict | list | tuple):
        return ""
    text = repr(value) if isinstance(value, str) else str(value).replace("True", "true").replace("False", "false")
    return f"{text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + '…'} "


def _find_kind(kind: Any, path: str, *, key: bool = False) -> kinds.Type | None:
    found: kinds.Type | None = kinds.type_info(kind)
    for step in _STEP.finditer(path):
        parts = [_find_part(part, step, key=key) for part in _list_parts(found)]
        found = next((part for part in parts if part is not None), None)
        if found is None:
            return None
    return found


def _find_part(kind: kinds.Type, step: re.Match[str], *, key: bool) -> kinds.Type | None:
    if isinstance(kind, kinds.StructType) and step["name"] is not None:
        return next((field.type for field in kind.fields if field.encode_name == step["name"]), None)
    if isinstance(kind, kinds.DictType):
        return kind.key_type if key else kind.value_type
    if isinstance(kind, kinds.CollectionType):
        return kind.item_type
    return None


def _list_parts(kind: kinds.Type | None) -> list[kinds.Type]:
    if isinstance(kind, kinds.Metadata):
        return _list_parts(kind.type)
    if isinstance(kind, kinds.UnionType):
        return [found for part in kind.types for found in _list_parts(part)]
    return [] if kind is None else [kind]


def _list_keys(kind: Any, path: str) -> list[str]:
    parts = _list_parts(_find_kind(kind, path))
    return [field.encode_name for part in parts if isinstance(part, kinds.StructType) for field in part.fields]


def _describe(kind: kinds.Type | None) -> str:
    """What may stand there, in words; empty when there are none for it."""
    if isinstance(kind, kinds.Metadata):
        told = (kind.extra_json_schema or {}).get("description")
        return told or _describe(kind.type)
    words = [_describe_one(part) for part in _list_parts(kind) if not isinstance(part, kinds.NoneType)]
    return " or ".join(words) if all(words) else ""


def _describe_one(kind: kinds.Type) -> str:
    told = _PLAIN.get(type(kind), "")
    if isinstance(kind, kinds.IntType | kinds.FloatType):
        told += _describe_bounds(kind)
    elif isinstance(kind, kinds.StrType):
        told += f" that matches {kind.pattern}" if kind.pattern else _describe_size(kind.min_length, kind.max_length)
    elif isinstance(kind, kinds.CollectionType):
        told = f"a list{_describe_size(kind.min_length, kind.max_length)}"
    elif isinstance(kind, kinds.LiteralType):
        told = f"{'one of ' if len(kind.values) > 1 else ''}{', '.join(str(value) for value in kind.values)}"
    return told


def _describe_bounds(kind: kinds.IntType | kinds.FloatType) -> str:
    bounds = (("above", kind.gt), ("at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
    told = " and ".join(f"{word} {bound:,.15g}" for word, bound in bounds if bound is not None)
    return f", {told}" if told else ""


def _describe_size(least: int | None, most: int | None) -> str:
    if most is not None:
        return f" of {least or 0} to {most}"
    return f" of at least {least}" if least else ""


def _find_odd(data: Any, path: str = "") -> str | None:
    """The first value that equals not even itself: no bound would refuse it."""
    if isinstance(data, dict):
        parts = [(f"{path}.{name}" if path else str(name), value) for name, value in data.items()]
    elif isinstance(data, list | tuple):
        parts = [(f"{path} {place}", value) for place, value in enumerate(data, 1)]
    else:
        return path if data != data else None  # noqa: PLR0124 - what this looks for
    return next((found for name, value in parts if (found := _find_odd(value, name)) is not None), None)
