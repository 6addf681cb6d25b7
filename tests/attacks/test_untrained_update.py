"""Trainers that are paid for training they did not do, against replay of drawn segments.

Power asserted here: every listed cheat is rejected with certainty when a cheated segment is drawn; a trainer that
fakes f of S segments is caught with probability 1 - C(S-f, m) / C(S, m) by an auditor who replays m of them. The
ledger draws the same m segments for both auditors of an update: the second one guards against a lying first one.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import combinations
from math import comb, sqrt

import msgspec
import pytest
import torch
from safetensors.torch import save

from paceline.base.draws import derive_seed, draw_sample
from paceline.base.hashing import hash_blob, hash_parts
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.training import run as training_run
from paceline.training.check import UpdateAudit, check_segment
from paceline.training.claim import (
    RoundClaim,
    TrainerState,
    build_initial_state,
    compute_pseudo_gradient,
    compute_start_state,
    decode_trainer_state,
    decode_update,
    encode_state,
)
from paceline.training.data import compute_data_hash, get_batch
from paceline.training.outer import compute_outer_step
from paceline.training.plan import TrainingPlan, derive_assignments
from paceline.training.run import InnerLoop, RoundWork, evaluate, train_round
from paceline.verification.updates import MAX_DISTANCE_PPB, judge_segment, judge_update

TRAINERS = (b"a" * 20, b"b" * 20, b"c" * 20)
LETTERS = b" etaoinshrdlu\n.,"
CORPUS = b"".join(
    bytes(LETTERS[byte % 16] for byte in hash_parts("noise", bytes([index % 40, index // 256])))
    for index in range(1_000)
)
PLAN = TrainingPlan(
    data_hash=compute_data_hash(CORPUS),
    seed=b"\2" * 32,
    rounds=4,
    inner_steps=8,
    segment_steps=2,
    batch_size=16,
    warmup_steps=2,
)
BASE = build_initial_state(PLAN)


def assign(round_index):
    return derive_assignments(b"\5" * 32, b"run", round_index, TRAINERS)[TRAINERS[0]]


def build_work(global_state, states, loss=0):
    update = compute_pseudo_gradient(PLAN, global_state, states[-1])
    claim = RoundClaim(hash_blob(update), tuple(map(hash_blob, states)), loss)
    return RoundWork(claim=claim, update=update, states=tuple(states))


torch.set_num_threads(1)
# The attacks happen in the second round, where momentum makes a stolen step look most like an honest one.
FIRST = train_round(PLAN, assign(0), CORPUS, compute_start_state(PLAN, BASE, None), BASE)
GLOBAL = compute_outer_step(PLAN, BASE, [(TRAINERS[0], FIRST.update)])
START = compute_start_state(PLAN, GLOBAL, FIRST.states[-1])
SHARE = assign(1)
HONEST = train_round(PLAN, SHARE, CORPUS, START, GLOBAL)


def audit(work, segments=(0, 1, 2, 3), **changes):
    settings = {
        "plan": PLAN,
        "assignment": SHARE,
        "corpus": CORPUS,
        "claim": work.claim,
        "global_state": GLOBAL,
        "previous_state": FIRST.states[-1],
        "segments": segments,
        "get_blob": work.blobs.get,
    }
    return judge_update(UpdateAudit(**(settings | changes)))


@contextmanager
def altered_batches(alter):
    """Inner steps read `alter(step)` instead of their batch."""
    original = training_run.get_batch
    training_run.get_batch = lambda plan, share, corpus, step: alter(step)
    try:
        yield
    finally:
        training_run.get_batch = original


def batch(step):
    return get_batch(PLAN, SHARE, CORPUS, step)


def poison_row(step):
    rows = batch(step)
    rows[3] = rows[3].flip(0)
    return rows


def change_token(step):
    rows = batch(step)
    rows[0, 30] = ord("Z")
    return rows


def half_batch(step):
    return batch(step)[:8]


def drop_gradients(loop):
    def zero(optimizer, *_):
        for param in optimizer.param_groups[0]["params"]:
            param.grad.zero_()

    loop._optimizer.register_step_pre_hook(zero)


def freeze_block(loop):
    def skip(optimizer, *_):
        for name, param in loop._names.items():
            if name.startswith("blocks.1."):
                param.grad = None

    loop._optimizer.register_step_pre_hook(skip)


def untouched(_):
    return None


SLOW = msgspec.structs.replace(PLAN, inner_rate_ppm=2_970)
CHEATS = {
    "rate 1 % off": (SLOW, nullcontext, untouched),
    "previous batch replayed": (PLAN, lambda: altered_batches(lambda step: batch(max(0, step - 1))), untouched),
    "other batch": (PLAN, lambda: altered_batches(lambda step: batch(step + 1_000)), untouched),
    "half batch": (PLAN, lambda: altered_batches(half_batch), untouched),
    "one poisoned row of 16": (PLAN, lambda: altered_batches(poison_row), untouched),
    "one changed token of 1024": (PLAN, lambda: altered_batches(change_token), untouched),
    "momentum only": (PLAN, nullcontext, drop_gradients),
    "one block frozen": (PLAN, nullcontext, freeze_block),
    "bf16 for fp32": (PLAN, lambda: torch.autocast("cpu", dtype=torch.bfloat16), untouched),
}


def cheat_segment(name, index, start):
    """The end state of one segment done in the cheater's way, from a given start."""
    plan, context, tamper = CHEATS[name]
    loop = InnerLoop(plan, SHARE, CORPUS, decode_trainer_state(PLAN, start))
    tamper(loop)
    with context():
        for step in range(index * PLAN.segment_steps, (index + 1) * PLAN.segment_steps):
            loop.take_step(step)
    return encode_state(loop.get_state())


