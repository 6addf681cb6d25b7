"""Judges one stored answer against what the ledger says about its task.

First the bindings, which are exact: the request is the one the voucher named, the prompt tokens and the sampler follow
from it, the seed follows from the beacon. Only then the model is run.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.errors import Invalid, InvalidClaim
from paceline.inference.backend import get_replayable_engines
from paceline.inference.check import check_transcript
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.models.language import LanguageModel
from paceline.protocol.answers import AnswerRequest, Payload, derive_sampler_seed
from paceline.protocol.messages import REJECTED, Verdict
from paceline.protocol.transcripts import GenerationRequest, Transcript, decode_transcript
from paceline.verification.answers import judge_answer


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the ledger says about a task."""

    task_id: bytes
    session_seed: bytes
    owner: bytes
    prompt_hash: bytes
    prompt_tokens: int
    completion_tokens: int


def build_generation(
    model: LanguageModel, request: AnswerRequest, seed: bytes, engine: str | None = None
) -> GenerationRequest:
    """What the executor runs and a checker replays for a user's request: both come from here.

    `engine` names the executor's when it is not that of `model`.
    Errors: Invalid whose code names the field, as in OpenAI's API.
    """
    sampler = plan_sampler(
        temperature_ppm=request.temperature_ppm,
        top_k=request.top_k,
        top_p_ppm=request.top_p_ppm,
        presence_ppm=request.presence_ppm,
        frequency_ppm=request.frequency_ppm,
        bias=request.bias,
        max_tokens=request.max_tokens,
        stop=request.stop,
        grammar=request.grammar,
    )
    planned = plan_answer(model, request.prompt, sampler=sampler, seed=seed, choice=request.choice)
    return planned if engine is None else msgspec.structs.replace(planned, engine=engine)


def judge_payload(model: LanguageModel, payload: Payload, expected: Expected) -> Verdict:
    """Judge a payload that hashes to what the receipt says.

    Errors: WorkError when this node cannot re-run the request.
    """
    try:
        if not isinstance(payload.request, AnswerRequest):
            raise InvalidClaim("other-request", "an embedding is not judged as an answer")
        transcript = decode_transcript(payload.transcript)
        _check_bindings(model, payload.request, transcript, expected)
        evidence = check_transcript(model, transcript)
    except Invalid as problem:
        return Verdict(REJECTED, f"{problem.code}: {problem.message}"[:160], ())
    return judge_answer(evidence)


def _check_bindings(model: LanguageModel, request: AnswerRequest, transcript: Transcript, expected: Expected) -> None:
    if request.compute_hash() != expected.prompt_hash:
        raise InvalidClaim("other-request", "the payload answers another request than the voucher names")
    seed = derive_sampler_seed(expected.session_seed, expected.task_id, request, expected.owner)
    engine = transcript.request.engine
    if engine not in get_replayable_engines(model):
        raise InvalidClaim("unknown-engine", f"nothing is calibrated for answers of {engine} here")
    if transcript.request != build_generation(model, request, seed, engine):
        raise InvalidClaim("other-generation", "prompt, sampler, seed or model differ from what the request leads to")
    counts = (len(transcript.request.prompt_tokens), len(transcript.output_tokens))
    if counts != (expected.prompt_tokens, expected.completion_tokens):
        raise InvalidClaim("other-counts", f"the receipt charges {expected}, the transcript holds {counts}"[:150])
