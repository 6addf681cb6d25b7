from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from training_setup import BASE, CORPUS, PLAN, START, TRAINERS, assign, train

from paceline.base.errors import InvalidClaim, WorkError
from paceline.training.check import (
    UNBOUNDED_PPB,
    UpdateAudit,
    check_segment,
    check_start_state,
    check_update,
    check_update_binding,
    compute_distance_ppb,
)
from paceline.training.claim import compute_start_state
from paceline.training.run import train_round

WORK = train()
THRESHOLD_PPB = 300_000
REPLAY = """
import pickle, sys, torch
torch.set_num_threads(1)
from paceline.training.check import check_segment
print(max(check_segment(*arguments).distance_ppb for arguments in pickle.load(sys.stdin.buffer)))
"""


def check(index, end=None, start=None):
    return check_segment(PLAN, assign(), CORPUS, start or WORK.states[index], end or WORK.states[index + 1], index)


def audit(**changes):
    settings = {
        "plan": PLAN,
        "assignment": assign(),
        "corpus": CORPUS,
        "claim": WORK.claim,
        "global_state": BASE,
        "previous_state": None,
        "segments": (0, 1),
        "get_blob": WORK.blobs.get,
    }
    return UpdateAudit(**(settings | changes))


def test_honest_segments_lie_on_their_replay():
    for index in range(PLAN.segment_count):
        found = check(index)
        assert found.segment_index == index
        assert found.distance_ppb <= 1_000


def test_another_number_of_threads_stays_far_below_the_threshold():
    torch.set_num_threads(2)
    try:
        distances = [check(index).distance_ppb for index in range(PLAN.segment_count)]
    finally:
        torch.set_num_threads(1)
    assert max(distances) < THRESHOLD_PPB // 5


@pytest.mark.long
def test_another_kind_of_cpu_stays_far_below_the_threshold():
    """The same library without its wider instructions stands in for another machine."""
    jobs = [(PLAN, assign(), CORPUS, WORK.states[i], WORK.states[i + 1], i) for i in range(PLAN.segment_count)]
    narrow = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run(
        [sys.executable, "-c", REPLAY],
        input=pickle.dumps(jobs),
        env=os.environ | narrow | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert 0 < int(done.stdout) < THRESHOLD_PPB // 5


def test_the_replayed_loss_is_the_claimed_one():
    assert abs(check(1).loss_micronats - WORK.claim.loss_micronats) <= 5


def test_a_moved_tensor_is_named():
    tensors = load(WORK.states[1])
    tensors["second_moment/norm.weight"] *= 1.01
    found = check(0, end=save(tensors))
    assert found.tensor == "second_moment/norm.weight"
    assert found.distance_ppb > THRESHOLD_PPB


def test_invalid_step_counter_is_unbounded():
    found = check(0, end=save(load(WORK.states[1]) | {"step": torch.tensor([3])}))
    assert (found.tensor, found.distance_ppb) == ("step", UNBOUNDED_PPB)


def test_invalid_numbers_are_a_lie_and_no_crash():
    tensors = load(WORK.states[1])
    tensors["params/norm.weight"][0] = float("nan")
    with pytest.raises(InvalidClaim, match="not-finite"):
        check(0, end=save(tensors))
    negative = load(START)
    negative["second_moment/norm.weight"].fill_(-1.0)
    assert check(0, start=save(negative)).distance_ppb == UNBOUNDED_PPB
    huge = load(START)
    huge["params/norm.weight"].fill_(3e38)
    found = check(0, start=save(huge))
    assert (found.distance_ppb, found.loss_micronats) == (UNBOUNDED_PPB, 0)


def test_distance_of_plain_vectors():
    zero, one = torch.zeros(4), torch.ones(4)
    assert compute_distance_ppb(zero, one, one) == 0
    assert compute_distance_ppb(zero, one, zero) == 1_000_000_000
    assert compute_distance_ppb(zero, one, one * 1.5) == 500_000_000
    assert compute_distance_ppb(zero, zero, zero) == 0
    assert compute_distance_ppb(zero, zero, one) == UNBOUNDED_PPB
    assert compute_distance_ppb(zero, one, one * float("nan")) == UNBOUNDED_PPB
    assert compute_distance_ppb(zero, one * float("inf"), one) == UNBOUNDED_PPB
    assert compute_distance_ppb(zero, one * 1e-38, one * 3e38) == UNBOUNDED_PPB


def test_start_state_is_bound_to_the_global_params_and_own_moments():
    found = check_start_state(WORK.claim, compute_start_state(PLAN, BASE, None))
    assert found.claimed == found.computed
    other = check_start_state(WORK.claim, compute_start_state(PLAN, BASE, WORK.states[-1]))
    assert other.claimed != other.computed


def test_update_is_bound_to_the_final_state():
    found = check_update_binding(PLAN, WORK.claim, BASE, WORK.states[-1])
    assert found.claimed == found.computed
    with pytest.raises(InvalidClaim, match="blob-hash"):
        check_update_binding(PLAN, WORK.claim, BASE, WORK.states[0])


def test_a_whole_update_is_checked():
    found = check_update(audit())
    assert all(binding.claimed == binding.computed for binding in found.bindings)
    assert [segment.segment_index for segment in found.segments] == [0, 1]
    assert found.loss_gap_micronats is not None
    assert abs(found.loss_gap_micronats) <= 5
    assert check_update(audit(segments=(0,))).loss_gap_micronats is None


def test_a_later_round_is_checked_from_the_kept_moments():
    start = compute_start_state(PLAN, BASE, WORK.states[-1])
    share = assign(round_index=1)
    work = train_round(PLAN, share, CORPUS, start, BASE)
    found = check_update(
        audit(assignment=share, claim=work.claim, previous_state=WORK.states[-1], get_blob=work.blobs.get)
    )
    assert all(binding.claimed == binding.computed for binding in found.bindings)
    assert max(segment.distance_ppb for segment in found.segments) <= 1_000


def test_no_blob_is_fetched_twice_and_the_start_not_at_all():
    asked = []
    check_update(audit(get_blob=lambda address: asked.append(address) or WORK.blobs.get(address)))
    assert sorted(asked) == sorted(WORK.claim.state_hashes[1:])


def test_invalid_claims():
    short = replace(WORK.claim, state_hashes=WORK.claim.state_hashes[:-1])
    with pytest.raises(InvalidClaim, match="claim-shape"):
        check_update(audit(claim=short))
    with pytest.raises(InvalidClaim, match="withheld"):
        check_update(audit(get_blob=lambda _: None))
    with pytest.raises(InvalidClaim, match="blob-hash"):
        check_update(audit(get_blob=lambda _: START))


def test_invalid_corpus_is_the_auditors_own_trouble():
    with pytest.raises(WorkError, match="not the plan's"):
        check_update(audit(corpus=CORPUS + b"x"))


@pytest.mark.parametrize("changes", [{"global_state": b"junk"}, {"previous_state": BASE}])
def test_invalid_own_states_are_the_auditors_own_trouble(changes):
    with pytest.raises(WorkError, match="this auditor holds"):
        check_update(audit(**changes))


def test_the_work_of_another_trainer_is_far_away():
    other = train(TRAINERS[1])
    assert check(0, end=other.states[1]).distance_ppb > THRESHOLD_PPB