def jump(state, shift, steps=PLAN.segment_steps):
    """A state that claims `steps` more steps and moved by `shift` without any."""
    old = decode_trainer_state(PLAN, state)
    params = {name: value - shift[name] for name, value in old.params.items()}
    return encode_state(TrainerState(params, old.first_moment, old.second_moment, old.step + steps))


def random_shift(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    honest = decode_update(PLAN, HONEST.update)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in honest.items()}
    return {name: scale * value * honest[name].norm() / value.norm() for name, value in noise.items()}


def still():
    return {name: torch.zeros_like(value) for name, value in decode_update(PLAN, HONEST.update).items()}


def test_honest_trainer_is_accepted():
    verdict = audit(HONEST)
    assert verdict.outcome == ACCEPTED
    assert verdict.evidence[1] < MAX_DISTANCE_PPB // 10


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheated_segment_is_rejected_when_replayed_and_wins_when_none_is(name):
    for index in (0, 3):
        end = cheat_segment(name, index, HONEST.states[index])
        found = check_segment(PLAN, SHARE, CORPUS, HONEST.states[index], end, index)
        assert judge_segment(found).outcome == REJECTED
        assert found.distance_ppb > 5 * MAX_DISTANCE_PPB, "the power claimed rests on this margin"
    work = build_work(GLOBAL, [*HONEST.states[:-1], end])
    assert audit(work, segments=(3,)).outcome == REJECTED
    assert audit(work, segments=()).outcome == ACCEPTED


@pytest.mark.parametrize("kind", ["random", "idle", "scaled"])
def test_no_training_at_all_is_rejected_by_any_single_segment(kind):
    honest_step = {name: value / 4 for name, value in decode_update(PLAN, HONEST.update).items()}
    shift = {"random": random_shift(1, 0.25), "idle": still(), "scaled": {k: 3 * v for k, v in honest_step.items()}}[
        kind
    ]
    states = [START]
    for _ in range(PLAN.segment_count):
        states.append(jump(states[-1], shift))
    work = build_work(GLOBAL, states)
    assert all(audit(work, segments=(index,)).outcome == REJECTED for index in range(PLAN.segment_count))


def test_skipped_steps_are_rejected_with_a_true_and_a_false_counter():
    loop = InnerLoop(PLAN, SHARE, CORPUS, decode_trainer_state(PLAN, START))
    loop.take_step(0)
    half = loop.get_state()
    for step in (half.step, half.step + 1):
        end = encode_state(replace(half, step=step))
        assert judge_segment(check_segment(PLAN, SHARE, CORPUS, START, end, 0)).outcome == REJECTED


@pytest.mark.parametrize("factor", [-1.0, 1.001, 3.0])
def test_a_scaled_update_is_rejected_without_any_replay(factor):
    scaled = save({name: value * factor for name, value in decode_update(PLAN, HONEST.update).items()})
    verdict = audit(HONEST, claim=replace(HONEST.claim, update_hash=hash_blob(scaled)), segments=())
    assert verdict.outcome == REJECTED
    assert "update" in verdict.reason


