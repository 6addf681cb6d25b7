"""From what a user asks to a request that anyone can replay.

It checks sampler options and turns a prompt into token ids; it refuses to know where requests come from and who pays.
Invariant: a planned request has an encoding, fits the model and has room for one token of answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, Required, TypedDict, Unpack

from paceline.base.errors import Invalid
from paceline.base.integers import PPM
from paceline.inference.grammar import open_grammar
from paceline.models.language import LanguageModel
from paceline.protocol.answers import ChatPrompt, Prompt, TextPrompt
from paceline.protocol.transcripts import (
    MAX_BIAS_ENTRIES,
    MAX_BIAS_MILLINATS,
    MAX_CHOICES,
    MAX_GRAMMAR_BYTES,
    MAX_PENALTY_PPM,
    MAX_STOP_BYTES,
    MAX_STOP_STRINGS,
    MAX_TEMPERATURE_PPM,
    MAX_TOKENS,
    MAX_TOP_K,
    GenerationRequest,
    GrammarSpec,
    SamplerSpec,
)


class SamplerOptions(TypedDict):
    """The fields of a `SamplerSpec`, in any order of the bias and any kind of sequence."""

    temperature_ppm: Required[int]
    top_p_ppm: Required[int]
    max_tokens: Required[int]
    stop: Required[Sequence[str]]
    top_k: NotRequired[int]
    presence_ppm: NotRequired[int]
    frequency_ppm: NotRequired[int]
    bias: NotRequired[Sequence[tuple[int, int]]]
    grammar: NotRequired[GrammarSpec | None]


def plan_sampler(**options: Unpack[SamplerOptions]) -> SamplerSpec:
    """Sampler options within the bounds of a transcript.

    Errors: Invalid with code temperature, top_k, top_p, presence_penalty, frequency_penalty, logit_bias, max_tokens, stop
    or response_format, named as in OpenAI's API.
    """
    spec = SamplerSpec(
        temperature_ppm=options["temperature_ppm"],
        top_k=options.get("top_k", 0),
        top_p_ppm=options["top_p_ppm"],
        presence_ppm=options.get("presence_ppm", 0),
        frequency_ppm=options.get("frequency_ppm", 0),
        bias=tuple(sorted(options.get("bias", ()))),
        max_tokens=options["max_tokens"],
        stop=tuple(options["stop"]),
        grammar=options.get("grammar"),
    )
    _check_ranges(spec)
    _check_lists(spec)
    return spec


def plan_answer(
    model: LanguageModel,
    prompt: Prompt | Sequence[Mapping[str, str]],
    *,
    sampler: SamplerSpec,
    seed: bytes,
    choice: int = 0,
) -> GenerationRequest:
    """The request for one answer of this model; `seed` is 32 bytes that the executor could not choose.

    Errors: Invalid with code messages or prompt when that is empty or leaves no room in the context; logit_bias when it
    names a token that the model does not have; n when there are too many choices; response_format as in `open_grammar`.
    WorkError when the request names another grammar engine than this node has.
    """
    tokens = encode_prompt(model, prompt)
    if len(tokens) >= model.context_tokens:
        text = f"{len(tokens)} tokens, the context holds {model.context_tokens} with the answer"
        raise Invalid(_name_field(prompt), text)
    if sampler.grammar is not None:
        open_grammar(model, sampler.grammar)
    highest = max((token_id for token_id, _ in sampler.bias), default=0)
    if highest >= model.vocab_size:
        raise Invalid("logit_bias", f"token {highest} is outside the vocabulary of {model.vocab_size}")
    if not 0 <= choice < MAX_CHOICES:
        raise Invalid("n", f"choice {choice} is not between 0 and {MAX_CHOICES - 1}")
    return GenerationRequest(
        model_id=model.model_id,
        model_hash=model.content_hash,
        engine=model.engine,
        sampler=sampler,
        seed=seed,
        prompt_tokens=tokens,
        choice=choice,
    )


def encode_prompt(model: LanguageModel, prompt: Prompt | Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    """Token ids of a prompt.

    Errors: Invalid with code messages or prompt when it is empty or names a token that the model does not have.
    """
    if isinstance(prompt, ChatPrompt):
        tokens = tuple(model.encode_chat([{"role": turn.role, "content": turn.content} for turn in prompt.turns]))
    elif isinstance(prompt, TextPrompt):
        tokens = tuple(model.encode(prompt.text))
    elif isinstance(prompt, Sequence):
        tokens = tuple(model.encode_chat(prompt)) if prompt else ()
    else:
        tokens = prompt.token_ids
        if max(tokens, default=0) >= model.vocab_size:
            raise Invalid("prompt", f"token {max(tokens)} is outside the vocabulary of {model.vocab_size}")
    if not tokens:
        raise Invalid(_name_field(prompt), "the prompt is empty")
    if len(tokens) > MAX_TOKENS:
        raise Invalid(_name_field(prompt), f"{len(tokens)} tokens, at most {MAX_TOKENS} are allowed")
    return tokens


def _name_field(prompt: Prompt | Sequence[Mapping[str, str]]) -> str:
    return "messages" if isinstance(prompt, (ChatPrompt, Sequence)) else "prompt"


def _check_ranges(spec: SamplerSpec) -> None:
    for field, value, low, high in (
        ("temperature", spec.temperature_ppm, 0, MAX_TEMPERATURE_PPM),
        ("top_k", spec.top_k, 0, MAX_TOP_K),
        ("top_p", spec.top_p_ppm, 1, PPM),
        ("presence_penalty", spec.presence_ppm, -MAX_PENALTY_PPM, MAX_PENALTY_PPM),
        ("frequency_penalty", spec.frequency_ppm, -MAX_PENALTY_PPM, MAX_PENALTY_PPM),
        ("max_tokens", spec.max_tokens, 1, MAX_TOKENS),
    ):
        if not low <= value <= high:
            unit = "" if field in {"max_tokens", "top_k"} else " ppm"
            raise Invalid(field, f"{value}{unit} is not between {low} and {high}")


def _check_lists(spec: SamplerSpec) -> None:
    if len(spec.stop) > MAX_STOP_STRINGS:
        raise Invalid("stop", f"{len(spec.stop)} stop strings, at most {MAX_STOP_STRINGS} are allowed")
    if not all(1 <= len(text.encode("utf-8", "replace")) <= MAX_STOP_BYTES for text in spec.stop):
        raise Invalid("stop", f"every stop string has between 1 and {MAX_STOP_BYTES} bytes")
    if len(spec.bias) > MAX_BIAS_ENTRIES:
        raise Invalid("logit_bias", f"{len(spec.bias)} tokens, at most {MAX_BIAS_ENTRIES} are allowed")
    if len({token_id for token_id, _ in spec.bias}) < len(spec.bias):
        raise Invalid("logit_bias", "a token is named twice")
    if not all(token_id >= 0 and abs(value) <= MAX_BIAS_MILLINATS for token_id, value in spec.bias):
        raise Invalid("logit_bias", f"a bias is not between -{MAX_BIAS_MILLINATS} and {MAX_BIAS_MILLINATS} millinats")
    if spec.grammar is not None and len(spec.grammar.text.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
        raise Invalid("response_format", f"the schema or pattern has more than {MAX_GRAMMAR_BYTES} bytes")
