from __future__ import annotations

import pytest
from training_setup import BEACON, PLAN, RUN, TRAINERS, replan

from paceline.base.errors import ConfigError, InvalidClaim
from paceline.protocol.codec import encode
from paceline.training.plan import (
    MAX_PLAN_BYTES,
    TrainingPlan,
    compute_inner_rate_ppb,
    decode_plan,
    derive_assignments,
    encode_plan,
)


def test_plan_survives_its_encoding():
    assert decode_plan(encode_plan(PLAN)) == PLAN
    assert len(encode_plan(PLAN)) < 200


def test_segments_of_a_round():
    assert PLAN.segment_count == 2
    assert PLAN.sequence_bytes == 65


def test_defaults_are_a_working_plan():
    plan = TrainingPlan(data_hash=b"\0" * 32, seed=b"\0" * 32)
    assert plan.segment_count == 4
    assert decode_plan(encode_plan(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inner_steps": 5}, "multiple of segment_steps"),
        ({"segment_steps": 0}, "multiple of segment_steps"),
        ({"warmup_steps": 9}, "warmup_steps"),
        ({"model": "huge"}, "unknown model preset"),
        ({"inner_rate_ppm": 0}, "inner rate"),
        ({"final_rate_ppm": 0, "inner_steps": 200}, "inner rate falls to 7536 ppb"),
    ],
)
def test_invalid_settings_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        replan(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"inner_steps": 12, "segment_steps": 12}, {"batch_size": 0}, {"outer_momentum_ppm": 1_000_000}, {"seed": b"x"}],
)
def test_invalid_bounds_are_refused_when_encoding(changes):
    with pytest.raises(ConfigError):
        encode_plan(replan(**changes))


def test_warmup_may_fill_the_run():
    plan = replan(warmup_steps=8)
    assert compute_inner_rate_ppb(plan, 7) == 3_000_000


def test_invalid_bytes_of_a_plan():
    good = encode_plan(PLAN)
    for data, code in [
        (good[:-1], "malformed"),
        (b"\0" * (MAX_PLAN_BYTES + 1), "too-large"),
        (good.replace(b"\xa4tiny", b"\xa4huge"), "plan"),
        (encode([*PLAN.__struct_fields__]), "malformed"),
    ]:
        with pytest.raises(InvalidClaim) as caught:
            decode_plan(data)
        assert caught.value.code == code


def test_inner_rate_climbs_then_falls():
    rates = [compute_inner_rate_ppb(PLAN, step) for step in range(9)]
    assert rates[0] == 1_500_000
    assert rates[1] == rates[2] == 3_000_000
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[8] == 300_000


def test_assignments_are_disjoint_whatever_the_order_of_trainers():
    found = derive_assignments(BEACON, RUN, 3, TRAINERS)
    assert found == derive_assignments(BEACON, RUN, 3, TRAINERS[::-1])
    assert sorted(share.shard_index for share in found.values()) == [0, 1, 2]
    assert len({share.shard_seed for share in found.values()}) == 3


def test_assignments_change_with_round_run_and_beacon():
    seeds = {
        derive_assignments(beacon, run, index, TRAINERS)[TRAINERS[0]].shard_seed
        for beacon in (BEACON, b"\x08" * 32)
        for run in (RUN, b"run-000000000002")
        for index in (0, 1)
    }
    assert len(seeds) == 8
    orders = {tuple(s.shard_index for s in derive_assignments(BEACON, RUN, i, TRAINERS).values()) for i in range(40)}
    assert len(orders) == 6
