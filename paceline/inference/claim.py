"""Claiming an answer: the transcript that the executor's receipt commits to.

It writes down what `run` did and derives nothing from memory of the stream. Invariant: the text hash is that of the tokens,
so a transcript and the text shown to a user cannot tell two stories.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.errors import WorkError
from paceline.inference.run import TokenStep, derive_text
from paceline.models.language import LanguageModel
from paceline.protocol.transcripts import (
    NO_TRACE,
    TRANSCRIPT_VERSION,
    GenerationRequest,
    Transcript,
    check_shape,
    compute_text_hash,
)


def build_transcript(
    model: LanguageModel, request: GenerationRequest, steps: Sequence[TokenStep], trace_root: bytes = NO_TRACE
) -> Transcript:
    """The transcript of all steps that ran; steps without a finish reason at their end were cancelled.

    Errors: WorkError when steps follow a finished one.
    """
    if any(step.finish_reason for step in steps[:-1]):
        raise WorkError("steps of two answers were mixed: one goes on after its end")
    tokens = tuple(step.token_id for step in steps)
    transcript = Transcript(
        version=TRANSCRIPT_VERSION,
        request=request,
        output_tokens=tokens,
        logprobs_micronats=tuple(step.logprob_micronats for step in steps),
        finish_reason=(steps[-1].finish_reason if steps else None) or "cancelled",
        text_hash=compute_text_hash(derive_text(model, request.sampler.stop, tokens).text),
        trace_root=trace_root,
    )
    check_shape(transcript)
    return transcript
