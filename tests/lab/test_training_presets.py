"""What holds for every preset, those of a new module included: it is deterministic, learns, and outlives its trainers."""

from __future__ import annotations

import math

import pytest
import torch
from method_setup import SGD, add, change, play

from paceline.lab.training.fleet import Machine, make_fleet
from paceline.training.methods.exchanges import Syncer
from paceline.training.methods.presets.registry import PRESETS, build_strategy

SMALL = {"inner_steps": 4, "fragments": 2, "k": 2, "block": 3, "chunk": 16, "share": 0.2}
KEPT_WHOLE = {"decoupled-diloco": {"fragments"}}
"""Settings that a preset's other defaults exclude."""
STEPS = 16


def build(name, trainers=4):
    defaults = PRESETS[name].defaults
    settings = {key: value for key, value in SMALL.items() if key in defaults and key not in KEPT_WHOLE.get(name, ())}
    return build_strategy(name, settings, trainers=trainers, local=SGD)


def has_syncer(strategy):
    return any(isinstance(rule.exchange, Syncer) for rule in strategy.rules)


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_run_bit_for_bit(name):
    fleet = make_fleet(4, Machine(jitter=0.2, up_bits=1e5, down_bits=1e5, lost_share=0.05), speed_skew=1.5)
    one, two = (play(build(name), fleet=fleet, steps=8, evaluate_every=4) for _ in range(2))
    assert torch.equal(one.params, two.params)
    assert (one.points, one.events, one.result.seconds) == (two.points, two.events, two.result.seconds)
    assert [meter.sent for meter in one.meters] == [meter.sent for meter in two.meters]


@pytest.mark.long
@pytest.mark.parametrize("name", PRESETS)
def test_it_learns(name):
    found = play(build(name), steps=2 * STEPS, evaluate_every=8)
    start = play(build("none"), steps=1)
    assert found.result.loss < start.result.loss * 0.9
    assert found.points[-1].tokens >= 4 * 2 * STEPS * 8 * 0.9


@pytest.mark.parametrize("name", PRESETS)
def test_one_trainer_alone_trains(name):
    found = play(build(name, trainers=1), trainers=1, steps=STEPS)
    assert found.meters[0].steps == STEPS
    assert math.isfinite(found.result.loss)


@pytest.mark.parametrize("name", PRESETS)
def test_a_crash_a_leaver_and_a_joiner_do_not_stop_it(name):
    fleet = change(change(make_fleet(4), 1, crashes_at=3.5), 2, leaves_at=4.5)
    found = play(build(name), fleet=add(fleet, joins_at=6.0), steps=STEPS)
    told = " ".join(found.events)
    assert "trainer 1 crashed at step 3" in told
    if build(name).rules:
        assert "trainer 2 left" in told and found.meters[2].steps < STEPS
        assert "trainer 4 joined" in told
    assert found.meters[0].steps >= STEPS and math.isfinite(found.result.loss)
    assert not found.run.rounds and not found.run.queue
    waiting = [pending for actor in found.run.actors if actor.replica for pending in actor.replica.pending]
    assert waiting == [] or has_syncer(build(name))
