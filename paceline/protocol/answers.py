"""What travels between relay, executor and checkers for one answer. The ledger sees only its hashes and counts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.errors import Invalid
from paceline.base.hashing import hash_parts
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.messages import Count, Digest, Name, Skip, Voucher

MAX_ORDER_BYTES = 2 * 1024 * 1024
MAX_FRAME_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024

Ppm = Annotated[int, Meta(ge=0, le=10_000_000)]


class Turn(Record, frozen=True):
    """One message of a conversation."""

    role: Annotated[str, Meta(pattern="^(system|user|assistant)$")]
    content: str


class AnswerRequest(Record, frozen=True, kw_only=True):
    """What the user asks for, in integers: exactly this is hashed, signed for, executed and re-executed."""

    model: Name
    turns: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=1_024)]
    max_tokens: Annotated[int, Meta(ge=1, le=2**20)]
    temperature_ppm: Ppm
    top_p_ppm: Annotated[int, Meta(ge=1, le=1_000_000)]
    stop: Annotated[tuple[str, ...], Meta(max_length=4)]
    user_seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None

    def compute_hash(self) -> bytes:
        """What the voucher names as the prompt."""
        return hash_parts("answer-request", encode(self))


class TaskOrder(Record, frozen=True):
    """Relay to executor: do this, under this voucher."""

    voucher: Voucher
    request: AnswerRequest


class TextFrame(Record, frozen=True, tag="text"):
    """Executor to relay: more text."""

    text: str


class EndFrame(Record, frozen=True, tag="end"):
    """Executor to relay: the answer is complete, and this is what the receipt will say."""

    finish_reason: str
    prompt_tokens: Count
    completion_tokens: Count
    payload_hash: Digest


class FailFrame(Record, frozen=True, tag="fail"):
    """Executor to relay: no (further) answer; nothing is charged for what was not produced."""

    code: str
    message: str


class BusyFrame(Record, frozen=True, tag="busy"):
    """Executor to relay: no room for this task; the signature lets the relay pass it on."""

    skip: Skip


Frame = TextFrame | EndFrame | FailFrame | BusyFrame


def decode_frame(data: bytes) -> Frame:
    """A frame from untrusted bytes.

    Errors: Invalid too-large, malformed, non-canonical.
    """
    frame: Frame = decode(Frame, data, limit_bytes=MAX_FRAME_BYTES, error=Invalid)  # type: ignore[arg-type]  # a union
    return frame


class Payload(Record, frozen=True):
    """What an executor keeps under the receipt's payload hash for checkers: the request and the transcript's bytes."""

    request: AnswerRequest
    transcript: bytes


def derive_sampler_seed(session_seed: bytes, task_id: bytes, request: AnswerRequest, owner: bytes) -> bytes:
    """Seed of the sampling noise, fixed before the work: from the beacon, or from the user's own seed (repeatable)."""
    if request.user_seed is None:
        return hash_parts("sampler", session_seed, task_id)
    return hash_parts("sampler-user", owner, request.user_seed.to_bytes(8, "big", signed=True))
