"""The bytes of chat completions, whole and streamed.

Refuses to know: who asked and who answered beyond their names. Invariant: a streamed answer is role first, then
text, then a chunk with the reason it ended, then usage if asked for, then `[DONE]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from paceline.node.views import ChatEnd, ChatStart
from paceline.web.streams import encode_data

DONE = encode_data(b"[DONE]")


@dataclass(frozen=True, kw_only=True)
class CompletionHead:
    """What every object of one answer repeats. Units: created in Unix seconds."""

    start: ChatStart
    created: int

    def to_fields(self, kind: str) -> dict[str, Any]:
        """Return the members that come first in every object."""
        name = f"chatcmpl-{self.start.task_id}"
        model = self.start.model
        return {"id": name, "object": kind, "created": self.created, "model": model, "system_fingerprint": None}

    def to_headers(self) -> dict[str, str]:
        """Return the headers that say which task this is and who does it."""
        return {"x-paceline-task": self.start.task_id, "x-paceline-executor": self.start.executor}


class ChunkEncoder:
    """Encodes the events of one streamed answer; what all chunks share is encoded once."""

    def __init__(self, head: CompletionHead, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        marker = "\x00"
        whole = self._encode_choice({"content": marker}, None)
        self._before, _, self._after = whole.partition(msgspec.json.encode(marker))

    def encode_role(self) -> bytes:
        """Encode the first chunk."""
        return self._encode_choice({"role": "assistant", "content": "", "refusal": None}, None)

    def encode_text(self, text: str) -> bytes:
        """Encode more text."""
        return self._before + msgspec.json.encode(text) + self._after

    def encode_end(self, end: ChatEnd) -> bytes:
        """Encode everything that follows the last text."""
        parts = [self._encode_choice({}, end.finish_reason, {"paceline": get_receipt(self._head.start, end)})]
        if self._include_usage:
            fields = self._head.to_fields("chat.completion.chunk")
            parts.append(_encode_event({**fields, "choices": [], "usage": get_usage(end)}))
        return b"".join([*parts, DONE])

    def _encode_choice(self, delta: dict[str, Any], reason: str | None, extra: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        fields = self._head.to_fields("chat.completion.chunk")
        return _encode_event({**fields, "choices": [choice], **self._usage, **(extra or {})})


def encode_completion(head: CompletionHead, text: str, end: ChatEnd) -> bytes:
    """Encode a whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.finish_reason}
    fields = head.to_fields("chat.completion")
    receipt = get_receipt(head.start, end)
    return msgspec.json.encode({**fields, "choices": [choice], "usage": get_usage(end), "paceline": receipt})


def get_usage(end: ChatEnd) -> dict[str, int]:
    """Return the token counts under OpenAI's names."""
    total = end.prompt_tokens + end.completion_tokens
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": total,
    }


def get_receipt(start: ChatStart, end: ChatEnd) -> dict[str, str | int]:
    """Return what this network adds: the task, the node that did it, and what it cost."""
    return {"task": end.task_id, "executor": end.executor or start.executor, "cost_nicoin": end.cost_nicoin}


def _encode_event(fields: dict[str, Any]) -> bytes:
    return encode_data(msgspec.json.encode(fields))
