"""Executors whose model is almost the right one, and executors who answer first and compute states later.

Power asserted, on answers of 24 tokens: 8-bit weights are accepted in none of four and raise suspicion in each (measured over
hundreds of answers: bench/inference_detection.py), the 4-bit model is rejected in each. Commitments: states computed after the
draw are proof of fraud always, sketches forged at 20 of 32 tokens escape 1 in 21,000 times. A node that cheats in 2 of 100
answers, each as rare as the calibration can tell, is suspect after 400 audits in the median; an honest one never was in 2,000
lives of 1,000 audits.
"""

from __future__ import annotations

import json
import os
import random
import statistics
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from paceline.base.hashing import hash_parts
from paceline.inference.check import Challenge, Lie, check_transcript, compare_tokens
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_sampler
from paceline.inference.run import generate
from paceline.inference.trace import StateRecord, Trace, derive_draw, verify_opening
from paceline.lab.forgeries import LAYERS, WIDTH, compute_escape, measure_forgery
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.llama import LlamaNetwork, get_llama_shape
from paceline.models.quantise import quantise_matrix, round_rows_int8
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.transcripts import GenerationRequest
from paceline.verification.answers import CALIBRATION, judge_answer
from paceline.verification.calibration import BILLION, compute_upper_limit, get_honest_scores
from paceline.verification.suspicion import SUSPECT_MICRONATS, compute_log_e_micro, is_suspect

TOPICS = ("a harbour", "old maps", "tea", "a tall tree")
TOKENS = 24


@pytest.fixture(scope="module")
def path():
    torch.set_num_threads(1)
    return prepare_model(
        Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline")), progress=lambda line: None
    )


@pytest.fixture(scope="module")
def model(path):
    return LanguageModel.load(path)


@pytest.fixture(scope="module")
def scores(model):
    return get_honest_scores(model.model_id, model.engine)


def load_rounded(path, rounding):
    model = LanguageModel.load(path)
    params = load_file(path / "model.safetensors")
    rounded = {name: rounding(part) if name.endswith("_proj.weight") else part for name, part in params.items()}
    model._network = LlamaNetwork(get_llama_shape(json.loads((path / "config.json").read_text())), rounded)
    return model


def plan(model, topic):
    return GenerationRequest(
        model_id=model.model_id,
        model_hash=model.content_hash,
        engine=model.engine,
        sampler=plan_sampler(temperature_ppm=1_000_000, top_p_ppm=1_000_000, max_tokens=TOKENS, stop=[]),
        seed=hash_parts("traces", topic.encode()),
        prompt_tokens=tuple(model.encode_chat([{"role": "user", "content": f"Write five sentences about {topic}."}])),
    )


def answer(model, topic):
    """Transcript and states of one answer."""
    states = StateRecord()
    request = plan(model, topic)
    steps = list(generate(model, request, should_stop=lambda: False, states=states))
    trace = Trace.join(states)
    return build_transcript(model, request, steps, trace.compute_root()), trace


def draw(transcript):
    return derive_draw(hash_parts("drawn-later", transcript.trace_root), len(transcript.output_tokens), 3)


def judge(checker, scores, transcript, trace):
    challenge = Challenge(draw=draw(transcript), opening=trace.open(draw(transcript)))
    return judge_answer(check_transcript(checker, transcript, challenge), CALIBRATION, scores)


def test_honest_answers_are_accepted_and_hardly_move_suspicion(model, scores):
    verdicts = [judge(model, scores, *answer(model, topic)) for topic in TOPICS[:3]]
    assert {verdict.outcome for verdict in verdicts} == {ACCEPTED}
    # One honest answer in fifty has a near tie that a bet on rare tokens pays for; the others pay for that bet.
    logs = [verdict.evidence[-1] for verdict in verdicts]
    assert statistics.median(logs) < 0
    assert sum(logs) < SUSPECT_MICRONATS / 20


