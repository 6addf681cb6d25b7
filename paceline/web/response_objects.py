"""The objects and events of /v1/responses.

Refuses to know: the gateway and what is kept. Invariant: the events of a stream, put together, are the whole answer; each
carries the next sequence number, and an item is closed before the next one begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from paceline.node.views import ChatEnd, ChatStart, TokenView
from paceline.web.errors import ApiError
from paceline.web.gather import get_receipt, make_call_id, show_token
from paceline.web.tool_reader import CallArguments, CallStart, Piece, TextPiece

ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "previous_response_id",
    "safety_identifier",
    "prompt_cache_key",
    "top_logprobs",
    "user",
)


@dataclass
class ResponseBuilder:
    """Builds one answer piece by piece; each step returns the events that tell it."""

    start: ChatStart
    created: int
    values: dict[str, Any]
    items: list[dict[str, Any]] = field(default_factory=list)
    _sequence: int = 0
    _open: bool = False

    def begin(self) -> bytes:
        """The answer has begun."""
        shown = self.show("in_progress")
        return self._tell("response.created", response=shown) + self._tell("response.in_progress", response=shown)

    def add(self, piece: Piece) -> bytes:
        """Take a piece of the answer."""
        if isinstance(piece, TextPiece):
            return self._add_text(piece.text)
        if isinstance(piece, CallStart):
            return self._close() + self._open_call(piece)
        return self._add_arguments(piece)

    def add_tokens(self, tokens: tuple[TokenView, ...]) -> bytes:
        """Take the logprobs of tokens whose text comes next."""
        if not tokens:
            return b""
        told = b"" if self._in_message else self._close() + self._open_message()
        self.items[-1]["content"][0]["logprobs"] += [show_token(token) for token in tokens]
        return told

    def finish(self, end: ChatEnd) -> bytes:
        """The answer has ended."""
        told = b"" if self.items else self._open_message()
        told += self._close(cut=end.finish_reason == "length")
        shown = self.show_end(end)
        return told + self._tell(f"response.{shown['status']}", response=shown)

    def fail(self, error: ApiError) -> bytes:
        """The answer broke off."""
        shown = self.show("failed") | {"error": {"code": error.code or "server_error", "message": error.message}}
        return self._tell("response.failed", response=shown)

    def show_end(self, end: ChatEnd) -> dict[str, Any]:
        """Return the whole answer."""
        cut = end.finish_reason == "length"
        total = end.prompt_tokens + end.completion_tokens
        usage = {
            "input_tokens": end.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": end.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": total,
        }
        shown = self.show("incomplete" if cut else "completed")
        reason = {"reason": "max_output_tokens"} if cut else None
        return shown | {"usage": usage, "incomplete_details": reason, "paceline": get_receipt(self.start, end)}

    def show(self, status: str) -> dict[str, Any]:
        """Return the answer so far."""
        values = self.values
        text = values.get("text")
        wanted = text.format if text is not None and text.format is not None else None
        return {
            "id": f"resp_{self.start.task_id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.start.model,
            "output": [dict(item) for item in self.items],
            "parallel_tool_calls": values.get("parallel_tool_calls") is not False,
            "reasoning": {"effort": None, "summary": None},
            "store": values.get("store") is not False,
            "temperature": 1.0 if values.get("temperature") is None else values["temperature"],
            "text": {"format": wanted if wanted is not None else {"type": "text"}},
            "tool_choice": values.get("tool_choice") or "auto",
            "tools": values.get("tools") or [],
            "top_p": 1.0 if values.get("top_p") is None else values["top_p"],
            "truncation": "disabled",
            "usage": None,
            **{name: values.get(name) for name in ECHOED},
        }

    @property
    def _in_message(self) -> bool:
        return self._open and self.items[-1]["type"] == "message"

    def _add_text(self, text: str) -> bytes:
        told = b"" if self._in_message else self._close() + self._open_message()
        item = self.items[-1]
        item["content"][0]["text"] += text
        return told + self._tell_item("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _open_message(self) -> bytes:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item: dict[str, Any] = {
            "type": "message",
            "id": f"msg_{self.start.task_id}_{len(self.items)}",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        told = self._open_item(item)
        item["content"] = [part]
        return told + self._tell_item("response.content_part.added", content_index=0, part=part)

    def _open_call(self, piece: CallStart) -> bytes:
        name = make_call_id(self.start, piece.index)
        item = {"type": "function_call", "id": f"fc_{name}", "status": "in_progress"}
        return self._open_item({**item, "call_id": name, "name": piece.name, "arguments": ""})

    def _add_arguments(self, piece: CallArguments) -> bytes:
        self.items[-1]["arguments"] += piece.text
        return self._tell_item("response.function_call_arguments.delta", delta=piece.text)

    def _open_item(self, item: dict[str, Any]) -> bytes:
        self.items.append(item)
        self._open = True
        return self._tell("response.output_item.added", output_index=len(self.items) - 1, item=item)

    def _close(self, *, cut: bool = False) -> bytes:
        if not self._open:
            return b""
        self._open = False
        item = self.items[-1]
        item["status"] = "incomplete" if cut else "completed"
        if item["type"] == "message":
            part = item["content"][0]
            told = self._tell_item(
                "response.output_text.done", content_index=0, text=part["text"], logprobs=part["logprobs"]
            )
            told += self._tell_item("response.content_part.done", content_index=0, part=part)
        else:
            told = self._tell_item(
                "response.function_call_arguments.done", name=item["name"], arguments=item["arguments"]
            )
        return told + self._tell("response.output_item.done", output_index=len(self.items) - 1, item=item)

    def _tell_item(self, kind: str, **members: Any) -> bytes:
        return self._tell(kind, item_id=self.items[-1]["id"], output_index=len(self.items) - 1, **members)

    def _tell(self, kind: str, **members: Any) -> bytes:
        body = msgspec.json.encode({"type": kind, "sequence_number": self._sequence, **members})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"
