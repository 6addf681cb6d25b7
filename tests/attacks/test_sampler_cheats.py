"""Executors that run the right model and cheat in sampling: own seed, greedy for sampled, another temperature, inserted text,
penalties or JSON mode ignored, one answer sold as all n choices.

Power asserted, on answers of up to 32 tokens: an own seed and greedy are rejected in every pool of two answers, T = 0.7 sold as
T = 1.5 in the pool of all eight, four inserted words in every answer, ignored penalties in pools of four, ignored top-k and
ignored JSON mode in every answer, a reused choice in every pool of two of the n - 1 copies, a cached answer exactly, or
relabelled in a pool of two. Their logprobs are honest, so only the replay of the sampler sees them: the same answers pass,
in the same pools, where margins are not weighed or where the executor says what was ordered.
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
from paceline.models.catalogue import DEFAULT_MODEL
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Payload, Turn, derive_sampler_seed
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.transcripts import GrammarSpec, compute_text_hash, encode_transcript
from paceline.verification.answers import CALIBRATION, judge_answer
from paceline.verification.payloads import Expected, build_generation, judge_payload

pytestmark = pytest.mark.long

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


def gather(model, transcripts):
    evidence = [check_transcript(model, transcript) for transcript in transcripts]
    assert all(item.deviation_micronats < item.spread_micro // 8 for item in evidence), "the logprobs are honest"
    return evidence


def judge_pools(evidence, size, calibration=CALIBRATION):
    pools = [reduce(add, evidence[start : start + size]) for start in range(0, len(evidence), size)]
    return {judge_answer(pool, calibration).outcome for pool in pools}


BLIND = dataclasses.replace(CALIBRATION, margin_rate_ppm=10**9)
"""A checker that compares logprobs and states, and does not weigh the margins of the replayed sampler."""


def serve_as_claimed(transcripts, *served):
    """The same answers, checked against the requests that their executor served and not against the user's orders."""
    return [msgspec.structs.replace(item, request=request) for item, request in zip(transcripts, served, strict=True)]


def test_an_own_seed_is_rejected_in_pools_of_two_and_wins_when_nobody_weighs_the_margins(model):
    evidence = gather(model, [serve_other(model, topic, purpose="cherry-picked") for topic in TOPICS[:4]])
    assert judge_pools(evidence, 2) == {REJECTED}
    assert judge_pools(evidence, 2, BLIND) == {ACCEPTED}


def test_greedy_sold_as_sampled_is_rejected_in_pools_of_two_and_wins_when_nobody_weighs_the_margins(model):
    evidence = gather(model, [serve_other(model, topic, temperature_ppm=0) for topic in TOPICS[:4]])
    assert judge_pools(evidence, 2) == {REJECTED}
    assert judge_pools(evidence, 2, BLIND) == {ACCEPTED}


def test_another_temperature_is_rejected_over_all_answers_and_wins_when_the_claim_names_the_request(model):
    sold, served = {"temperature_ppm": 1_500_000}, {"temperature_ppm": 700_000}
    transcripts = [serve_other(model, topic, sold, **served) for topic in TOPICS]
    evidence = gather(model, transcripts)
    assert judge_pools(evidence, len(TOPICS)) == {REJECTED}
    assert judge_pools(evidence, len(TOPICS), BLIND) == {ACCEPTED}
    claimed = serve_as_claimed(transcripts, *(plan(model, topic, **served) for topic in TOPICS))
    assert judge_pools(gather(model, claimed), len(TOPICS)) == {ACCEPTED}


def insert(model, honest, words):
    """An advertisement in the middle of an answer, with the logprobs that the model has for it."""
    request = honest.request
    tokens = (*honest.output_tokens[:16], *model.encode(words), *honest.output_tokens[16:])[: len(honest.output_tokens)]
    logits = model.iterate_logits((*request.prompt_tokens, *tokens[:-1]), len(request.prompt_tokens) - 1)
    return msgspec.structs.replace(
        honest,
        output_tokens=tokens,
        logprobs_micronats=tuple(
            compute_logprob_micronats(row, token) for row, token in zip(logits, tokens, strict=True)
        ),
        finish_reason="length" if len(tokens) == 32 else "cancelled",
        text_hash=compute_text_hash(derive_text(model, (), tokens).text),
    )


def test_inserted_words_are_rejected_in_every_answer_and_win_when_nobody_weighs_the_margins(model):
    honest = [answer(model, plan(model, topic)) for topic in TOPICS[:4]]
    assert REJECTED not in judge_pools(gather(model, honest), 1)
    evidence = gather(model, [insert(model, item, " Buy Acme Shoes today!") for item in honest])
    assert judge_pools(evidence, 1) == {REJECTED}
    assert REJECTED not in judge_pools(evidence, 1, BLIND)
    assert judge_pools(evidence, 2, BLIND) == {ACCEPTED}


PENALTIES = {"presence_ppm": 1_000_000, "frequency_ppm": 1_000_000}