def test_a_start_apart_from_the_global_state_is_rejected_without_any_replay():
    for start in (FIRST.states[-1], compute_start_state(PLAN, GLOBAL, None)):
        work = train_round(PLAN, SHARE, CORPUS, start, GLOBAL)
        verdict = audit(work, segments=())
        assert verdict.outcome == REJECTED
        assert "start state" in verdict.reason


def test_last_rounds_work_sent_again_is_rejected():
    assert audit(FIRST, segments=()).outcome == REJECTED


def test_a_better_loss_than_the_true_one_is_rejected_when_the_last_segment_is_drawn():
    claim = replace(HONEST.claim, loss_micronats=HONEST.claim.loss_micronats - 50_000)
    assert audit(replace(HONEST, claim=claim), segments=(3,)).outcome == REJECTED


@pytest.mark.parametrize("blobs", [{}, dict.fromkeys(HONEST.blobs, b"junk")])
def test_withheld_or_exchanged_blobs_are_rejected(blobs):
    assert audit(HONEST, get_blob=blobs.get).outcome == REJECTED


def test_blobs_that_hash_right_but_are_no_states_are_rejected():
    junk = [b"junk %d" % index for index in range(PLAN.segment_count + 1)]
    claim = RoundClaim(hash_blob(b"update"), tuple(map(hash_blob, junk)), 0)
    verdict = audit(HONEST, claim=claim, get_blob={hash_blob(data): data for data in junk}.get)
    assert verdict.outcome == REJECTED
    assert verdict.reason.startswith("malformed")


def faked(which):
    """Honest work but for the segments in `which`, which the trainer jumps over."""
    states = [START]
    for index in range(PLAN.segment_count):
        if index in which:
            states.append(jump(states[-1], random_shift(index, 0.25)))
            continue
        loop = InnerLoop(PLAN, SHARE, CORPUS, decode_trainer_state(PLAN, states[-1]))
        for step in range(index * PLAN.segment_steps, (index + 1) * PLAN.segment_steps):
            loop.take_step(step)
        states.append(encode_state(loop.get_state()))
    return build_work(GLOBAL, states)


@pytest.mark.parametrize("fakes", [1, 2, 3])
def test_detection_power_against_partial_faking(fakes):
    """Seen frequency over 600 public draws agrees with 1 - C(S-f, m) / C(S, m) within three deviations."""
    work, total, drawn = faked(range(fakes)), PLAN.segment_count, 2
    verdicts = {index: audit(work, segments=(index,)).outcome for index in range(total - 1)}
    assert [verdicts[index] == REJECTED for index in sorted(verdicts)] == [index < fakes for index in range(total - 1)]
    draws = [draw_sample(derive_seed(b"beacon", "audit", bytes([i % 256, i // 256])), total, drawn) for i in range(600)]
    seen = sum(any(index < fakes for index in draw) for draw in draws) / len(draws)
    power = 1 - comb(total - fakes, drawn) / comb(total, drawn)
    caught = sum(any(index < fakes for index in draw) for draw in combinations(range(total), drawn))
    assert power == caught / comb(total, drawn)
    assert abs(seen - power) <= 3 * sqrt(power * (1 - power) / len(draws)) + 1e-9


def test_without_replay_the_cheater_wins_and_the_model_pays():
    """With no segment drawn a consistent lie passes and spoils the model; with one drawn the round stays good."""
    states = [START]
    for _ in range(PLAN.segment_count):
        states.append(jump(states[-1], random_shift(9, 2.0)))
    last = decode_trainer_state(PLAN, states[-1])
    lie = build_work(GLOBAL, states)
    assert last.step == decode_trainer_state(PLAN, HONEST.states[-1]).step
    assert audit(lie, segments=()).outcome == ACCEPTED
    assert audit(lie, segments=(2,)).outcome == REJECTED
    good = [(TRAINERS[1], HONEST.update)]
    spoiled = evaluate(PLAN, compute_outer_step(PLAN, GLOBAL, [*good, (TRAINERS[0], lie.update)]), CORPUS)
    kept = evaluate(PLAN, compute_outer_step(PLAN, GLOBAL, good), CORPUS)
    assert spoiled > kept + 10_000
