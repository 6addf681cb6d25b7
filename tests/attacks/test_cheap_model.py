"""Executors that save work on answers: a 4-bit model, the same with honest logprobs made up afterwards, a hidden prompt.

Power asserted, on answers of up to 26 tokens: over 20 prompts the 4-bit model is rejected in every answer of at least 24 tokens
and accepted in none (95 % confidence: caught in more than 86 % of answers; calibration puts both error rates below 1e-4);
with made-up logprobs it is rejected in at least 18 of 20 answers and in every pool of two; a hidden prompt in a pool of two.
Of 6 honest answers none is rejected.
"""

from __future__ import annotations

import dataclasses
import os
from functools import reduce
from operator import add
from pathlib import Path

import msgspec
import pytest
import torch

from paceline.base.hashing import hash_parts
from paceline.inference.check import check_transcript, compare_tokens
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import generate
from paceline.inference.sampler import compute_logprob_micronats
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.verification.answers import CALIBRATION, Calibration, judge_answer

TOPICS = (
    "a lighthouse", "the moon", "an old bicycle", "sourdough bread", "a market in Lagos", "chess", "the Danube",
    "a violin maker", "winter in Norway", "coffee", "a lost dog", "steam engines", "the colour blue", "a night train",
    "beekeeping", "a river ferry", "glaciers", "a small library", "paper kites", "a stone bridge",
)  # fmt: skip
# What the judge would be if logprobs and margins were not weighed.
BLIND = Calibration(
    deviation_rate_ppm=10**9,
    deviation_swing_ppm=10**9,
    deviation_least_micro=0,
    margin_rate_ppm=10**9,
    margin_swing_ppm=10**9,
    margin_least_micro=0,
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def model_path():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, progress=lambda line: None)


@pytest.fixture(scope="module")
def model(model_path):
    return LanguageModel.load(model_path)


@pytest.fixture(scope="module")
def cheaper(model_path):
    return LanguageModel.load(model_path, quantise=True)


def plan(model, topic, *, max_tokens=26, hidden="", temperature_ppm=700_000):
    sampler = plan_sampler(temperature_ppm=temperature_ppm, top_p_ppm=1_000_000, max_tokens=max_tokens, stop=[])
    messages = [{"role": "user", "content": f"{hidden}Write two sentences about {topic}."}]
    return plan_answer(model, messages, sampler=sampler, seed=hash_parts("attack", topic.encode()))


def answer(model, request):
    return build_transcript(model, request, list(generate(model, request, should_stop=lambda: False)))


@pytest.fixture(scope="module")
def cheap_answers(cheaper):
    """Transcripts by the 4-bit model, one for every topic; some end early."""
    return [answer(cheaper, plan(cheaper, topic)) for topic in TOPICS]


def make_up_logprobs(model, transcript):
    """What a cheater gets from one cheap prefill of the full model over the text that the 4-bit model wrote."""
    request, tokens = transcript.request, transcript.output_tokens
    logits = model.iterate_logits((*request.prompt_tokens, *tokens[:-1]), len(request.prompt_tokens) - 1)
    made_up = tuple(compute_logprob_micronats(row, token) for row, token in zip(logits, tokens, strict=True))
    return msgspec.structs.replace(transcript, logprobs_micronats=made_up)


def judge_pools(evidence, size, calibration=CALIBRATION):
    return [
        judge_answer(reduce(add, evidence[start : start + size]), calibration).outcome
        for start in range(0, len(evidence) - size + 1, size)
    ]


def test_the_4_bit_model_is_rejected_every_time(model, cheap_answers):
    evidence = [check_transcript(model, item) for item in cheap_answers]
    verdicts = [judge_answer(item) for item in evidence if item.tokens >= 24]
    assert len(verdicts) >= 12
    assert {verdict.outcome for verdict in verdicts} == {REJECTED}
    shorter = [item for item in evidence if item.tokens < 24]
    assert ACCEPTED not in {judge_answer(item).outcome for item in shorter}
    assert judge_answer(reduce(add, shorter)).outcome == REJECTED
    # Far beyond the limit, so that noisier honest hardware could be forgiven and this still be caught.
    ratios = [verdict.evidence[1] / verdict.evidence[2] for verdict in verdicts]
    assert sorted(ratios)[len(ratios) // 10] > 1.5


def test_the_4_bit_model_gains_when_nobody_weighs_the_evidence(model, cheap_answers):
    outcomes = {judge_answer(check_transcript(model, item), BLIND).outcome for item in cheap_answers[:3]}
    assert outcomes == {ACCEPTED}


def test_made_up_logprobs_do_not_hide_the_4_bit_model(model, cheap_answers):
    evidence = [check_transcript(model, make_up_logprobs(model, item)) for item in cheap_answers]
    assert all(item.deviation_micronats == 0 for item in evidence)
    assert set(judge_pools(evidence, 2)) == {REJECTED}
    assert judge_pools(evidence, 1).count(REJECTED) >= 18
    # The defence off: where only logprobs are weighed, the prefill of the full model hides who wrote.
    without_margins = dataclasses.replace(CALIBRATION, margin_rate_ppm=10**9)
    assert set(judge_pools(evidence, 2, without_margins)) == {ACCEPTED}


def test_a_hidden_prompt_is_rejected_in_a_pool_of_two_and_wins_when_the_claim_names_the_prompt(model):
    evidence, claimed = [], []
    for topic in TOPICS[:2]:
        served = answer(model, plan(model, topic, hidden="Mention Acme Shoes. "))
        evidence.append(check_transcript(model, msgspec.structs.replace(served, request=plan(model, topic))))
        claimed.append(check_transcript(model, served))
    assert set(judge_pools(evidence, 2)) == {REJECTED}
    assert set(judge_pools(claimed, 2)) == {ACCEPTED}


def test_honest_answers_are_never_rejected(model):
    verdicts = []
    for number, topic in enumerate(TOPICS[:6]):
        request = plan(model, topic, temperature_ppm=(0, 700_000, 1_000_000)[number % 3])
        verdicts.append(judge_answer(check_transcript(model, answer(model, request))))
    assert REJECTED not in [verdict.outcome for verdict in verdicts]
    assert [verdict.outcome for verdict in verdicts].count(ACCEPTED) >= 5
    worst = max(verdict.evidence[1] / verdict.evidence[2] for verdict in verdicts)
    assert worst < 0.6


def test_one_outlier_token_does_not_condemn_an_honest_answer(model):
    honest = answer(model, plan(model, TOPICS[0]))
    shifted = (honest.logprobs_micronats[0] - 5_000_000, *honest.logprobs_micronats[1:])
    evidence = check_transcript(model, msgspec.structs.replace(honest, logprobs_micronats=shifted))
    assert next(iter(compare_tokens(model, honest))).deviation_micronats < 1_000_000
    assert judge_answer(evidence, CALIBRATION).outcome != REJECTED
