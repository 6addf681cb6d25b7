"""Executors that run the right model and cheat in sampling: own seed, greedy for sampled, another temperature, inserted text,
penalties or JSON mode ignored, one answer sold as all n choices.

Power asserted, on answers of up to 32 tokens: an own seed and greedy are rejected in every pool of two answers, T = 0.7 sold as
T = 1.5 in the pool of all eight, four inserted words in every answer, ignored penalties in pools of four, ignored JSON mode
in every answer, a reused choice in every pool of two of the n - 1 copies. Their logprobs are honest, so only the replay of the
sampler sees them.
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
from paceline.inference.check import Lie, check_transcript
from paceline.inference.claim import build_transcript
from paceline.inference.grammar import ENGINE
from paceline.inference.plan import plan_answer, plan_sampler
from paceline.inference.run import derive_text, generate
from paceline.inference.sampler import compute_logprob_micronats
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Turn, derive_sampler_seed
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.transcripts import GrammarSpec, compute_text_hash
from paceline.verification.answers import CALIBRATION, judge_answer
from paceline.verification.payloads import build_generation

TOPICS = ("a harbour", "old maps", "tea", "a tall tree", "the desert", "a clock tower", "wool", "a long walk")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return LanguageModel.load(prepare_model(cache, progress=lambda line: None))


def plan(model, topic, *, purpose="agreed", **options):
    neutral = {"temperature_ppm": 1_000_000, "top_p_ppm": 1_000_000, "max_tokens": 32, "stop": []}
    sampler = plan_sampler(**(neutral | options))
    messages = [{"role": "user", "content": f"Write five sentences about {topic}."}]
    return plan_answer(model, messages, sampler=sampler, seed=hash_parts(purpose, topic.encode()))


def answer(model, request):
    return build_transcript(model, request, list(generate(model, request, should_stop=lambda: False)))


def serve_other(model, topic, sold=None, **served):
    """An answer to another request, transcribed as an answer to the agreed one."""
    transcript = answer(model, plan(model, topic, **served))
    return msgspec.structs.replace(transcript, request=plan(model, topic, **(sold or {})))


def judge_pools(model, transcripts, size):
    evidence = [check_transcript(model, transcript) for transcript in transcripts]
    assert all(item.deviation_micronats < item.spread_micro // 8 for item in evidence), "the logprobs are honest"
    return {
        judge_answer(reduce(add, evidence[start : start + size])).outcome for start in range(0, len(evidence), size)
    }


def test_an_own_seed_is_rejected_in_pools_of_two(model):
    transcripts = [serve_other(model, topic, purpose="cherry-picked") for topic in TOPICS[:4]]
    assert judge_pools(model, transcripts, 2) == {REJECTED}


def test_an_own_seed_wins_when_nobody_weighs_the_margins(model):
    evidence = check_transcript(model, serve_other(model, TOPICS[0], purpose="cherry-picked"))
    blind = dataclasses.replace(CALIBRATION, margin_rate_ppm=10**9)
    assert judge_answer(evidence).outcome == REJECTED
    assert judge_answer(evidence, blind).outcome == ACCEPTED


def test_greedy_sold_as_sampled_is_rejected_in_pools_of_two(model):
    transcripts = [serve_other(model, topic, temperature_ppm=0) for topic in TOPICS[:4]]
    assert judge_pools(model, transcripts, 2) == {REJECTED}


def test_another_temperature_is_rejected_over_all_answers(model):
    sold = {"temperature_ppm": 1_500_000}
    transcripts = [serve_other(model, topic, sold, temperature_ppm=700_000) for topic in TOPICS]
    assert judge_pools(model, transcripts, len(TOPICS)) == {REJECTED}


@pytest.mark.parametrize("topic", TOPICS[:4])
def test_inserted_words_are_rejected(model, topic):
    honest = answer(model, plan(model, topic))
    request = honest.request
    advertisement = model.encode(" Buy Acme Shoes today!")
    tokens = (*honest.output_tokens[:16], *advertisement, *honest.output_tokens[16:])[: len(honest.output_tokens)]
    logits = model.iterate_logits((*request.prompt_tokens, *tokens[:-1]), len(request.prompt_tokens) - 1)
    forged = msgspec.structs.replace(
        honest,
        output_tokens=tokens,
        logprobs_micronats=tuple(
            compute_logprob_micronats(row, token) for row, token in zip(logits, tokens, strict=True)
        ),
        finish_reason="length" if len(tokens) == 32 else "cancelled",
        text_hash=compute_text_hash(derive_text(model, (), tokens).text),
    )
    assert judge_pools(model, [forged], 1) == {REJECTED}
    assert judge_answer(check_transcript(model, honest)).outcome != REJECTED


PENALTIES = {"presence_ppm": 1_000_000, "frequency_ppm": 1_000_000}


def test_ignored_penalties_are_rejected_in_pools_of_four(model):
    transcripts = [serve_other(model, topic, PENALTIES) for topic in TOPICS]
    assert judge_pools(model, transcripts, 4) == {REJECTED}
    honest = answer(model, plan(model, TOPICS[0], **PENALTIES))
    assert judge_answer(check_transcript(model, honest)).outcome != REJECTED


def test_ignored_json_mode_is_rejected_in_every_answer(model):
    sold = {"grammar": GrammarSpec("json_object", "", ENGINE)}
    transcripts = [serve_other(model, topic, sold) for topic in TOPICS[:3]]
    for transcript in transcripts:
        evidence = check_transcript(model, transcript)
        assert evidence.lies & Lie.GRAMMAR_IGNORED
        assert judge_answer(evidence).outcome == REJECTED
        # Who does not re-apply the grammar would have to tell it from honest text by the margins.
        assert (
            judge_answer(dataclasses.replace(evidence, lies=Lie.NONE, margin_micronats=0, support_micronats=0)).outcome
            != REJECTED
        )
    honest = answer(model, plan(model, TOPICS[0], **sold))
    assert judge_answer(check_transcript(model, honest)).outcome != REJECTED


def plan_choice(model, topic, choice):
    """As a gateway asks for n choices of one prompt under the user's own seed."""
    content = f"Write five sentences about {topic}."
    request = AnswerRequest(
        model=model.model_id,
        prompt=ChatPrompt((Turn("user", content),)),
        temperature_ppm=1_000_000,
        top_p_ppm=1_000_000,
        max_tokens=32,
        stop=(),
        choice=choice,
        user_seed=7,
    )
    return build_generation(model, request, derive_sampler_seed(bytes(32), bytes(32), request, bytes(20)))


def test_one_answer_sold_as_all_choices_is_rejected_in_pools_of_two(model):
    for topic in TOPICS[:2]:
        first = answer(model, plan_choice(model, topic, 0))
        copies = [msgspec.structs.replace(first, request=plan_choice(model, topic, choice)) for choice in (1, 2)]
        assert judge_pools(model, copies, 2) == {REJECTED}
        assert judge_answer(check_transcript(model, first)).outcome != REJECTED


def test_one_answer_sold_as_all_choices_wins_when_choices_share_their_noise(model):
    first = answer(model, plan_choice(model, TOPICS[0], 0))
    sold = msgspec.structs.replace(plan_choice(model, TOPICS[0], 1), seed=first.request.seed)
    copy = msgspec.structs.replace(first, request=sold)
    assert judge_answer(check_transcript(model, copy)).outcome == ACCEPTED
