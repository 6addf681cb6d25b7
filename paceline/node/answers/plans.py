"""From what people ask to what the network is asked: integers instead of numbers, one task for each choice.

Refuses to know: sockets, keys, sessions. Invariant: every request that comes out was planned as an executor will plan it,
so that what a node would refuse is refused before anything is promised.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from paceline.base.errors import Invalid
from paceline.inference.grammar import ENGINE
from paceline.inference.plan import encode_prompt
from paceline.models.language import LanguageModel
from paceline.node.views import (
    AnswerOptions,
    ChatDelta,
    ChatRequest,
    CompletionRequest,
    EmbedViewRequest,
    RequestRefused,
    TokenView,
)
from paceline.protocol.answers import (
    AnswerRequest,
    ChatPrompt,
    EmbedRequest,
    Prompt,
    TextFrame,
    TextPrompt,
    TokenPrompt,
    Turn,
)
from paceline.protocol.transcripts import GrammarSpec
from paceline.verification.payloads import build_generation

MICRO = 1_000_000
MILLI = 1_000
DEFAULT_MAX_TOKENS = 1_024
SEED_BYTES = 32


@dataclass(frozen=True)
class AnswerPlan:
    """One request for each choice, and how many tokens the prompt of each has."""

    requests: tuple[AnswerRequest, ...]
    prompt_tokens: int


def plan_answers(model: LanguageModel, asked: ChatRequest | CompletionRequest) -> AnswerPlan:
    """Plan the tasks of a request.

    Errors: RequestRefused naming the field.
    """
    prompt = _make_prompt(asked)
    try:
        prompt_tokens = len(encode_prompt(model, prompt))
        max_tokens = _find_limit(model, asked, prompt_tokens)
        first = _make_request(asked, prompt, max_tokens)
        build_generation(model, first, bytes(SEED_BYTES))
    except Invalid as problem:
        code = "context_length_exceeded" if problem.code in {"messages", "prompt"} else "invalid_value"
        raise RequestRefused(problem.code, code, problem.message) from None
    return AnswerPlan(tuple(replace(first, choice=choice) for choice in range(asked.n)), prompt_tokens)


def plan_embeddings(model: LanguageModel, asked: EmbedViewRequest) -> list[tuple[EmbedRequest, int]]:
    """Plan one task for each input, with its tokens.

    Errors: RequestRefused naming the field.
    """
    planned = []
    for given in asked.inputs:
        prompt = TextPrompt(given) if isinstance(given, str) else TokenPrompt(given)
        try:
            tokens = len(encode_prompt(model, prompt))
        except Invalid as problem:
            raise RequestRefused("input", "invalid_value", problem.message) from None
        if tokens > model.context_tokens:
            text = f"an input has {tokens} tokens, the model's context holds {model.context_tokens}"
            raise RequestRefused("input", "context_length_exceeded", text)
        planned.append((EmbedRequest(model=asked.model, prompt=prompt), tokens))
    return planned


def show_delta(frame: TextFrame, choice: int) -> ChatDelta:
    """Return a frame as people see it."""
    tokens = tuple(
        TokenView(
            token.text_bytes,
            token.logprob_micronats / MICRO,
            tuple((content, logprob / MICRO) for _, content, logprob in token.top),
        )
        for token in frame.tokens
    )
    return ChatDelta(frame.text, choice, tokens)


def _make_prompt(asked: ChatRequest | CompletionRequest) -> Prompt:
    if isinstance(asked, ChatRequest):
        return ChatPrompt(tuple(Turn(message.role, message.content) for message in asked.messages))
    return TextPrompt(asked.prompt) if isinstance(asked.prompt, str) else TokenPrompt(asked.prompt)


def _find_limit(model: LanguageModel, asked: ChatRequest | CompletionRequest, prompt_tokens: int) -> int:
    field = "messages" if isinstance(asked, ChatRequest) else "prompt"
    room = model.context_tokens - prompt_tokens
    if room < 1:
        text = f"the prompt has {prompt_tokens} tokens, the model's context holds {model.context_tokens}"
        raise RequestRefused(field, "context_length_exceeded", text)
    if asked.max_tokens is not None and asked.max_tokens > room:
        text = f"max_tokens is {asked.max_tokens}; the prompt leaves room for {room} tokens"
        raise RequestRefused("max_tokens", "context_length_exceeded", text)
    return asked.max_tokens if asked.max_tokens is not None else min(room, DEFAULT_MAX_TOKENS)


def _make_request(asked: AnswerOptions, prompt: Prompt, max_tokens: int) -> AnswerRequest:
    wanted = asked.grammar
    grammar = GrammarSpec(kind=wanted.kind, text=wanted.text, engine=ENGINE) if wanted is not None else None
    return AnswerRequest(
        model=asked.model,
        prompt=prompt,
        temperature_ppm=round(asked.temperature * MICRO),
        top_p_ppm=max(1, round(asked.top_p * MICRO)),
        presence_ppm=round(asked.presence_penalty * MICRO),
        frequency_ppm=round(asked.frequency_penalty * MICRO),
        bias=tuple((token, round(value * MILLI)) for token, value in asked.logit_bias),
        max_tokens=max_tokens,
        stop=asked.stop,
        grammar=grammar,
        top_logprobs=asked.top_logprobs,
        user_seed=asked.seed,
    )
