"""What travels between relay, executor and checkers for one answer. The ledger sees only its hashes and counts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.errors import Invalid
from paceline.base.hashing import hash_parts
from paceline.protocol.channels import Countersigned, Leaf
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Count, Digest, Id, Name, SignatureBytes
from paceline.protocol.messages import Skip, Voucher
from paceline.protocol.transcripts import (
    MAX_TOKENS,
    MAX_VECTOR_BYTES,
    VALUE_BYTES,
    Choice,
    GrammarSpec,
    Logprob,
    TokenId,
)

MAX_ORDER_BYTES = 2 * 1024 * 1024
MAX_FRAME_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024

MAX_TOP_LOGPROBS = 20

Ppm = Annotated[int, Meta(ge=0, le=10_000_000)]
SignedPpm = Annotated[int, Meta(ge=-10_000_000, le=10_000_000)]
Millinats = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Turn(Record, frozen=True):
    """One message of a conversation."""

    role: Annotated[str, Meta(pattern=r"^(system|user|assistant)\Z")]
    content: str


class ChatPrompt(Record, frozen=True, tag="chat"):
    """A conversation, put into words for the model by its chat template."""

    turns: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=1_024)]


class TextPrompt(Record, frozen=True, tag="text"):
    """A text that the model continues as it stands."""

    text: Annotated[str, Meta(min_length=1)]


class TokenPrompt(Record, frozen=True, tag="tokens"):
    """Token ids that the model continues as they stand."""

    token_ids: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TOKENS)]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class AnswerRequest(Record, frozen=True, kw_only=True, tag="answer"):
    """What the user asks for, in integers: exactly this is hashed, signed for, executed and re-executed.

    The sampler's fields mean what they mean in `SamplerSpec`; planning names the one that is out of bounds.
    `top_logprobs`: None when no logprobs are wanted.
    """

    model: Name
    prompt: Prompt
    temperature_ppm: Ppm
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    top_p_ppm: Annotated[int, Meta(ge=1, le=1_000_000)]
    presence_ppm: SignedPpm = 0
    frequency_ppm: SignedPpm = 0
    bias: Annotated[tuple[tuple[TokenId, Millinats], ...], Meta(max_length=2**16)] = ()
    max_tokens: Annotated[int, Meta(ge=1, le=2**20)]
    stop: Annotated[tuple[str, ...], Meta(max_length=4)]
    grammar: GrammarSpec | None = None
    choice: Choice = 0
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    user_seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None

    def compute_hash(self) -> bytes:
        """What the voucher names as the prompt."""
        return hash_parts("answer-request", encode(self))


class EmbedRequest(Record, frozen=True, tag="embed"):
    """A text whose vector is wanted."""

    model: Name
    prompt: TextPrompt | TokenPrompt

    @property
    def max_tokens(self) -> int:
        """Tokens that are written: none, so only the prompt is paid for."""
        return 0

    def compute_hash(self) -> bytes:
        """What the voucher names as the prompt."""
        return hash_parts("embed-request", encode(self))


Request = AnswerRequest | EmbedRequest


class TaskOrder(Record, frozen=True):
    """Relay to executor: do this, under this voucher."""

    voucher: Voucher
    request: Request


class ChannelOrder(Record, frozen=True):
    """Relay to executor: do this as the next answer of a channel. `owed`: what was answered before, None for nothing."""

    channel: Id
    owed: Countersigned | None
    request: Request


TopLogprob = tuple[TokenId, bytes, Logprob]
"""Token id, the bytes it stands for, micronats."""


class TokenLogprob(Record, frozen=True):
    """One token of an answer, with how likely the plain model held it and its likeliest tokens, best first."""

    token_id: TokenId
    text_bytes: bytes
    logprob_micronats: Logprob
    top: Annotated[tuple[TopLogprob, ...], Meta(max_length=MAX_TOP_LOGPROBS)]


class TextFrame(Record, frozen=True, tag="text"):
    """Executor to relay: more text; with the tokens made since the last frame when the request asks for logprobs."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


class VectorFrame(Record, frozen=True, tag="vector"):
    """Executor to relay: the embedding. `values`: fp32, little-endian, of unit length."""

    values: Annotated[bytes, Meta(min_length=VALUE_BYTES, max_length=MAX_VECTOR_BYTES)]


class EndFrame(Record, frozen=True, tag="end"):
    """Executor to relay: the answer is complete, and this is what the receipt will say."""

    finish_reason: str
    prompt_tokens: Count
    completion_tokens: Count
    payload_hash: Digest


class StateFrame(Record, frozen=True, tag="state"):
    """Executor to relay: the leaf of an answer, and the executor's signature over the state behind it."""

    leaf: Leaf
    signature: SignatureBytes


class FailFrame(Record, frozen=True, tag="fail"):
    """Executor to relay: no (further) answer; nothing is charged for what was not produced."""

    code: str
    message: str


class BusyFrame(Record, frozen=True, tag="busy"):
    """Executor to relay: no room for this task; the signature lets the relay pass it on."""

    skip: Skip


Frame = TextFrame | VectorFrame | StateFrame | EndFrame | FailFrame | BusyFrame


def decode_frame(data: bytes) -> Frame:
    """A frame from untrusted bytes.

    Errors: Invalid too-large, malformed, non-canonical.
    """
    frame: Frame = decode(Frame, data, limit_bytes=MAX_FRAME_BYTES, error=Invalid)  # type: ignore[arg-type]  # a union
    return frame


class Payload(Record, frozen=True):
    """What an executor keeps under the receipt's payload hash for checkers: the request and what was claimed.

    `transcript`: bytes of a `Transcript`, or of a `VectorClaim` when an embedding was asked for.
    """

    request: Request
    transcript: bytes


def derive_sampler_seed(session_seed: bytes, task_id: bytes, request: AnswerRequest, owner: bytes) -> bytes:
    """Seed of the sampling noise, fixed before the work: from the beacon, or from the user's own seed (repeatable)."""
    choice = request.choice.to_bytes(1, "big")
    if request.user_seed is None:
        return hash_parts("sampler", session_seed, task_id, choice)
    return hash_parts("sampler-user", owner, request.user_seed.to_bytes(8, "big", signed=True), choice)
