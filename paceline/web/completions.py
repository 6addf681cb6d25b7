"""The bytes of chat completions, whole and streamed.

Refuses to know: who asked and who answered beyond their names. Invariant: each choice of a streamed answer is role first,
then text or calls, then a chunk with the reason it ended; after all of them usage if asked for, then `[DONE]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from paceline.node.views import ChatDelta, ChatEnd, ChatStart, TokenView
from paceline.web.gather import Gathered, get_receipt, get_receipts, get_usage, make_call_id, show_token
from paceline.web.streams import encode_data
from paceline.web.tool_reader import CallStart, Piece, Reader, TextPiece

DONE = encode_data(b"[DONE]")
MARKER = "\x00"


@dataclass(frozen=True, kw_only=True)
class CompletionHead:
    """What every object of one answer repeats. Units: created in Unix seconds."""

    start: ChatStart
    created: int
    prefix: str = "chatcmpl"

    def to_fields(self, kind: str) -> dict[str, Any]:
        """Return the members that come first in every object."""
        name = f"{self.prefix}-{self.start.task_id}"
        model = self.start.model
        return {"id": name, "object": kind, "created": self.created, "model": model, "system_fingerprint": None}

    def to_headers(self) -> dict[str, str]:
        """Return the headers that say which task this is and who does it."""
        return {"x-paceline-task": self.start.task_id, "x-paceline-executor": self.start.executor}


class ChunkEncoder:
    """Encodes the events of one choice of a streamed answer; what all its chunks share is encoded once."""

    def __init__(self, head: CompletionHead, start: ChatStart, reader: Reader, *, include_usage: bool) -> None:
        self._head = head
        self._start = start
        self._reader = reader
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        whole = self._encode_choice({"content": MARKER}, None)
        self._before, _, self._after = whole.partition(msgspec.json.encode(MARKER))

    def encode_role(self) -> bytes:
        """Encode the first chunk."""
        return self._encode_choice({"role": "assistant", "content": "", "refusal": None}, None)

    def encode_delta(self, delta: ChatDelta) -> bytes:
        """Encode more text, or calls found in it."""
        return self._encode_pieces(self._reader.feed(delta.text), delta.tokens)

    def encode_end(self, end: ChatEnd) -> bytes:
        """Encode everything that follows the last text."""
        rest = self._encode_pieces(self._reader.finish(), ())
        reason: str = end.finish_reason
        if self._reader.calls and reason == "stop":
            reason = "tool_calls"
        return rest + self._encode_choice({}, reason, extra={"paceline": get_receipt(self._start, end)})

    def _encode_pieces(self, pieces: list[Piece], tokens: tuple[TokenView, ...]) -> bytes:
        if not tokens and len(pieces) == 1 and isinstance(pieces[0], TextPiece):
            return self._before + msgspec.json.encode(pieces[0].text) + self._after
        parts = []
        if tokens:
            # The text of a token may still be held back; its logprobs are told when it is made.
            text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
            parts.append(self._encode_choice({"content": text}, None, tokens=tokens))
            pieces = [piece for piece in pieces if not isinstance(piece, TextPiece)]
        parts += [self._encode_choice(self._show_piece(piece), None) for piece in pieces]
        return b"".join(parts)

    def _show_piece(self, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, TextPiece):
            return {"content": piece.text}
        if isinstance(piece, CallStart):
            function = {"name": piece.name, "arguments": ""}
            name = make_call_id(self._start, piece.index)
            return {"tool_calls": [{"index": piece.index, "id": name, "type": "function", "function": function}]}
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}

    def _encode_choice(
        self,
        delta: dict[str, Any],
        reason: str | None,
        *,
        tokens: tuple[TokenView, ...] = (),
        extra: dict[str, Any] | None = None,
    ) -> bytes:
        logprobs = {"content": [show_token(token) for token in tokens], "refusal": None} if tokens else None
        choice = {"index": self._start.choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        fields = self._head.to_fields("chat.completion.chunk")
        return _encode_event({**fields, "choices": [choice], **self._usage, **(extra or {})})


def encode_last(head: CompletionHead, kind: str, ends: list[ChatEnd], *, include_usage: bool) -> bytes:
    """Encode what follows the last choice."""
    if not include_usage:
        return DONE
    return _encode_event({**head.to_fields(kind), "choices": [], "usage": get_usage(ends)}) + DONE


def encode_completion(head: CompletionHead, answers: list[Gathered], *, with_logprobs: bool) -> bytes:
    """Encode a whole answer."""
    choices = [_show_choice(answer, with_logprobs=with_logprobs) for answer in answers]
    ends = [answer.end for answer in answers if answer.end is not None]
    fields = head.to_fields("chat.completion")
    return msgspec.json.encode(
        {**fields, "choices": choices, "usage": get_usage(ends), "paceline": get_receipts(answers)}
    )


def _show_choice(answer: Gathered, *, with_logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    else:
        message["content"] = answer.text
    content = [show_token(token) for token in answer.tokens]
    return {
        "index": answer.start.choice,
        "message": message,
        "logprobs": {"content": content, "refusal": None} if with_logprobs else None,
        "finish_reason": answer.finish_reason,
    }


def _encode_event(fields: dict[str, Any]) -> bytes:
    return encode_data(msgspec.json.encode(fields))
