"""Finds function calls in the text of an answer while it comes.

Refuses to know: tokens and replies. Invariant: every character of the text ends up in text or in a call; what is
not a call after all is given as the text it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import msgspec

from paceline.web.tools import CLOSE, OPEN, ToolUse


@dataclass(frozen=True)
class TextPiece:
    """Text that is no call."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins. `index` counts the calls of one answer."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


Piece = TextPiece | CallStart | CallArguments


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, msgspec.Raw]


class Reader(Protocol):
    """Takes text, gives pieces."""

    calls: int

    def feed(self, text: str) -> list[Piece]:
        """More text."""

    def finish(self) -> list[Piece]:
        """No more text: whatever was held back."""


class PlainReader:
    """All is text."""

    calls = 0

    def feed(self, text: str) -> list[Piece]:
        """Pass the text on."""
        return [TextPiece(text)] if text else []

    def finish(self) -> list[Piece]:
        """Nothing was held back."""
        return []


class AutoReader:
    """Text with calls between tags. A call is given whole, when its closing tag has come or the answer has ended."""

    def __init__(self, use: ToolUse) -> None:
        self._names = use.names
        self._held = ""
        self._inside = False
        self.calls = 0

    def feed(self, text: str) -> list[Piece]:
        """Find what is complete."""
        self._held += text
        pieces: list[Piece] = []
        while True:
            tag = CLOSE if self._inside else OPEN
            before, found, rest = self._held.partition(tag)
            if not found:
                break
            self._held = rest
            pieces += self._read_call(before, tag) if self._inside else self._make_text(before)
            self._inside = not self._inside
        if not self._inside:
            keep = _count_held(self._held, OPEN)
            cut = len(self._held) - keep
            pieces += self._make_text(self._held[:cut])
            self._held = self._held[cut:]
        return pieces

    def finish(self) -> list[Piece]:
        """Take an unclosed call as a call if it is one."""
        held, self._held = self._held, ""
        return self._read_call(held, "") if self._inside else self._make_text(held)

    def _make_text(self, text: str) -> list[Piece]:
        # Models put line breaks between calls; they are no answer.
        return [TextPiece(text)] if text and not (self.calls and text.isspace()) else []

    def _read_call(self, text: str, tag: str) -> list[Piece]:
        try:
            call = msgspec.json.decode(text, type=_Call)
        except (msgspec.DecodeError, RecursionError):
            return [TextPiece(OPEN + text + tag)]
        if call.name not in self._names:
            return [TextPiece(OPEN + text + tag)]
        index = self.calls
        self.calls += 1
        return [CallStart(index, call.name), CallArguments(index, msgspec.json.encode(call.arguments).decode())]


class ForcedReader:
    """One call and nothing else, as the grammar has it; its arguments are given as they come."""

    _HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"arguments"\s*:\s*')

    def __init__(self, use: ToolUse) -> None:
        self._names = use.names
        self._held = ""
        self._scan = _ObjectScan()
        self.calls = 0

    def feed(self, text: str) -> list[Piece]:
        """Give arguments as soon as the name is known."""
        if self.calls:
            return self._give(text)
        self._held += text
        head = self._HEAD.match(self._held)
        # White space may go on, and whether it does is known with the first character behind it.
        if head is None or head.end() == len(self._held) or head["name"] not in self._names:
            return []
        rest, self._held = self._held[head.end() :], ""
        self.calls = 1
        return [CallStart(0, head["name"]), *self._give(rest)]

    def finish(self) -> list[Piece]:
        """What never became a call, because the answer was cut short, is text."""
        held, self._held = self._held, ""
        return [TextPiece(held)] if held else []

    def _give(self, text: str) -> list[Piece]:
        taken = self._scan.take(text)
        return [CallArguments(0, taken)] if taken else []


class _ObjectScan:
    """Passes on the text of one JSON object and nothing behind it."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = self._done = False

    def take(self, text: str) -> str:
        for place, char in enumerate(text):
            if self._done:
                return text[:place]
            self._step(char)
        return text

    def _step(self, char: str) -> None:
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._quoted = False
        elif char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self._done = self._depth <= 0


def make_reader(use: ToolUse | None) -> Reader:
    """Return the reader for one answer."""
    if use is None:
        return PlainReader()
    return ForcedReader(use) if use.forced else AutoReader(use)


def _count_held(text: str, tag: str) -> int:
    """How many characters at the end may be the beginning of a tag."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)
