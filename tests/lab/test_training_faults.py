"""Trainers that fail: what they send is withdrawn or lost, the round goes on, and they come back where they can."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from method_setup import SGD, add, change, get_batch, make_run, measure_gap, play

from paceline.lab.training import rounds
from paceline.lab.training.fleet import Machine, make_fleet
from paceline.lab.training.rounds import SyncerState
from paceline.training.codecs.codec import make_flat_layout
from paceline.training.codecs.masks import RandomMask
from paceline.training.codecs.quantisers import Raw
from paceline.training.methods.exchanges import Syncer
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import Sgd
from paceline.training.methods.presets.registry import build_strategy
from paceline.training.methods.replica import Outcome, Outgoing
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger

ADAM = LocalOptimizer(name="adam", rate=0.01, schedule=Schedule(kind="constant"))
SHORT = {"inner_steps": 4}
CASES = {
    "ddp": {},
    "demo": {"k": 2, "block": 3},
    "distro": {"k": 2, "block": 3},
    "diloco": SHORT,
    "opendiloco-int8": SHORT,
    "overlapped-diloco": SHORT,
    "streaming-diloco": SHORT | {"fragments": 2},
    "sparseloco": SHORT | {"k": 4, "chunk": 64},
    "noloco": SHORT,
    "async-diloco": SHORT,
    "decoupled-diloco": SHORT,
    "sparta-diloco": SHORT | {"share": 0.3},
    "sparta": {"share": 0.3},
    "gossip-ring": SHORT,
}
"""Methods after whose rounds a trainer has finite parameters again; settings."""


def build(name, settings=None, trainers=4, local=ADAM):
    return build_strategy(name, CASES.get(name, {}) if settings is None else settings, trainers=trainers, local=local)


def poison(trainer, steps):
    """Batches of which one trainer's give NaN at some steps, through the model and not in the message alone."""

    def get(who, step):
        batch = get_batch(who, step)
        return batch * math.nan if who == trainer and step in steps else batch

    return get


def list_replicas(found):
    return [actor.replica.desk.keep() for actor in found.run.actors if actor.replica is not None]


# NaN


@pytest.mark.parametrize("name", CASES)
def test_a_trainer_of_nan_is_withdrawn_and_comes_back(name):
    found = play(build(name), steps=16, batches=poison(1, {2}))
    told = [event for event in found.events if "trainer 1 withdrew" in event]
    assert told and all("NaN or infinity" in event for event in told)
    assert not [event for event in found.events if "withdrew" in event and event not in told]
    assert all(bool(torch.isfinite(vector).all()) for vector in list_replicas(found))
    assert math.isfinite(found.result.loss)
    moments = [state for actor in found.run.actors for state in actor.replica.optimizer.state.values()]
    assert all(bool(torch.isfinite(value).all()) for state in moments for value in state.values())


def test_an_evaluation_before_the_next_round_leaves_a_trainer_of_nan_out():
    found = play(build("diloco"), steps=16, batches=poison(1, {1}), evaluate_every=3)
    told = [event for event in found.events if "leaves out" in event]
    assert len(told) == 1 and "step 3 leaves out 1 trainers" in told[0]
    assert all(math.isfinite(point.loss) for point in found.points)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_step_of_nan_is_not_taken_where_no_round_replaces_all_numbers(share):
    """The trainer stands still for that step; a withdrawal alone would leave it NaN for good."""
    found = play(build("sparta", {"share": share, "interval": 2}), steps=16, batches=poison(1, {2, 5}))
    told = [event for event in found.events if "withdrew" in event]
    assert len(told) == 1 and "trainer 1" in told[0] and "step was not taken" in told[0], (
        "step 2 was followed by a good one"
    )
    assert not any("leaves out" in event for event in found.events)
    assert all(bool(torch.isfinite(vector).all()) for vector in list_replicas(found))
    others = play(build("sparta", {"share": share, "interval": 2}), steps=16)
    assert abs(found.result.loss / others.result.loss - 1) < 0.1


def test_data_parallel_goes_on_with_the_gradients_that_are_finite():
    """The shared moments stay: dropping them would set everyone back."""
    found = play(build("ddp"), steps=8, batches=poison(1, {2}))
    module_run, flat = make_run(Strategy(name="plain", local=ADAM), trainers=1, steps=8)
    del module_run
    optimizer = torch.optim.Adam(flat.params, lr=ADAM.rate)
    for step in range(8):
        trainers = [trainer for trainer in range(4) if (trainer, step) != (1, 2)]
        total = torch.zeros_like(flat.gradient)
        for trainer in trainers:
            flat.compute_gradient(get_batch(trainer, step))
            total += flat.gradient
        flat.gradient.copy_(total / len(trainers))
        optimizer.step()
    torch.testing.assert_close(found.result.params, flat.values, rtol=0, atol=1e-9)


def test_everyone_withdrawn_leaves_the_anchor_and_starts_anew():
    batches = {(trainer, 2) for trainer in range(3)}
    found = play(
        build("diloco", trainers=3),
        trainers=3,
        steps=8,
        batches=lambda who, step: get_batch(who, step) * (math.nan if (who, step) in batches else 1),
    )
    assert sum("withdrew" in event for event in found.events) == 3
    assert math.isfinite(found.result.loss)


