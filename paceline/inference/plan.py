"""From what a user asks to a request that anyone can replay.

It checks sampler options and turns a conversation into token ids; it refuses to know where requests come from and who pays.
Invariant: a planned request has an encoding, fits the model and has room for one token of answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.base.errors import Invalid
from paceline.base.integers import PPM
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import (
    MAX_STOP_BYTES,
    MAX_STOP_STRINGS,
    MAX_TEMPERATURE_PPM,
    MAX_TOKENS,
    GenerationRequest,
    SamplerSpec,
)


def plan_sampler(*, temperature_ppm: int, top_p_ppm: int, max_tokens: int, stop: Sequence[str]) -> SamplerSpec:
    """Sampler options within the bounds of a transcript.

    Errors: Invalid with code temperature, top_p, max_tokens or stop, named as in OpenAI's API.
    """
    if not 0 <= temperature_ppm <= MAX_TEMPERATURE_PPM:
        raise Invalid("temperature", f"{temperature_ppm} ppm is not between 0 and {MAX_TEMPERATURE_PPM}")
    if not 1 <= top_p_ppm <= PPM:
        raise Invalid("top_p", f"{top_p_ppm} ppm is not between 1 and {PPM}")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise Invalid("max_tokens", f"{max_tokens} is not between 1 and {MAX_TOKENS}")
    if len(stop) > MAX_STOP_STRINGS:
        raise Invalid("stop", f"{len(stop)} stop strings, at most {MAX_STOP_STRINGS} are allowed")
    if not all(1 <= len(text.encode("utf-8", "replace")) <= MAX_STOP_BYTES for text in stop):
        raise Invalid("stop", f"every stop string has between 1 and {MAX_STOP_BYTES} bytes")
    return SamplerSpec(temperature_ppm, top_p_ppm, max_tokens, tuple(stop))


def plan_answer(
    model: LanguageModel, messages: Sequence[Mapping[str, str]], *, sampler: SamplerSpec, seed: bytes
) -> GenerationRequest:
    """The request for one answer of this model; `seed` is 32 bytes that the executor could not choose.

    Errors: Invalid with code messages when the conversation is empty or leaves no room in the context.
    """
    if not messages:
        raise Invalid("messages", "the conversation is empty")
    prompt = tuple(model.encode_chat(messages))
    if len(prompt) >= model.context_tokens:
        raise Invalid("messages", f"{len(prompt)} tokens, the context holds {model.context_tokens} with the answer")
    return GenerationRequest(
        model_id=model.model_id,
        model_hash=model.content_hash,
        engine=model.engine,
        sampler=sampler,
        seed=seed,
        prompt_tokens=prompt,
    )
