"""What a client has of an answer already, when the answer begins anew on another node.

The next drawn node makes the same answer again, because its sampling noise is fixed by the task and not by the node; only what
lies behind the part already sent passes. It refuses to know who answers. Invariant: what passes, joined, is one answer of the
last node from its first letter on; a node whose text differs from what was sent passes nothing more.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import TransportError
from paceline.protocol.answers import TextFrame


class Continuation:
    """Text frames of one answer over all nodes that were asked for it."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._owed = ""
        self._sent_tokens = 0
        self._owed_tokens = 0

    @property
    def is_begun(self) -> bool:
        """True when the client has seen text."""
        return bool(self._sent)

    def restart(self) -> None:
        """Another node begins at the first letter."""
        self._owed = "".join(self._sent)
        self._sent = [self._owed] if self._owed else []
        self._owed_tokens = self._sent_tokens

    def admit(self, frame: TextFrame) -> TextFrame | None:
        """What of the frame is new to the client, None when nothing.

        Errors: TransportError when the text is another one than was sent.
        """
        dropped = min(self._owed_tokens, len(frame.tokens))
        if dropped:
            self._owed_tokens -= dropped
            frame = msgspec.structs.replace(frame, tokens=frame.tokens[dropped:])
        if self._owed:
            known, text = frame.text[: len(self._owed)], frame.text[len(self._owed) :]
            if not self._owed.startswith(known):
                raise TransportError("the answer differs from the part that was sent before")
            self._owed = self._owed[len(known) :]
            if not text and not frame.tokens:
                return None
            frame = msgspec.structs.replace(frame, text=text)
        self._sent.append(frame.text)
        self._sent_tokens += len(frame.tokens)
        return frame

    def end(self) -> None:
        """The node says that the answer is complete.

        Errors: TransportError when it is shorter than what was sent.
        """
        if self._owed:
            raise TransportError("the answer ends before the part that was sent before")
