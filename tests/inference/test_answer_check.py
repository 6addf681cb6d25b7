"""Checks and verdicts: what the evidence holds, each lie by name, and the limits at their edges."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest

from paceline.base.errors import InvalidClaim, WorkError
from paceline.inference.check import MARGIN_CAP_MICRONATS, AnswerEvidence, Lie, check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED
from paceline.protocol.transcripts import compute_text_hash
from paceline.verification.answers import CALIBRATION, Calibration, compute_limit, judge_answer

SEED = bytes(range(32))


def answer(model, content, *, temperature_ppm=0, top_p_ppm=1_000_000, max_tokens=8, stop=()):
    sampler = plan_sampler(temperature_ppm=temperature_ppm, top_p_ppm=top_p_ppm, max_tokens=max_tokens, stop=stop)
    request = plan_answer(model, [{"role": "user", "content": content}], sampler=sampler, seed=SEED)
    return build_transcript(model, request, list(generate(model, request, should_stop=lambda: False)))


def change(transcript, **changes):
    return msgspec.structs.replace(transcript, **changes)


@pytest.fixture
def talker(scripted):
    return scripted(["one ", "two ", "three "], [1, 2, 3, 0])


def test_an_honest_answer_shows_nothing(talker):
    evidence = check_transcript(talker, answer(talker, "ab"))
    assert evidence.tokens == 4
    assert (evidence.deviation_micronats, evidence.mismatches, evidence.margin_micronats) == (0, 0, 0)
    assert evidence.lies is Lie.NONE
    assert evidence.spread_micro > 0


def test_each_lie_is_named(talker):
    honest, shorter = answer(talker, "ab"), answer(talker, "ab", max_tokens=3)
    cut = answer(talker, "ab", stop=["two"])
    cases = [
        (change(honest, finish_reason="length"), Lie.END_IGNORED | Lie.LENGTH_UNFOUNDED),
        (change(honest, output_tokens=(1, 0, 2, 3), text_hash=_hash("one two three ")), Lie.END_IGNORED),
        (_take(honest, 2, "one two ", "stop"), Lie.STOP_UNFOUNDED),
        (_take(honest, 2, "one two ", "length"), Lie.LENGTH_UNFOUNDED),
        (change(honest, text_hash=_hash("buy here")), Lie.TEXT_DIFFERS),
        (change(cut, text_hash=_hash("one two ")), Lie.TEXT_DIFFERS),
        (change(honest, request=cut.request, text_hash=_hash("one ")), Lie.STOP_STRING_IGNORED),
        (change(honest, output_tokens=(1, 2, 3, 4)), Lie.TOKEN_OUTSIDE_VOCABULARY),
        (change(honest, request=msgspec.structs.replace(honest.request, prompt_tokens=(1,) * 13)), Lie.OVER_CONTEXT),
    ]
    for transcript, lies in cases:
        evidence = check_transcript(talker, transcript)
        assert evidence.lies == lies
        assert judge_answer(evidence).outcome == REJECTED
    for valid in (honest, shorter, cut, _take(honest, 2, "one two ", "cancelled")):
        assert check_transcript(talker, valid).lies == Lie.NONE


def test_an_answer_that_fills_the_context_is_no_lie(scripted):
    model = scripted(["x"], [1])
    transcript = answer(model, "x" * 14, max_tokens=8)
    assert (len(transcript.output_tokens), transcript.finish_reason) == (2, "length")
    assert check_transcript(model, transcript).lies == Lie.NONE


def test_a_wrong_token_costs_at_most_its_cap(talker):
    honest = answer(talker, "ab", max_tokens=3)
    wrong = change(honest, output_tokens=(1, 3, 3), text_hash=_hash("one three three "))
    evidence = check_transcript(talker, wrong)
    assert (evidence.mismatches, evidence.margin_micronats) == (1, MARGIN_CAP_MICRONATS)


def test_an_empty_answer_is_undecided(talker):
    honest = answer(talker, "ab")
    nothing = change(honest, output_tokens=(), logprobs_micronats=(), finish_reason="cancelled", text_hash=_hash(""))
    evidence = check_transcript(talker, nothing)
    assert evidence.tokens == 0
    assert judge_answer(evidence).outcome == UNDECIDED


def test_invalid_shape_is_refused_before_any_work(talker):
    honest = answer(talker, "ab")
    with pytest.raises(InvalidClaim, match="uneven-transcript"):
        check_transcript(talker, change(honest, logprobs_micronats=(0,)))


def test_invalid_model_is_no_blame(talker):
    honest = answer(talker, "ab")
    other = msgspec.structs.replace(honest.request, model_hash=b"x" * 32)
    with pytest.raises(WorkError):
        check_transcript(talker, change(honest, request=other))


def test_evidence_adds_up(talker):
    one = check_transcript(talker, answer(talker, "ab"))
    two = one + dataclasses.replace(one, lies=Lie.TEXT_DIFFERS)
    assert (two.tokens, two.spread_micro, two.lies) == (8, 2 * one.spread_micro, Lie.TEXT_DIFFERS)


LIMITS = Calibration(
    deviation_rate_ppm=100_000,
    deviation_swing_ppm=200_000,
    deviation_least_micro=4_000_000,
    margin_rate_ppm=0,
    margin_swing_ppm=100_000,
    margin_least_micro=4_000_000,
)
ENOUGH = AnswerEvidence(
    tokens=20,
    deviation_micronats=800_000,
    spread_micro=4_000_000,
    mismatches=1,
    margin_micronats=MARGIN_CAP_MICRONATS + 200_000,
    support_micronats=0,
    expected_mismatch_micro=4_000_000,
    lies=Lie.NONE,
)


def judge(**changes):
    return judge_answer(dataclasses.replace(ENOUGH, **changes), LIMITS).outcome


def test_limits_grow_with_information():
    assert compute_limit(100_000, 200_000, 4_000_000) == 400_000 + 400_000
    assert compute_limit(100_000, 200_000, 0) == 0


def test_verdict_at_the_limits():
    assert judge() == ACCEPTED


def test_invalid_beyond_either_limit():
    assert judge(deviation_micronats=800_001) == REJECTED
    assert judge(margin_micronats=MARGIN_CAP_MICRONATS + 200_001) == REJECTED
    assert judge(support_micronats=1) == REJECTED


def test_too_little_information_is_undecided():
    assert judge(spread_micro=3_999_999, deviation_micronats=0) == UNDECIDED
    assert judge(expected_mismatch_micro=3_999_999, margin_micronats=0) == UNDECIDED
    # Logprobs of few tokens condemn nobody, however far they stray.
    assert judge(spread_micro=3_999_999, deviation_micronats=4_000_000) == UNDECIDED


def test_one_token_never_condemns():
    one = AnswerEvidence(
        tokens=1,
        deviation_micronats=1_000_000,
        spread_micro=1_400_000,
        mismatches=1,
        margin_micronats=MARGIN_CAP_MICRONATS,
        support_micronats=0,
        expected_mismatch_micro=0,
        lies=Lie.NONE,
    )
    assert judge_answer(one).outcome == UNDECIDED


def test_a_verdict_carries_its_numbers():
    verdict = judge_answer(ENOUGH, LIMITS)
    assert verdict.evidence == (
        20,
        800_000,
        800_000,
        4_000_000,
        700_000,
        700_000,
        4_000_000,
        1,
        0,
        0,
        0,
        0,
        10**9,
        10**9,
        0,
    )
    every = judge_answer(dataclasses.replace(ENOUGH, lies=~Lie.NONE))
    assert "text differs" in every.reason
    assert len(every.reason) <= 160


@pytest.mark.parametrize(
    ("temperature_ppm", "top_p_ppm"),
    [(0, 1_000_000), (700_000, 900_000), (1_000_000, 1_000_000), (1_000_000, 500_000)],
)
def test_the_real_model_answering_honestly_is_accepted(model, temperature_ppm, top_p_ppm):
    options = {"temperature_ppm": temperature_ppm, "top_p_ppm": top_p_ppm}
    transcript = answer(model, "Describe an old harbour town in autumn.", max_tokens=40, **options)
    evidence = check_transcript(model, transcript)
    verdict = judge_answer(evidence)
    assert evidence.lies == Lie.NONE
    assert verdict.outcome == ACCEPTED, verdict
    # Another kind of processor may be twice as noisy and still pass.
    assert 2 * evidence.deviation_micronats < verdict.evidence[2]


def test_a_short_real_answer_is_undecided(model):
    transcript = answer(model, "Say yes.", max_tokens=1)
    assert judge_answer(check_transcript(model, transcript)).outcome == UNDECIDED


def test_the_calibration_decides_answers_of_two_dozen_tokens():
    # Information per token is about a half, for both tests, over the calibration prompts.
    assert CALIBRATION.deviation_least_micro < 24 * 450_000
    assert math.sqrt(CALIBRATION.margin_least_micro / 1e6) < 3.3


def _hash(text):
    return compute_text_hash(text)


def _take(transcript, count, text, finish):
    return change(
        transcript,
        output_tokens=transcript.output_tokens[:count],
        logprobs_micronats=transcript.logprobs_micronats[:count],
        finish_reason=finish,
        text_hash=_hash(text),
    )
