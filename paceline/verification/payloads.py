"""Judges one stored answer against what the ledger says about its task.

First the bindings, which are exact: the request is the one the voucher named, the prompt tokens and the sampler follow
from it, the seed follows from the beacon, the opened states are those that were committed. Only then the model is run.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from paceline.base.errors import Invalid, InvalidClaim, WorkError
from paceline.inference.backend import get_replayable_engines
from paceline.inference.check import Challenge, check_transcript
from paceline.inference.embed import check_vector, plan_vector
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.trace import derive_draw
from paceline.models.language import LanguageModel
from paceline.protocol.answers import AnswerRequest, EmbedRequest, Payload, derive_sampler_seed
from paceline.protocol.messages import REJECTED, UNDECIDED, Verdict
from paceline.protocol.traces import decode_opening
from paceline.protocol.transcripts import (
    NO_TRACE,
    GenerationRequest,
    Transcript,
    decode_transcript,
    decode_vector_claim,
)
from paceline.verification.answers import NO_LIMITS, get_limits, judge_answer
from paceline.verification.calibration import get_honest_scores
from paceline.verification.vectors import get_tolerance_micro, judge_vector


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the ledger says about a task."""

    task_id: bytes
    session_seed: bytes
    owner: bytes
    prompt_hash: bytes
    prompt_tokens: int
    completion_tokens: int
    draw_seed: bytes
    """From the beacon value after the receipt: draws what is opened, and breaks ties between equal scores."""
    is_marked: bool = False
    """Nobody asked for it, so nobody can have ended it: an answer that breaks off saved itself the work."""


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


def commits_states(model: LanguageModel, payload: Payload) -> bool:
    """True when the answer names a root of states, so that its executor has to open some."""
    try:
        transcript = decode_transcript(payload.transcript)
    except Invalid:
        return False
    return bool(model.traced_states and transcript.output_tokens) and transcript.trace_root != NO_TRACE


def judge_payload(model: LanguageModel, payload: Payload, expected: Expected, opening: bytes | None = None) -> Verdict:
    """Judge a payload that hashes to what the receipt says, with what its executor opened.

    UNDECIDED when this node cannot re-run the request, or was given no opening where one is due.
    """
    try:
        if payload.request.compute_hash() != expected.prompt_hash:
            raise InvalidClaim("other-request", "the payload answers another request than the voucher names")
        if isinstance(payload.request, EmbedRequest):
            return _judge_vector(model, payload.request, payload.transcript, expected)
        transcript = decode_transcript(payload.transcript)
        _check_bindings(model, payload.request, transcript, expected)
    except Invalid as problem:
        return Verdict(REJECTED, f"{problem.code}: {problem.message}"[:160], ())
    except WorkError as problem:
        return Verdict(UNDECIDED, f"cannot be re-run here: {problem}"[:160], ())
    return judge_transcript(model, transcript, expected.draw_seed, opening)


def judge_transcript(
    model: LanguageModel,
    transcript: Transcript,
    draw_seed: bytes,
    opening: bytes | None = None,
    doubt: int = 1,
) -> Verdict:
    """Judge an answer that is bound to its task by running the model; verdicts as those of `judge_payload`.

    `doubt` widens the limits of logprobs and margins so many times.
    """
    try:
        evidence = check_transcript(model, transcript, _build_challenge(model, transcript, draw_seed, opening))
    except Invalid as problem:
        return Verdict(REJECTED, f"{problem.code}: {problem.message}"[:160], ())
    except WorkError as problem:
        # Another grammar engine, say: no blame, and no pass either.
        return Verdict(UNDECIDED, f"cannot be re-run here: {problem}"[:160], ())
    limits, scores = get_limits(model.model_id, model.engine), get_honest_scores(model.model_id, model.engine)
    if (limits is None or scores is None) and not evidence.lies:
        return Verdict(UNDECIDED, "no calibration ships for this model and arithmetic", ())
    if transcript.request.engine != model.engine:
        # How rare an answer is was measured among this engine's own: between two engines only the wide limits hold.
        scores = None
    return judge_answer(evidence, (limits or NO_LIMITS).widen(doubt), scores, draw_seed)


def _build_challenge(
    model: LanguageModel, transcript: Transcript, draw_seed: bytes, opening: bytes | None
) -> Challenge | None:
    tokens = len(transcript.output_tokens)
    if not tokens or not model.traced_states or transcript.request.engine != model.engine:
        # Other engines whose answers are judged here hand out no states: sampler and logprobs are all there is.
        return None
    if transcript.trace_root == NO_TRACE:
        raise InvalidClaim("states-not-committed", f"{model.engine} commits to states, this answer to none")
    if opening is None:
        raise WorkError("the answer commits to states; it cannot be judged without its opening")
    draw = derive_draw(draw_seed, tokens, model.traced_states)
    return Challenge(draw=draw, opening=decode_opening(opening))


def _check_bindings(model: LanguageModel, request: AnswerRequest, transcript: Transcript, expected: Expected) -> None:
    seed = derive_sampler_seed(expected.session_seed, expected.task_id, request, expected.owner)
    engine = transcript.request.engine
    if engine not in get_replayable_engines(model):
        raise InvalidClaim("unknown-engine", f"nothing is calibrated for answers of {engine} here")
    if transcript.request != build_generation(model, request, seed, engine):
        raise InvalidClaim("other-generation", "prompt, sampler, seed or model differ from what the request leads to")
    if expected.is_marked and transcript.finish_reason == "cancelled":
        raise InvalidClaim("broken-off", "a marked task is answered to its end")
    _check_counts(len(transcript.request.prompt_tokens), len(transcript.output_tokens), expected)


def _judge_vector(model: LanguageModel, request: EmbedRequest, claim_bytes: bytes, expected: Expected) -> Verdict:
    claim = decode_vector_claim(claim_bytes)
    if claim.prompt_tokens != plan_vector(model, request.prompt).prompt_tokens:
        raise InvalidClaim("other-generation", "the prompt differs from what the request leads to")
    _check_counts(len(claim.prompt_tokens), 0, expected)
    tolerance = get_tolerance_micro(model.model_id, model.engine)
    if tolerance is None:
        return Verdict(UNDECIDED, "no tolerance ships for vectors of this model and arithmetic", ())
    return judge_vector(check_vector(model, claim), tolerance)


def _check_counts(prompt_tokens: int, completion_tokens: int, expected: Expected) -> None:
    counts = (prompt_tokens, completion_tokens)
    if counts != (expected.prompt_tokens, expected.completion_tokens):
        raise InvalidClaim("other-counts", f"the receipt charges {expected}, the claim holds {counts}"[:150])
