"""Payloads of answers: every option of a request is bound to the transcript, and what cannot be re-run is nobody's fault."""

from __future__ import annotations

import msgspec
import pytest
from babble import BabbleModel

from paceline.inference.claim import build_transcript
from paceline.inference.grammar import ENGINE
from paceline.inference.run import generate
from paceline.models.catalogue import DEFAULT_MODEL, load_catalogue
from paceline.models.catalogue import ENGINE as TORCH
from paceline.protocol.answers import (
    AnswerRequest,
    ChatPrompt,
    Payload,
    TextPrompt,
    TokenPrompt,
    Turn,
    derive_sampler_seed,
)
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED
from paceline.protocol.transcripts import GrammarSpec, encode_transcript
from paceline.verification.answers import CALIBRATION, LIMITS, get_limits
from paceline.verification.calibration import get_honest_scores
from paceline.verification.payloads import Expected, build_generation, judge_payload
from paceline.verification.vectors import TOLERANCES, get_tolerance_micro

MODEL = BabbleModel()
TASK, SESSION_SEED, OWNER = b"t" * 32, b"s" * 32, b"o" * 20
REQUEST = AnswerRequest(
    model="babble",
    prompt=TextPrompt("once upon a time"),
    temperature_ppm=1_000_000,
    top_k=30,
    top_p_ppm=950_000,
    presence_ppm=300_000,
    frequency_ppm=200_000,
    bias=((3, 500), (9, -100_000)),
    max_tokens=120,
    stop=("zzz",),
    grammar=None,
    choice=1,
    top_logprobs=2,
    user_seed=None,
)


@pytest.fixture(autouse=True)
def calibrated(monkeypatch):
    """The made-up model is judged by what was measured of a real one: it is exact, so nothing it does is rare."""
    scores = get_honest_scores(DEFAULT_MODEL, TORCH)
    monkeypatch.setattr("paceline.verification.payloads.get_honest_scores", lambda *_: scores)
    monkeypatch.setattr("paceline.verification.payloads.get_limits", lambda *_: CALIBRATION)


def change(**changes):
    return msgspec.structs.replace(REQUEST, **changes)


def run(request):
    generation = build_generation(MODEL, request, derive_sampler_seed(SESSION_SEED, TASK, request, OWNER))
    return build_transcript(MODEL, generation, list(generate(MODEL, generation, should_stop=lambda: False)))


def judge(request, transcript, **changes):
    expected = Expected(
        **{
            "task_id": TASK,
            "session_seed": SESSION_SEED,
            "owner": OWNER,
            "prompt_hash": request.compute_hash(),
            "prompt_tokens": len(transcript.request.prompt_tokens),
            "completion_tokens": len(transcript.output_tokens),
            "draw_seed": bytes(32),
            **changes,
        }
    )
    return judge_payload(MODEL, Payload(request, encode_transcript(transcript)), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": TokenPrompt((5, 6, 7))},
        {"prompt": ChatPrompt((Turn("system", "be brief"), Turn("user", "go")))},
        {"user_seed": -1},
        {"grammar": GrammarSpec("regex", "([a-z ]{3,30}:)+", ENGINE)},
    ],
)
def test_an_honest_payload_is_accepted(changes):
    request = change(**changes)
    assert judge(request, run(request)).outcome == ACCEPTED


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": TextPrompt("once upon a tim")},
        {"temperature_ppm": 999_999},
        {"top_k": 31},
        {"top_p_ppm": 950_001},
        {"presence_ppm": 300_001},
        {"frequency_ppm": 199_999},
        {"bias": ((3, 500),)},
        {"max_tokens": 119},
        {"stop": ()},
        {"grammar": GrammarSpec("regex", "[^#]*", ENGINE)},
        {"choice": 2},
        {"user_seed": 0},
    ],
)
def test_invalid_transcript_of_another_request(changes):
    verdict = judge(REQUEST, run(change(**changes)))
    assert (verdict.outcome, verdict.reason.split(":")[0]) == (REJECTED, "other-generation")


def test_invalid_request_that_the_voucher_does_not_name():
    verdict = judge(REQUEST, run(REQUEST), prompt_hash=bytes(32))
    assert verdict.reason.startswith("other-request")


def test_every_choice_has_its_own_noise_and_a_users_seed_repeats():
    answers = [run(change(choice=choice)).output_tokens for choice in range(3)]
    repeated = [run(change(choice=choice, user_seed=7)).output_tokens for choice in (0, 1, 0)]
    assert len({*answers, *repeated}) == 5
    assert repeated[0] == repeated[2]
    assert derive_sampler_seed(b"a", b"b", change(user_seed=7), OWNER) == derive_sampler_seed(
        b"c", b"d", change(user_seed=7), OWNER
    )
    seeds = [derive_sampler_seed(b"a", b"b", change(user_seed=7), owner) for owner in (OWNER, b"p" * 20)]
    assert seeds[0] != seeds[1]


def test_invalid_model_is_never_judged_by_the_table_of_another(monkeypatch):
    made = run(REQUEST)
    assert judge(REQUEST, made).outcome == ACCEPTED
    wrong = msgspec.structs.replace(made, text_hash=bytes(32))
    for name in ("get_limits", "get_honest_scores"):
        with monkeypatch.context() as patch:
            patch.setattr(f"paceline.verification.payloads.{name}", lambda *_: None)
            verdict = judge(REQUEST, made)
            assert verdict.outcome == UNDECIDED
            assert "no calibration" in verdict.reason
            # A contradiction needs no table.
            assert judge(REQUEST, wrong).outcome == REJECTED


def test_every_table_names_the_model_and_the_arithmetic_it_was_measured_on():
    assert set(LIMITS) <= {(entry.model_id, entry.engine) for entry in load_catalogue().values()}
    assert set(TOLERANCES) <= set(LIMITS)
    for model_id, engine in LIMITS:
        scores = get_honest_scores(model_id, engine)
        assert scores is not None
        assert (scores.model_id, scores.engine) == (model_id, engine)
    assert get_limits("no-such-model", TORCH) is None
    assert get_tolerance_micro("no-such-model", TORCH) is None
    assert len(set(LIMITS.values())) == len(LIMITS)


def test_another_grammar_engine_is_undecided():
    spec = GrammarSpec("regex", "([a-z ]{3,30}:)+", ENGINE)
    made = run(change(grammar=spec))
    elsewhere = change(grammar=msgspec.structs.replace(spec, engine="llguidance-0.1"))
    sampler = msgspec.structs.replace(made.request.sampler, grammar=elsewhere.grammar)
    transcript = msgspec.structs.replace(made, request=msgspec.structs.replace(made.request, sampler=sampler))
    verdict = judge(elsewhere, transcript)
    assert verdict.outcome == UNDECIDED
    assert ENGINE in verdict.reason
