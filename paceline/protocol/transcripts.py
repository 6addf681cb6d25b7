"""Transcripts: what an executor says it did for one answer, in bytes that its receipt commits to.

A request names model, sampler and seed in integers, so everyone replays the same draw. Nothing here knows a tensor, a
text or a vocabulary. Invariant: decoded transcripts are bounded, canonical and have one logprob per output token.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob, hash_parts
from paceline.base.integers import PPM
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Digest, Name

TRANSCRIPT_VERSION = 2
MAX_TOKENS = 8192
MAX_CHOICES = 128
MAX_STOP_STRINGS = 4
MAX_STOP_BYTES = 256
MAX_TEMPERATURE_PPM = 2 * PPM
MAX_TOP_K = 2**20
MAX_PENALTY_PPM = 2 * PPM
MAX_BIAS_ENTRIES = 1_024
MAX_BIAS_MILLINATS = 100_000
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_LOGPROB_LOSS_MICRONATS = 1_000 * PPM
MAX_TRANSCRIPT_BYTES = 256 * 1024
VALUE_BYTES = 4
MAX_VECTOR_BYTES = VALUE_BYTES * 2**14

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tokens = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_TOKENS)]
Logprob = Annotated[int, Meta(ge=-MAX_LOGPROB_LOSS_MICRONATS, le=0)]
FinishReason = Literal["stop", "length", "cancelled"]
Choice = Annotated[int, Meta(ge=0, lt=MAX_CHOICES)]
Penalty = Annotated[int, Meta(ge=-MAX_PENALTY_PPM, le=MAX_PENALTY_PPM)]
Bias = tuple[TokenId, Annotated[int, Meta(ge=-MAX_BIAS_MILLINATS, le=MAX_BIAS_MILLINATS)]]
NO_TRACE = bytes(32)
"""The trace root of an engine that commits no states."""


class GrammarSpec(Record, frozen=True):
    """The form an answer must have. `text` is the schema or the pattern, empty for `json_object`.

    `engine` names library and version, because two of them may allow different tokens.
    """

    kind: Literal["json_object", "json_schema", "regex"]
    text: Annotated[str, Meta(max_length=MAX_GRAMMAR_BYTES)]
    engine: Name


class SamplerSpec(Record, frozen=True, kw_only=True):
    """How tokens are chosen. A temperature of zero is greedy, `top_k` of zero keeps all.

    Units: penalties in millionths of a nat; `bias` pairs token ids, ascending, with millinats.
    """

    temperature_ppm: Annotated[int, Meta(ge=0, le=MAX_TEMPERATURE_PPM)]
    top_k: Annotated[int, Meta(ge=0, le=MAX_TOP_K)] = 0
    top_p_ppm: Annotated[int, Meta(ge=1, le=PPM)]
    presence_ppm: Penalty = 0
    frequency_ppm: Penalty = 0
    bias: Annotated[tuple[Bias, ...], Meta(max_length=MAX_BIAS_ENTRIES)] = ()
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=MAX_STOP_STRINGS)]
    grammar: GrammarSpec | None = None


class GenerationRequest(Record, frozen=True):
    """Everything that determines an answer: model, arithmetic, sampler, seed, prompt and which of n choices it is."""

    model_id: Name
    model_hash: Digest
    engine: Name
    sampler: SamplerSpec
    seed: Digest
    prompt_tokens: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TOKENS)]
    choice: Choice = 0


class Transcript(Record, frozen=True):
    """A request with the tokens that answered it.

    Units: `logprobs_micronats` are those of the chosen tokens under the plain model (temperature 1, no top-p);
    `text_hash` commits to the text that the user was shown, `trace_root` to the hidden states (zeros: to none).
    """

    version: Annotated[int, Meta(ge=TRANSCRIPT_VERSION, le=TRANSCRIPT_VERSION)]
    request: GenerationRequest
    output_tokens: Tokens
    logprobs_micronats: Annotated[tuple[Logprob, ...], Meta(max_length=MAX_TOKENS)]
    finish_reason: FinishReason
    text_hash: Digest
    trace_root: Digest = NO_TRACE


class VectorClaim(Record, frozen=True):
    """What an executor says is the embedding of a prompt. `values`: fp32, little-endian, of unit length."""

    version: Annotated[int, Meta(ge=TRANSCRIPT_VERSION, le=TRANSCRIPT_VERSION)]
    model_id: Name
    model_hash: Digest
    engine: Name
    prompt_tokens: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TOKENS)]
    values: Annotated[bytes, Meta(min_length=VALUE_BYTES, max_length=MAX_VECTOR_BYTES)]


def encode_transcript(transcript: Transcript) -> bytes:
    """The canonical bytes, which the executor stores and serves as a blob."""
    return encode(transcript)


def decode_transcript(data: bytes) -> Transcript:
    """Decode a transcript that an executor sent.

    Errors: InvalidClaim with code too-large, malformed, non-canonical, uneven-transcript, stop-too-long, unsorted-bias,
    grammar-too-long, over-max-tokens or empty-answer.
    """
    transcript = decode(Transcript, data, limit_bytes=MAX_TRANSCRIPT_BYTES, error=InvalidClaim)
    check_shape(transcript)
    return transcript


def check_shape(transcript: Transcript) -> None:
    """Refuse what types cannot express. Errors: InvalidClaim, as `decode_transcript` lists them."""
    tokens, sampler = len(transcript.output_tokens), transcript.request.sampler
    if tokens != len(transcript.logprobs_micronats):
        raise InvalidClaim("uneven-transcript", f"{tokens} tokens, {len(transcript.logprobs_micronats)} logprobs")
    _check_sampler(sampler)
    if tokens > sampler.max_tokens:
        raise InvalidClaim("over-max-tokens", f"{tokens} tokens, the request allows {sampler.max_tokens}")
    if tokens == 0 and transcript.finish_reason != "cancelled":
        raise InvalidClaim("empty-answer", f"no tokens, yet finished by {transcript.finish_reason!r}")


def encode_vector_claim(claim: VectorClaim) -> bytes:
    """The canonical bytes, which the executor stores and serves as a blob."""
    return encode(claim)


def decode_vector_claim(data: bytes) -> VectorClaim:
    """Decode an embedding that an executor sent.

    Errors: InvalidClaim with code too-large, malformed, non-canonical or uneven-vector.
    """
    claim = decode(VectorClaim, data, limit_bytes=MAX_TRANSCRIPT_BYTES, error=InvalidClaim)
    if len(claim.values) % VALUE_BYTES:
        raise InvalidClaim("uneven-vector", f"{len(claim.values)} bytes are no whole number of fp32 values")
    return claim


def compute_payload_hash(transcript: Transcript) -> bytes:
    """The blob address of the transcript, which the receipt carries."""
    return hash_blob(encode_transcript(transcript))


def compute_request_hash(request: GenerationRequest) -> bytes:
    """What a user's order commits to, so that an executor cannot transcribe another prompt, sampler or seed."""
    return hash_parts("generation-request", encode(request))


def compute_text_hash(text: str) -> bytes:
    """Commitment to a shown text; whoever holds the text can compare."""
    return hash_parts("answer-text", text.encode("utf-8"))


def _check_sampler(sampler: SamplerSpec) -> None:
    longest = max((len(stop.encode()) for stop in sampler.stop), default=0)
    if longest > MAX_STOP_BYTES:
        raise InvalidClaim("stop-too-long", f"a stop string of {longest} bytes, at most {MAX_STOP_BYTES} are allowed")
    biased = [token_id for token_id, _ in sampler.bias]
    if any(later <= earlier for earlier, later in pairwise(biased)):
        raise InvalidClaim("unsorted-bias", "token ids of the bias do not ascend")
    length = len(sampler.grammar.text.encode()) if sampler.grammar else 0
    if length > MAX_GRAMMAR_BYTES:
        raise InvalidClaim("grammar-too-long", f"a grammar of {length} bytes, at most {MAX_GRAMMAR_BYTES} are allowed")
