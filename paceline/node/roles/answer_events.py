"""What an answer is made of on its way from the relay to whoever asked, how much of it may pile up unread, and the word for no room.

It knows frames and no session. Invariant: joining two events loses no letter and no token.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.errors import TransportError
from paceline.node.answers.pump import Buffering
from paceline.protocol.answers import EndFrame, TextFrame, VectorFrame
from paceline.protocol.messages import Skip

BUFFER_BYTES = 256 * 1024
MAX_JOINED = 4_096
"""Letters up to which text that waits for a client is put into one frame."""
STALL_SECONDS = 60.0
"""How long a client may leave a full buffer unread."""


@dataclass(frozen=True)
class Started:
    """First event of an answer: who does it, and for how many nicoin a token."""

    task_id: bytes
    executor: bytes
    token_price: int


class FullError(TransportError):
    """The executor has no room, and says so in a mark."""

    def __init__(self, skip: Skip) -> None:
        super().__init__("at its limit of waiting requests")
        self.skip = skip


AnswerEvent = Started | TextFrame | VectorFrame | EndFrame


def _measure(event: AnswerEvent) -> int:
    return len(event.text.encode()) if isinstance(event, TextFrame) else 0


def _join(before: AnswerEvent, after: AnswerEvent) -> AnswerEvent | None:
    """Both as one frame, when nothing but text would be joined."""
    if isinstance(before, TextFrame) and isinstance(after, TextFrame) and len(before.text) < MAX_JOINED:
        pairs = zip(msgspec.structs.astuple(before), msgspec.structs.astuple(after), strict=True)
        return TextFrame(*(first + second for first, second in pairs))
    return None


BUFFERING = Buffering[AnswerEvent](limit_bytes=BUFFER_BYTES, stall_seconds=STALL_SECONDS, measure=_measure, join=_join)
