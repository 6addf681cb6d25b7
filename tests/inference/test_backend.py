"""Engines behind one interface: the same steps from the same tokens, and nobody hides behind an engine's name."""

from __future__ import annotations

import msgspec
import pytest

from paceline.base.errors import WorkError
from paceline.inference.backend import (
    REPLAYED_BY,
    VLLM_CPU,
    AnswerOptions,
    StepWriter,
    Token,
    TorchBackend,
    get_replayable_engines,
)
from paceline.inference.check import check_transcript
from paceline.inference.claim import build_transcript
from paceline.models.catalogue import ENGINE
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Payload, Turn, derive_sampler_seed
from paceline.protocol.messages import REJECTED
from paceline.protocol.transcripts import encode_transcript
from paceline.verification.payloads import Expected, build_generation, judge_payload

OWNER, TASK, SEED = b"o" * 20, b"t" * 32, b"s" * 32


@pytest.fixture
def told(scripted):
    model = scripted(["Hel", "lo", " wor", "ld", "!"], [1, 2, 3, 4, 5, 0])
    model.engine = ENGINE
    return model


def make_request(**changes) -> AnswerRequest:
    fields = {"max_tokens": 9, "temperature_ppm": 0, "top_p_ppm": 1_000_000, "stop": (), "user_seed": None, **changes}
    return AnswerRequest(model="scripted", prompt=ChatPrompt((Turn("user", "hey"),)), **fields)


def plan(model, request, engine=None):
    return build_generation(model, request, derive_sampler_seed(SEED, TASK, request, OWNER), engine)


def answer(model, request):
    work = TorchBackend().generate(
        model, plan(model, request), AnswerOptions(should_stop=lambda: False, top_logprobs=2)
    )
    return list(work)


def judge(model, request, transcript):
    expected = Expected(
        task_id=TASK,
        session_seed=SEED,
        owner=OWNER,
        prompt_hash=request.compute_hash(),
        prompt_tokens=len(transcript.request.prompt_tokens),
        completion_tokens=len(transcript.output_tokens),
        draw_seed=bytes(32),
    )
    return judge_payload(model, Payload(request, encode_transcript(transcript)), expected)


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 3}, {"stop": ("o w",)}, {"max_tokens": 6}], ids=str)
def test_another_engines_tokens_become_the_steps_of_our_own(told, changes):
    request = make_request(**changes)
    steps = answer(told, request)
    writer = StepWriter(told, plan(told, request, VLLM_CPU))
    tokens = [Token(step.token_id, step.logprob_micronats, step.top) for step in steps]
    assert [writer.write(token, cancelled=False) for token in tokens] == steps


def test_a_cancelled_step_ends_with_the_text_that_was_held_back(told):
    writer = StepWriter(told, plan(told, make_request(stop=("lovely",)), VLLM_CPU))
    assert writer.write(Token(2, -5), cancelled=False).text == ""
    last = writer.write(Token(3, -5), cancelled=True)
    assert (last.text, last.finish_reason) == ("lo wor", "cancelled")


def test_an_answer_of_a_calibrated_engine_is_replayed(told):
    request = make_request()
    transcript = build_transcript(told, plan(told, request, VLLM_CPU), answer(told, request))
    assert get_replayable_engines(told) == (ENGINE, VLLM_CPU)
    assert check_transcript(told, transcript).mismatches == 0
    assert judge(told, request, transcript).outcome != REJECTED


def test_invalid_an_engine_that_nobody_calibrated_is_rejected_not_left_open(told):
    request = make_request()
    transcript = build_transcript(told, plan(told, request, "vllm-moon-1"), answer(told, request))
    verdict = judge(told, request, transcript)
    assert (verdict.outcome, verdict.reason.partition(":")[0]) == (REJECTED, "unknown-engine")
    with pytest.raises(WorkError, match="vllm-moon-1"):
        check_transcript(told, transcript)


def test_invalid_a_calibrated_engine_does_not_help_on_a_checker_that_it_was_not_measured_against(told):
    told.engine = "scripted-1"
    request = make_request()
    transcript = build_transcript(told, plan(told, request, VLLM_CPU), [])
    transcript = msgspec.structs.replace(transcript, finish_reason="cancelled")
    assert judge(told, request, transcript).outcome == REJECTED


def test_the_engine_in_this_process_runs_only_its_own_requests(told):
    assert VLLM_CPU in REPLAYED_BY
    work = TorchBackend().generate(told, plan(told, make_request(), VLLM_CPU), AnswerOptions(should_stop=lambda: False))
    with pytest.raises(WorkError, match=VLLM_CPU):
        next(work)
