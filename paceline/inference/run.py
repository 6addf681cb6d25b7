"""Running a request: one prefill, then one token after another, with text that is safe to stream.

It knows a model and a request; it refuses to know who asked, what it costs or how tokens travel. Invariant: the texts of all
steps, joined, are what `derive_text` gives for the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from paceline.base.errors import WorkError
from paceline.inference.grammar import open_grammar
from paceline.inference.sampler import SamplerState, choose_token, compute_logprob_micronats, compute_top_logprobs
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import FinishReason, GenerationRequest


@dataclass(frozen=True, kw_only=True)
class TokenStep:
    """One generated token. Only the last step of an answer has a finish reason; text may lag behind the tokens.

    `top`: the likeliest tokens with their logprobs in micronats, when they were asked for.
    """

    token_id: int
    text: str
    logprob_micronats: int
    finish_reason: FinishReason | None
    top: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DerivedText:
    """The text of a token sequence. `stopped_at` is the index of the token that completed a stop string."""

    text: str
    stopped_at: int | None


class TextStream:
    """Text of tokens as they come, holding back whatever may turn out to begin a stop string."""

    def __init__(self, model: LanguageModel, stop: Sequence[str]) -> None:
        self._detokeniser = model.open_detokeniser()
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain after this token; sets `stopped` when a stop string is complete."""
        self._held += self._detokeniser.push(token_id)
        found = [index for text in self._stop if (index := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), keep_rest=False)
        return self._release(len(self._held) - self._count_undecided(), keep_rest=True)

    def flush(self) -> str:
        """What was held back, when no more tokens follow."""
        return self._release(len(self._held), keep_rest=False)

    def _release(self, count: int, *, keep_rest: bool) -> str:
        text, rest = self._held[:count], self._held[count:]
        self._held = rest if keep_rest else ""
        return text

    def _count_undecided(self) -> int:
        longest = min(max(map(len, self._stop), default=0), len(self._held))
        return next(
            (size for size in range(longest, 0, -1) if any(text.startswith(self._held[-size:]) for text in self._stop)),
            0,
        )


def generate(
    model: LanguageModel,
    request: GenerationRequest,
    *,
    should_stop: Callable[[], bool],
    top_logprobs: int = 0,
    states: list[torch.Tensor] | None = None,
) -> Generator[TokenStep, None, None]:
    """Answer a request token by token; `should_stop` is asked after each token and ends the answer as cancelled.

    Shapes: `states` gains one bf16 tensor (traced_states, traced_width) a token, none where the engine traces none.
    Errors: WorkError when the request is for another model or grammar engine or leaves no room for an answer.
    """
    check_serves(model, request)
    sampler, prompt = request.sampler, request.prompt_tokens
    limit = compute_token_limit(model, request)
    cache = model.open_cache(len(prompt) + limit)
    stream = TextStream(model, sampler.stop)
    state = open_state(model, request)
    traced = states is not None and model.traced_states
    score = partial(model.compute_next_logits, states=states) if traced else model.compute_next_logits
    logits = score(prompt, cache)
    for position in range(limit):
        token_id = choose_token(logits, state)
        state.push(token_id)
        text = stream.push(token_id)
        finish: FinishReason | None = None
        if token_id in model.eos_token_ids or stream.stopped:
            finish = "stop"
        elif position + 1 == limit:
            finish = "length"
        elif should_stop():
            finish = "cancelled"
        yield TokenStep(
            token_id=token_id,
            text=text + (stream.flush() if finish else ""),
            logprob_micronats=compute_logprob_micronats(logits, token_id),
            finish_reason=finish,
            top=compute_top_logprobs(logits, top_logprobs),
        )
        if finish:
            return
        logits = score([token_id], cache)


def open_state(model: LanguageModel, request: GenerationRequest) -> SamplerState:
    """The sampler before the first token.

    Errors: WorkError when this node has another grammar engine; Invalid response_format.
    """
    grammar = request.sampler.grammar
    return SamplerState(request.sampler, request.seed, open_grammar(model, grammar) if grammar else None)


def check_serves(model: LanguageModel, request: GenerationRequest, engines: Sequence[str] = ()) -> None:
    """Errors: WorkError when this model, on one of these engines (its own when none is named), cannot take the request."""
    engines = engines or (model.engine,)
    same_model = (request.model_id, request.model_hash) == (model.model_id, model.content_hash)
    if not same_model or request.engine not in engines:
        raise WorkError(
            f"the request is for {request.model_id} {request.model_hash.hex()[:12]} on {request.engine}, "
            f"this node has {model.model_id} {model.content_hash.hex()[:12]} on {' or '.join(engines)}"
        )
    if len(request.prompt_tokens) >= model.context_tokens or max(request.prompt_tokens) >= model.vocab_size:
        raise WorkError("the prompt does not fit the model: its context is full or a token is outside the vocabulary")
    if max((token_id for token_id, _ in request.sampler.bias), default=0) >= model.vocab_size:
        raise WorkError("the bias names a token outside the vocabulary")


def compute_token_limit(model: LanguageModel, request: GenerationRequest) -> int:
    """Tokens after which an answer ends by length: what was asked for, or what the context still holds."""
    return min(request.sampler.max_tokens, model.context_tokens - len(request.prompt_tokens))


def derive_text(model: LanguageModel, stop: Sequence[str], token_ids: Sequence[int]) -> DerivedText:
    """The text that these tokens show to a user, cut before the first stop string."""
    stream = TextStream(model, stop)
    pieces = []
    for index, token_id in enumerate(token_ids):
        pieces.append(stream.push(token_id))
        if stream.stopped:
            return DerivedText(text="".join(pieces), stopped_at=index)
    return DerivedText(text="".join(pieces) + stream.flush(), stopped_at=None)
