"""Wrong versions of a true answer, for forced errors: only who runs the model can tell them from it.

Each keeps length, ending and the look of its numbers: other tokens of the same sampler with their true logprobs and states, the
own logprobs at other tokens, the own states at other positions. It refuses to know when an error is forced and who is
tested. Invariant: a wrong version never contradicts itself, so nothing but the model's own numbers betrays it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from paceline.inference.check import Lie, find_lies
from paceline.inference.run import derive_text, open_state
from paceline.inference.sampler import choose_token, compute_logprob_micronats
from paceline.inference.trace import Trace
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import NO_TRACE, Transcript, compute_text_hash

OTHER_TOKENS, OTHER_LOGPROBS, OTHER_STATES = "other-tokens", "other-logprobs", "other-states"
KINDS = (OTHER_TOKENS, OTHER_LOGPROBS, OTHER_STATES)


@dataclass(frozen=True)
class WrongVersion:
    """What checkers are shown instead; `trace` None where the answer's own states go with it."""

    kind: str
    transcript: Transcript
    trace: Trace | None


def make_wrong_version(
    model: LanguageModel, kind: str, transcript: Transcript, trace: Trace | None, seed: bytes
) -> WrongVersion | None:
    """A wrong version of this kind; None where the answer allows none.

    Errors: WorkError when the model cannot go on.
    """
    if kind == OTHER_TOKENS:
        return _retell(model, transcript, seed)
    if kind == OTHER_LOGPROBS:
        half = len(transcript.logprobs_micronats) // 2
        turned = transcript.logprobs_micronats[half:] + transcript.logprobs_micronats[:half]
        return WrongVersion(kind, msgspec.structs.replace(transcript, logprobs_micronats=turned), None)
    if trace is None:
        return None
    moved = Trace(np.roll(trace.states, 1, axis=0))
    return WrongVersion(kind, msgspec.structs.replace(transcript, trace_root=moved.compute_root()), moved)


def _retell(model: LanguageModel, transcript: Transcript, seed: bytes) -> WrongVersion | None:
    """As many tokens by other noise, ending as the answer does."""
    request, last = transcript.request, transcript.output_tokens[-1]
    by_text = transcript.finish_reason == "stop" and last not in model.eos_token_ids
    if request.sampler.grammar is not None or request.sampler.temperature_ppm == 0 or by_text:
        return None
    tokens: list[int] = []
    logprobs: list[int] = []
    states: list[torch.Tensor] = []
    state = open_state(model, msgspec.structs.replace(request, seed=seed))
    cache = model.open_cache(len(request.prompt_tokens) + len(transcript.output_tokens))
    fed = request.prompt_tokens
    ends = torch.tensor(sorted(model.eos_token_ids))
    for position in range(len(transcript.output_tokens)):
        logits = model.compute_next_logits(fed, cache, states=states)
        is_end = position + 1 == len(transcript.output_tokens) and transcript.finish_reason == "stop"
        token_id = last if is_end else choose_token(logits.index_fill(0, ends, -torch.inf), state)
        state.push(token_id)
        tokens.append(token_id)
        logprobs.append(compute_logprob_micronats(logits, token_id))
        fed = (token_id,)
    committed = Trace.join(states) if transcript.trace_root != NO_TRACE else None
    told = msgspec.structs.replace(
        transcript,
        output_tokens=tuple(tokens),
        logprobs_micronats=tuple(logprobs),
        text_hash=compute_text_hash(derive_text(model, request.sampler.stop, tokens).text),
        trace_root=committed.compute_root() if committed is not None else NO_TRACE,
    )
    return WrongVersion(OTHER_TOKENS, told, committed) if find_lies(model, told) == Lie.NONE else None