def test_noloco_alone_with_nan_goes_back_to_its_anchor():
    found = play(build("noloco", trainers=1), trainers=1, steps=8, batches=poison(0, {1}))
    assert bool(torch.isfinite(found.result.params).all())


def test_a_value_beyond_fp16_is_withdrawn_with_the_reason():
    fleet = change(make_fleet(4), 2, lie="scale", lie_scale=1e12)
    found = play(build("opendiloco-fp16", SHORT), fleet=fleet, steps=8)
    assert any("trainer 2 withdrew" in event and "exceeds the range of fp16" in event for event in found.events)
    honest = play(build("opendiloco-fp16", SHORT), steps=8)
    assert abs(found.result.loss / honest.result.loss - 1) < 0.1


# Lies


@pytest.mark.parametrize("combine", ["trimmed_mean", "median", "geometric_median", "krum"])
def test_robust_rules_hold_a_flipping_trainer_off(combine):
    fleet = change(make_fleet(5), 4, lie="flip", lie_scale=4.0)
    settings = SHORT | {"outer_rate": 1.0, "outer_momentum": 0.0, "exchange": {"name": "all_gather"}}
    honest = play(build("diloco", settings, local=SGD), trainers=4, steps=24).result.loss
    steered = play(build("diloco", settings, local=SGD), fleet=fleet, steps=24).result.loss
    table = {"name": combine, "share": 0.2} if combine == "trimmed_mean" else {"name": combine}
    held = play(build("diloco", settings | {"combine": table}, local=SGD), fleet=fleet, steps=24).result.loss
    assert abs(held - honest) < 0.5 * abs(steered - honest)


def test_a_clipped_norm_bounds_a_trainer_that_shouts():
    fleet = change(make_fleet(5), 4, lie="flip", lie_scale=1e6)
    settings = SHORT | {"exchange": {"name": "all_gather"}, "outer_rate": 1.0, "outer_momentum": 0.0}
    held = play(build("diloco", settings | {"combine": {"name": "norm_clip"}}, local=SGD), fleet=fleet, steps=8)
    assert held.result.loss < 10 < play(build("diloco", settings, local=SGD), fleet=fleet, steps=8).result.loss


# Lost and late


@pytest.mark.parametrize("name", ["ddp", "demo", "diloco", "sparseloco", "opendiloco-int8", "streaming-diloco"])
def test_lost_messages_leave_anchors_equal(name):
    fleet = make_fleet(4, Machine(lost_share=0.4))
    found = play(build(name), fleet=fleet, steps=16)
    reference = found.run.actors[0].replica
    for actor in found.run.actors[1:]:
        for mine, others in zip(reference.anchors, actor.replica.anchors, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(mine, others, strict=True))
    assert math.isfinite(found.result.loss)
    assert measure_gap(found, play(build(name), steps=16)) > 0


def test_the_memory_of_a_lost_message_holds_what_the_codec_left_out_and_no_more():
    """A lost message is lost: its trainer goes on as if it had been heard, like one of any other method."""
    residuals = []
    for lost_share in (0.0, 0.999):
        fleet = change(make_fleet(3), 1, lost_share=lost_share)
        found = play(build("sparseloco", trainers=3), fleet=fleet, steps=4)
        residuals.append(found.run.actors[1].replica.residuals[0][0])
    assert torch.equal(*residuals)


def test_a_lost_message_still_counts_for_its_own_trainer_where_not_everyone_hears_the_same():
    """Alone with its own numbers a trainer stays where it is; without them it would take over its neighbours'."""
    fleet = make_fleet(3, Machine(lost_share=0.999))
    found = play(build("gossip-ring", {"inner_steps": 1}, trainers=3, local=SGD), fleet=fleet, steps=1)
    alone = play(build("none", {}, trainers=3, local=SGD), trainers=3, steps=1)
    for one, other in zip(list_replicas(found), list_replicas(alone), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["diloco", "sparseloco", "ddp", "streaming-diloco"])
def test_rounds_go_on_without_a_straggler_who_catches_up(name):
    fleet = change(make_fleet(4), 3, step_seconds=2.5)
    found = play(build(name), fleet=fleet, steps=12, timeout_seconds=1.0)
    assert any("went on without trainers 3" in event for event in found.events)
    assert found.meters[3].steps == 12
    anchors = [actor.replica.anchors for actor in found.run.actors]
    flat = [torch.cat([part for parts in own for part in parts] or [torch.zeros(1)]) for own in anchors]
    assert all(torch.equal(vector, flat[0]) for vector in flat)
    patient = play(build(name), fleet=fleet, steps=12)
    assert patient.events == () and patient.points[-1].loss != found.points[-1].loss


# Joiners