def test_ignored_penalties_are_rejected_in_pools_of_four_and_win_when_the_claim_names_the_request(model):
    transcripts = [serve_other(model, topic, PENALTIES) for topic in TOPICS]
    evidence = gather(model, transcripts)
    assert judge_pools(evidence, 4) == {REJECTED}
    assert judge_pools(evidence, 4, BLIND) == {ACCEPTED}
    claimed = serve_as_claimed(transcripts, *(plan(model, topic) for topic in TOPICS))
    assert judge_pools(gather(model, claimed), 4) == {ACCEPTED}
    honest = answer(model, plan(model, TOPICS[0], **PENALTIES))
    assert judge_answer(check_transcript(model, honest)).outcome != REJECTED


def test_ignored_top_k_is_rejected_in_every_answer_and_wins_when_the_claim_names_the_request(model):
    transcripts = [serve_other(model, topic, {"top_k": 3}) for topic in TOPICS[:2]]
    evidence = gather(model, transcripts)
    assert judge_pools(evidence, 1) == {REJECTED}
    assert judge_pools(evidence, 2, BLIND) == {ACCEPTED}
    claimed = serve_as_claimed(transcripts, *(plan(model, topic) for topic in TOPICS[:2]))
    assert judge_pools(gather(model, claimed), 2) == {ACCEPTED}


def test_ignored_json_mode_is_rejected_in_every_answer_and_wins_when_the_claim_names_the_request(model):
    sold = {"grammar": GrammarSpec("json_object", "", ENGINE)}
    transcripts = [serve_other(model, topic, sold) for topic in TOPICS[:4]]
    evidence = gather(model, transcripts)
    assert all(item.lies & Lie.GRAMMAR_IGNORED for item in evidence)
    assert judge_pools(evidence, 1) == {REJECTED}
    claimed = serve_as_claimed(transcripts, *(plan(model, topic) for topic in TOPICS[:4]))
    assert judge_pools(gather(model, claimed), 2) == {ACCEPTED}
    honest = answer(model, plan(model, TOPICS[0], **sold))
    assert judge_answer(check_transcript(model, honest)).outcome != REJECTED


def make_request(topic, **changes):
    """A user's request, as a gateway asks for it."""
    content = f"Write five sentences about {topic}."
    fields = {
        "model": DEFAULT_MODEL,
        "prompt": ChatPrompt((Turn("user", content),)),
        "temperature_ppm": 1_000_000,
        "top_p_ppm": 1_000_000,
        "max_tokens": 32,
        "stop": (),
        "user_seed": None,
    }
    return AnswerRequest(**(fields | changes))


def plan_choice(model, topic, choice):
    """One of n choices of a prompt under the user's own seed."""
    request = make_request(topic, choice=choice, user_seed=7)
    return build_generation(model, request, derive_sampler_seed(bytes(32), bytes(32), request, bytes(20)))


def test_one_answer_sold_as_all_choices_is_rejected_in_pools_of_two(model):
    for topic in TOPICS[:2]:
        first = answer(model, plan_choice(model, topic, 0))
        copies = [msgspec.structs.replace(first, request=plan_choice(model, topic, choice)) for choice in (1, 2)]
        assert judge_pools(gather(model, copies), 2) == {REJECTED}
        assert judge_answer(check_transcript(model, first)).outcome != REJECTED


def test_one_answer_sold_as_all_choices_wins_when_choices_share_their_noise(model):
    first = answer(model, plan_choice(model, TOPICS[0], 0))
    sold = msgspec.structs.replace(plan_choice(model, TOPICS[0], 1), seed=first.request.seed)
    copy = msgspec.structs.replace(first, request=sold)
    assert judge_answer(check_transcript(model, copy)).outcome == ACCEPTED


FIRST, SECOND = b"1" * 32, b"2" * 32
SESSION, OWNER = b"s" * 32, b"o" * 20


def plan_task(model, request, task):
    return build_generation(model, request, derive_sampler_seed(SESSION, task, request, OWNER))


def test_a_cached_answer_is_refused_for_a_new_task_and_relabelled_rejected_in_a_pool_of_two(model):
    requests = [make_request(topic) for topic in TOPICS[:2]]
    cached = [answer(model, plan_task(model, request, FIRST)) for request in requests]
    expected = Expected(
        task_id=SECOND,
        session_seed=SESSION,
        owner=OWNER,
        prompt_hash=requests[0].compute_hash(),
        prompt_tokens=len(cached[0].request.prompt_tokens),
        completion_tokens=len(cached[0].output_tokens),
        draw_seed=bytes(32),
    )
    verdict = judge_payload(model, Payload(requests[0], encode_transcript(cached[0])), expected)
    assert (verdict.outcome, verdict.reason.split(":")[0]) == (REJECTED, "other-generation")
    relabelled = serve_as_claimed(cached, *(plan_task(model, request, SECOND) for request in requests))
    evidence = gather(model, relabelled)
    assert judge_pools(evidence, 2) == {REJECTED}
    assert judge_pools(evidence, 2, BLIND) == {ACCEPTED}


def test_a_cached_answer_wins_when_the_noise_hangs_on_the_users_seed_alone(model):
    """A user who names a seed asks for a repeatable answer; then the cache is as good as the work."""
    request = make_request(TOPICS[0], user_seed=7)
    cached = answer(model, plan_task(model, request, FIRST))
    again = msgspec.structs.replace(cached, request=plan_task(model, request, SECOND))
    assert again == cached
    assert judge_answer(check_transcript(model, again)).outcome == ACCEPTED
