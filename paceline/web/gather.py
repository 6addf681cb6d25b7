"""One whole answer, gathered from its events: the text, calls and tokens of each choice, and what they cost.

Refuses to know: which route asked. Invariant: an answer is whole only when every choice has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from paceline.node.views import ChatDelta, ChatEnd, ChatEvent, ChatStart, TokenView, UpstreamFailed
from paceline.web.entry import Tally
from paceline.web.tool_reader import CallArguments, CallStart, Piece, TextPiece, make_reader
from paceline.web.tools import ToolUse


@dataclass
class Call:
    """A function call of an answer."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass
class Gathered:
    """One choice so far."""

    start: ChatStart
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[TokenView] = field(default_factory=list)
    end: ChatEnd | None = None

    @property
    def finish_reason(self) -> str:
        """Why it ended, in OpenAI's words."""
        reason = self.end.finish_reason if self.end is not None else "length"
        return "tool_calls" if self.calls and reason == "stop" else reason

    def add(self, piece: Piece) -> None:
        """Take one piece of the text."""
        if isinstance(piece, TextPiece):
            self.text += piece.text
        elif isinstance(piece, CallStart):
            self.calls.append(Call(make_call_id(self.start, piece.index), piece.name))
        elif isinstance(piece, CallArguments):
            self.calls[piece.index].arguments += piece.text


async def gather(
    events: AsyncGenerator[ChatEvent, None], tally: Tally, choices: int, tools: ToolUse | None = None
) -> list[Gathered]:
    """Read an answer to its end.

    Errors: UpstreamFailed when a choice is missing or broke off.
    """
    found: dict[int, Gathered] = {}
    readers = [make_reader(tools) for _ in range(choices)]
    async for event in events:
        tally.note(event)
        if isinstance(event, ChatStart):
            found[event.choice] = Gathered(event)
        elif isinstance(event, ChatDelta):
            found[event.choice].tokens += event.tokens
            for piece in readers[event.choice].feed(event.text):
                found[event.choice].add(piece)
        elif isinstance(event, ChatEnd):
            for piece in readers[event.choice].finish():
                found[event.choice].add(piece)
            found[event.choice].end = event
    whole = [found[choice] for choice in sorted(found) if found[choice].end is not None]
    if len(whole) < choices:
        raise UpstreamFailed("The answer broke off before its end." if found else "No node took the task.")
    return whole


def make_call_id(start: ChatStart, index: int) -> str:
    """Return the name of a call, by which its result is sent back."""
    return f"call_{start.task_id[:24]}_{index}"


def get_usage(ends: list[ChatEnd]) -> dict[str, Any]:
    """Return the token counts under OpenAI's names: what was paid for, so each choice counts its prompt."""
    read, written = sum(end.prompt_tokens for end in ends), sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def get_receipt(start: ChatStart, end: ChatEnd) -> dict[str, str | int]:
    """Return what this network adds to one choice: the task, the node that did it, and what it cost."""
    return {"task": end.task_id, "executor": end.executor or start.executor, "cost_nicoin": end.cost_nicoin}


def get_receipts(answers: list[Gathered]) -> dict[str, Any]:
    """Return what this network adds to a whole answer: the first task, the sum, and every task in the order of choices."""
    tasks = [get_receipt(answer.start, answer.end) for answer in answers if answer.end is not None]
    return {**tasks[0], "cost_nicoin": sum(int(task["cost_nicoin"]) for task in tasks), "tasks": tasks}


def show_token(token: TokenView) -> dict[str, Any]:
    """Return one token under the names of chat completions."""
    top = [_show_likely(content, logprob) for content, logprob in token.top]
    return {**_show_likely(token.content, token.logprob), "top_logprobs": top}


def _show_likely(content: bytes, logprob: float) -> dict[str, Any]:
    return {"token": content.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(content)}