def watch_joins(strategy, fleet, steps):
    """Play event by event and compare each joiner with its donor as it comes in."""
    run, _ = make_run(strategy, fleet=fleet, steps=steps)
    seen = []
    plain = run._join

    def watch(actor, donor):
        plain(actor, donor)
        one, other = actor.replica, donor.replica
        assert torch.equal(one.desk.keep(), other.desk.keep())
        for mine, theirs in zip(one.anchors, other.anchors, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert one.step == other.step and len(one.pending) == len(other.pending)
        seen.append(actor.trainer)

    run._join = watch
    assert run.play()
    return run, seen


@pytest.mark.parametrize(
    "name", [*(name for name in CASES if "async" not in name and "decoupled" not in name), "sparta"]
)
def test_a_joiner_starts_equal_to_its_donor(name):
    run, seen = watch_joins(build(name), add(make_fleet(3), joins_at=2.5), 16)
    assert seen == [3]
    assert run.actors[3].replica.step == 16
    if name in {"ddp", "demo", "distro", "diloco", "sparseloco", "opendiloco-int8"}:
        first, *others = [actor.replica.desk.keep() for actor in run.actors]
        assert all(torch.equal(vector, first) for vector in others)


@pytest.mark.parametrize("name", ["noloco", "gossip-ring", "sparta"])
def test_a_joiner_enters_where_trainers_run_at_different_speeds(name):
    run, seen = watch_joins(
        build(name, {} if name == "sparta" else SHORT), add(make_fleet(4, speed_skew=3), joins_at=6.3), 24
    )
    assert seen == [4]
    assert run.actors[4].replica.step == 24


# Weights


def test_a_synchroniser_weighs_pushes_by_their_tokens():
    layout = make_flat_layout(2, torch.float64)
    rule = Rule(subject=Subject.DELTA, exchange=Syncer(quorum=2, by_tokens=True), outer=Sgd(rate=1.0))
    state = SyncerState(rule, torch.zeros(2, dtype=torch.float64), ())
    updates = {0: (torch.tensor([1.0, 0.0]), 30.0), 1: (torch.tensor([0.0, 1.0]), 10.0)}
    for trainer, (update, tokens) in updates.items():
        payload = Raw().encode(update.double(), layout)
        state.waiting[trainer] = Outgoing(
            round_key=(0, 0, 0), trainer=trainer, layout=layout, seed=b"", weight=tokens, payload=payload
        )
    outcome, pushed = state.merge()
    assert sorted(pushed) == [0, 1]
    torch.testing.assert_close(outcome.anchor, torch.tensor([-0.75, -0.25], dtype=torch.float64))


def test_slower_trainers_push_fewer_tokens_and_weigh_less():
    settings = {"inner_steps": 8, "quorum_share": 1.0}
    fleet = make_fleet(2, speed_skew=4)
    weighted = play(build("decoupled-diloco", settings, trainers=2, local=SGD), fleet=fleet, steps=20)
    plain = play(
        build("decoupled-diloco", settings | {"by_tokens": False}, trainers=2, local=SGD), fleet=fleet, steps=20
    )
    assert [meter.steps for meter in weighted.meters] == [32, 8]
    assert measure_gap(weighted, plain) > 1e-6


def test_every_rule_and_fragment_counts_its_own_tokens():
    """A rule that sends each step must not shrink the weight of one that sends every eight, nor a fragment another's."""
    sparse = Rule(subject=Subject.PARAMS, mask=RandomMask(0.1))
    streamed = Rule(
        subject=Subject.DELTA, trigger=Trigger(interval=8, fragments=2), outer=Sgd(rate=1.0), by_tokens=True
    )
    run, _ = make_run(Strategy(name="both", local=SGD, rules=(sparse, streamed)), trainers=2, steps=16)
    weights, plain = [], run._take_message

    def watch(message, time):
        weights.append((message.round_key[0], message.weight))
        plain(message, time)

    run._take_message = watch
    assert run.play()
    assert {weight for rule, weight in weights if rule == 0} == {1.0}
    assert [weight for rule, weight in weights if rule == 1] == [32.0] * 2 + [64.0] * 6


def test_a_joiner_that_begins_within_an_interval_weighs_what_it_did():
    rule = Rule(subject=Subject.DELTA, trigger=Trigger(interval=4), outer=Sgd(rate=1.0), by_tokens=True)
    found = play(Strategy(name="weighed", local=SGD, rules=(rule,)), steps=8)
    equal = play(build("fedavg", SHORT, local=SGD), steps=8)
    assert measure_gap(found, equal) < 1e-12


# Memory


@pytest.mark.parametrize("name", ["ddp", "distro", "streaming-diloco", "overlapped-diloco", "noloco"])
def test_outcomes_do_not_outlive_their_rounds(name, monkeypatch):
    made = []

    def watch(*args, **settings):
        outcome = Outcome(*args, **settings)
        made.append(weakref.ref(outcome))
        return outcome

    monkeypatch.setattr(rounds, "Outcome", watch)
    run, _ = make_run(build(name), trainers=4, steps=24)
    for tokens in range(0, 24 * 4 * 8, 64):
        run.play(tokens)
        assert sum(found() is not None for found in made) <= 3
    assert len(made) >= 4