def test_8_bit_weights_are_never_accepted_and_raise_suspicion(path, model, scores):
    cheater, blind = load_rounded(path, round_rows_int8), []
    for topic in TOPICS:
        transcript, trace = answer(cheater, topic)
        verdict = judge(model, scores, transcript, trace)
        assert verdict.outcome != ACCEPTED
        assert verdict.evidence[-1] > 0
        blind.append(judge_answer(check_transcript(model, transcript), CALIBRATION).outcome)
    # Whoever looks at logprobs and tokens alone lets this cheater through.
    assert REJECTED not in blind


def test_the_4_bit_model_is_rejected_by_its_states(path, model, scores):
    cheater = load_rounded(path, quantise_matrix)
    for topic in TOPICS[:2]:
        transcript, trace = answer(cheater, topic)
        evidence = check_transcript(
            model, transcript, Challenge(draw=draw(transcript), opening=trace.open(draw(transcript)))
        )
        verdict = judge_answer(evidence, CALIBRATION, scores)
        assert verdict.outcome == REJECTED
        assert verdict.evidence[10] > verdict.evidence[11]


def test_garbage_root_late_prefill_is_proof_of_fraud(path, model, scores):
    cheater = load_rounded(path, quantise_matrix)
    transcript, cheap = answer(cheater, TOPICS[0])
    states = []
    list(compare_tokens(model, transcript, states=states))
    late = Trace.join(states)
    for opening in (
        late.open(draw(transcript)),
        msgspec.structs.replace(cheap.open(draw(transcript)), sketch=late.open_sketch(draw(transcript))),
    ):
        evidence = check_transcript(model, transcript, Challenge(draw=draw(transcript), opening=opening))
        assert evidence.lies == Lie.STATES_FORGED
        assert judge_answer(evidence, CALIBRATION, scores).outcome == REJECTED
    # Without a commitment before the draw, the same states would pass: they are those of the honest model.
    uncommitted = msgspec.structs.replace(transcript, trace_root=late.compute_root())
    drawn = Challenge(draw=draw(transcript), opening=late.open(draw(transcript)))
    evidence = check_transcript(model, uncommitted, drawn)
    assert evidence.lies == Lie.NONE
    assert evidence.distance_micronats == 0


def test_forged_sketches_escape_one_time_in_thousands():
    assert compute_escape(32, 20) < 1 / 21_000
    assert measure_forgery("forged-sketch", 32, 200) == 200
    assert measure_forgery("garbage-root", 32, 50) == 50


def test_forged_sketches_pass_when_no_position_is_drawn():
    states = torch.randn(32, LAYERS, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    trace = Trace.join(list(states))
    drawn = derive_draw(bytes(32), 32, LAYERS)
    blind = msgspec.structs.replace(trace.open(drawn), states=(), sketch=bytes(32 * 32))
    lazy = derive_draw(bytes(32), 0, LAYERS)
    sizes = {"tokens": 32, "layers": LAYERS, "width": WIDTH}
    assert verify_opening(blind, trace.compute_root(), lazy, **sizes)
    assert not verify_opening(blind, trace.compute_root(), drawn, **sizes)


def simulate(chance, share, rarest, audits):
    """Audits until suspect, or None. Honest answers have uniform chances in both tests."""
    total = 0
    for number in range(1, audits + 1):
        states = rarest if chance.random() < share else chance.randrange(1, BILLION)
        total += compute_log_e_micro(states, chance.randrange(1, BILLION))
        if is_suspect(total):
            return number
    return None


def test_honest_nodes_are_never_suspect():
    chance = random.Random(1)
    assert all(simulate(chance, 0.0, BILLION, 1_000) is None for _ in range(2_000))


def test_a_node_that_cheats_in_2_of_100_answers_is_suspect_after_400_audits(scores):
    rarest = max(
        round(compute_upper_limit(1) / tail.answers * BILLION)
        for kind in scores.pairs[0].states
        for tail in kind
        if tail.tokens <= 8
    )
    chance = random.Random(2)
    needed = [simulate(chance, 0.02, rarest, 5_000) or 5_001 for _ in range(200)]
    assert statistics.median(needed) <= 400
    assert statistics.quantiles(needed, n=20)[-1] <= 1_000


def test_cheating_stays_free_when_suspicion_is_not_added_up():
    # One answer as rare as can be is far from proof, so judging each alone would let the node go on.
    assert not is_suspect(compute_log_e_micro(1, 1))
