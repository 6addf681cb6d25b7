"""Executors whose model is almost the right one, and executors who answer first and compute states later.

Power asserted, on answers of 24 tokens: 8-bit integer weights and weights with 1 % of noise are accepted in none of four,
8-bit floats as weights or as keys and values in none of two, and each raises suspicion (measured over hundreds of answers:
bench/inference_detection.py); the 4-bit model and one without a layer are rejected in each of two. Commitments: states
computed after the draw are proof of fraud always, sketches forged at 20 of 32 tokens escape 1 in 21,000 times. A node that
cheats in 2 of 100 answers, each as rare as the calibration can tell, is suspect after 400 audits in the median; an honest
one never was in 2,000 lives of 1,000 audits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import statistics
from functools import reduce
from itertools import accumulate
from operator import add
from pathlib import Path

import msgspec
import pytest
import torch
from chain_harness import Chain
from safetensors.torch import load_file

from paceline.base.hashing import hash_parts
from paceline.inference.check import Challenge, Lie, check_transcript, compare_tokens
from paceline.inference.claim import build_transcript
from paceline.inference.plan import plan_sampler
from paceline.inference.run import generate
from paceline.inference.trace import StateRecord, Trace, derive_draw, verify_opening
from paceline.lab.forgeries import LAYERS, WIDTH, compute_escape, measure_forgery
from paceline.ledger import suspicion
from paceline.ledger.disputes import Vote
from paceline.ledger.tasks import REVEALING, Task
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.llama import LlamaNetwork, get_llama_shape
from paceline.models.quantise import quantise_matrix, round_fp8, round_rows_fp8, round_rows_int8
from paceline.models.variants import add_noise
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.protocol.transcripts import GenerationRequest
from paceline.verification.answers import CALIBRATION, Calibration, judge_answer
from paceline.verification.calibration import BILLION, compute_upper_limit, get_honest_scores
from paceline.verification.suspicion import SUSPECT_MICRONATS, compute_log_e_micro, is_suspect

BLIND = Calibration(
    deviation_rate_ppm=10**9,
    deviation_swing_ppm=10**9,
    deviation_least_micro=0,
    margin_rate_ppm=10**9,
    margin_swing_ppm=10**9,
    margin_least_micro=0,
)
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


def load_changed(path, change):
    """The model with other parameters: `change` says what becomes of each."""
    return load_with(path, lambda params: {name: change(name, part) for name, part in params.items()})


def load_with(path, change):
    model = LanguageModel.load(path)
    params = change(load_file(path / "model.safetensors"))
    model._network = LlamaNetwork(get_llama_shape(json.loads((path / "config.json").read_text())), params)
    return model


def load_rounded(path, rounding):
    return load_changed(path, lambda name, part: rounding(part) if name.endswith("_proj.weight") else part)


MISSING_LAYER = 14


def load_without_layer(path, layer=MISSING_LAYER):
    """A layer that adds nothing is a layer left out."""
    ends = tuple(f"model.layers.{layer}.{part}.weight" for part in ("self_attn.o_proj", "mlp.down_proj"))
    return load_changed(path, lambda name, part: torch.zeros_like(part) if name in ends else part)


def load_with_small_cache(path):
    """Keys and values kept in 8 bits, as servers do to hold more users."""
    model = LanguageModel.load(path)
    compute = model._compute_hidden

    def compute_and_round(token_ids, cache, **options):
        hidden = compute(token_ids, cache, **options)
        for kept in (cache.keys, cache.values):
            kept[:, :, : cache.length_tokens] = round_fp8(kept[:, :, : cache.length_tokens])
        return hidden

    model._compute_hidden = compute_and_round
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


CHEATERS = {
    "int8 weights": (lambda path: load_rounded(path, round_rows_int8), 4),
    "fp8 weights": (lambda path: load_rounded(path, round_rows_fp8), 2),
    "fp8 keys and values": (load_with_small_cache, 2),
    "1 % noise on the weights": (lambda path: load_with(path, add_noise), 4),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CHEATERS)
def test_almost_the_right_weights_are_never_accepted_and_raise_suspicion(name, path, model, scores):
    load, count = CHEATERS[name]
    cheater, blind = load(path), []
    for topic in TOPICS[:count]:
        transcript, trace = answer(cheater, topic)
        verdict = judge(model, scores, transcript, trace)
        assert verdict.outcome != ACCEPTED
        assert verdict.evidence[-1] > 0
        blind.append(judge_answer(check_transcript(model, transcript), CALIBRATION).outcome)
    # Whoever looks at logprobs and tokens alone accepts answers of this cheater.
    assert ACCEPTED in blind
    assert name == "fp8 weights" or REJECTED not in blind


@pytest.mark.parametrize("load", [lambda path: load_rounded(path, quantise_matrix), load_without_layer])
def test_the_4_bit_model_and_one_without_a_layer_are_rejected(load, path, model, scores):
    cheater, blind = load(path), []
    for topic in TOPICS[:2]:
        transcript, trace = answer(cheater, topic)
        evidence = check_transcript(
            model, transcript, Challenge(draw=draw(transcript), opening=trace.open(draw(transcript)))
        )
        verdict = judge_answer(evidence, CALIBRATION, scores)
        assert verdict.outcome == REJECTED
        # The states below a missing layer are the right ones.
        kind = draw(transcript).layer
        is_below = load is load_without_layer and kind > 0 and model.traced_layers[kind - 1] < MISSING_LAYER
        assert (verdict.evidence[10] > verdict.evidence[11]) is not is_below
        blind.append(dataclasses.replace(evidence, traced=0, distance_micronats=0))
    # Who weighs neither states nor logprobs nor margins accepts both together.
    assert judge_answer(reduce(add, blind), BLIND).outcome == ACCEPTED


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


def draw_logs(chance, share, rarest, audits):
    """What the answers of a node add to its sum. Honest answers have uniform chances in both tests."""
    for _ in range(audits):
        states = rarest if chance.random() < share else chance.randrange(1, BILLION)
        yield compute_log_e_micro(states, chance.randrange(1, BILLION))


def simulate(chance, share, rarest, audits):
    """Audits until suspect, or None."""
    sums = enumerate(accumulate(draw_logs(chance, share, rarest, audits)), 1)
    return next((number for number, total in sums if is_suspect(total)), None)


def compute_rarest(scores):
    """The smallest chance that the calibration tells apart in short answers."""
    return max(
        round(compute_upper_limit(1) / tail.answers * BILLION)
        for kind in scores.pairs[0].states
        for tail in kind
        if tail.tokens <= 8
    )


def test_honest_nodes_are_never_suspect():
    chance = random.Random(1)
    assert all(simulate(chance, 0.0, BILLION, 1_000) is None for _ in range(2_000))


def test_a_node_that_cheats_in_2_of_100_answers_is_suspect_after_400_audits(scores):
    chance, rarest = random.Random(2), compute_rarest(scores)
    needed = [simulate(chance, 0.02, rarest, 5_000) or 5_001 for _ in range(200)]
    assert statistics.median(needed) <= 400
    assert statistics.quantiles(needed, n=20)[-1] <= 1_000


def audit_on_ledger(logs, *, adding_up):
    """The checked answers of one node as the ledger notes them: how many until it opens a case, or None."""
    chain = Chain()
    chain.tick()
    state, (executor, checker) = chain.state, [key.address for key in chain.keys[:2]]
    blank = {field: bytes(32) for field in ("session", "seed", "owner", "relay", "payload_hash", "prompt_hash")}
    counts = dict.fromkeys(("index", "cost", "prompt_tokens", "completion_tokens", "epoch", "height", "round_index"), 0)
    for number, log in enumerate(logs, 1):
        votes = (Vote(checker, ACCEPTED, "", (1, log)),)
        task = Task(executor=executor, status=REVEALING, drawn=(checker,), votes=votes, **blank, **counts)
        if not adding_up:
            suspicion.clear(state, executor)
        suspicion.note_check(state, chain.params, hash_parts("task", number.to_bytes(4, "big")), task)
        if suspicion.is_under_inquiry(state, executor):
            return number
    return None


def test_cheating_stays_free_when_suspicion_is_not_added_up(scores):
    """The same answers of one node: the ledger opens a case where the bet says so, and never if it judged each alone."""
    rarest, found = compute_rarest(scores), []
    for seed in range(3):
        logs = list(draw_logs(random.Random(seed), 0.02, rarest, 1_000))
        found.append(audit_on_ledger(logs, adding_up=True))
        assert found[-1] is not None
        assert found[-1] == simulate(random.Random(seed), 0.02, rarest, 1_000)
        assert audit_on_ledger(logs, adding_up=False) is None
    # Not even an answer as rare as can be is enough alone; four are.
    assert audit_on_ledger([compute_log_e_micro(1, 1)] * 20, adding_up=False) is None
    assert audit_on_ledger([compute_log_e_micro(1, 1)] * 20, adding_up=True) == 4
