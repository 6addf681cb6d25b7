"""What runs a model for an executor: one interface, and the engine in this process behind it.

An engine is named by its arithmetic; the name stands in every request, so that checkers know what they compare with. It
knows nothing of processes and sockets: engines that need those live in `node.backends`. Invariant: an engine that no
calibration covers is never replayed, so nobody hides behind an invented name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from paceline.inference.run import TextStream, TokenStep, compute_token_limit, generate
from paceline.inference.trace import StateRecord
from paceline.models.catalogue import ENGINE as TORCH_CPU
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import FinishReason, GenerationRequest

VLLM_CPU = "vllm-cpu-bf16-1"
REPLAYED_BY = {VLLM_CPU: (TORCH_CPU,)}
"""Engines whose honest answers stay within the limits of a checker on another engine. Source: bench/vllm_serving.py."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How an answer is made, beside what is asked. `states` gains what the engine sees of hidden states, a tensor a token."""

    should_stop: Callable[[], bool]
    top_logprobs: int = 0
    states: StateRecord = field(default_factory=StateRecord)


class Backend(Protocol):
    """One engine that writes answers."""

    @property
    def engine(self) -> str:
        """Name of its arithmetic, as requests carry it."""

    @property
    def commits_states(self) -> bool:
        """Whether it sees hidden states and can commit to them; without, only sampler and logprobs can be checked."""

    @property
    def parallel(self) -> int:
        """How many answers it writes at once; one means that they queue in the process."""

    def check_ready(self) -> None:
        """Errors: WorkError when it takes no requests now."""

    def generate(
        self, model: LanguageModel, request: GenerationRequest, options: AnswerOptions
    ) -> Generator[TokenStep, None, None]:
        """Answer a request token by token, as `inference.run.generate` does; closing it ends the work.

        `model` is the text side, and all of it to the engine in this process.
        Errors: WorkError when the engine cannot answer this request, or fails while it does.
        """


class TorchBackend:
    """The forward pass of this package, in this process."""

    engine = TORCH_CPU
    commits_states = True
    parallel = 1

    def check_ready(self) -> None:
        """It is ready as soon as the model is loaded."""

    def generate(
        self, model: LanguageModel, request: GenerationRequest, options: AnswerOptions
    ) -> Generator[TokenStep, None, None]:
        """Errors: as `inference.run.generate`."""
        return generate(
            model,
            request,
            should_stop=options.should_stop,
            top_logprobs=options.top_logprobs,
            states=options.states,
        )


class Token(NamedTuple):
    """What an engine says of one token. Units: micronats under the plain model; `top` pairs them with ids, best first."""

    token_id: int
    logprob_micronats: int
    top: tuple[tuple[int, int], ...] = ()


class StepWriter:
    """Turns tokens that another engine chose into steps, by the rules that `find_lies` holds against an answer."""

    def __init__(self, model: LanguageModel, request: GenerationRequest) -> None:
        self._eos = model.eos_token_ids
        self._limit = compute_token_limit(model, request)
        self._text = TextStream(model, request.sampler.stop)
        self._count = 0

    def write(self, token: Token, *, cancelled: bool) -> TokenStep:
        """The step of the next token."""
        text = self._text.push(token.token_id)
        self._count += 1
        finish: FinishReason | None = None
        if token.token_id in self._eos or self._text.stopped:
            finish = "stop"
        elif self._count == self._limit:
            finish = "length"
        elif cancelled:
            finish = "cancelled"
        return TokenStep(
            token_id=token.token_id,
            text=text + (self._text.flush() if finish else ""),
            logprob_micronats=token.logprob_micronats,
            finish_reason=finish,
            top=token.top,
        )


def get_replayable_engines(model: LanguageModel) -> tuple[str, ...]:
    """Engines whose answers this model's own engine may judge, its own among them."""
    return (model.engine, *(engine for engine, judges in REPLAYED_BY.items() if model.engine in judges))
