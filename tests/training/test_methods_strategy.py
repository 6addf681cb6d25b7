"""Every combination of parts that means nothing is refused, and every setting that is unknown or of another type."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from paceline.base.errors import ConfigError
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.masks import RandomMask
from paceline.training.codecs.quantisers import Half, Raw
from paceline.training.codecs.top_k import TopK
from paceline.training.methods.combine import Krum, Median, TrimmedMean
from paceline.training.methods.exchanges import AllGather, AllReduce, Neighbours, Pairs, Syncer
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import DelayedNesterov, Nesterov, PairwiseNesterov, Sgd
from paceline.training.methods.parts import build_combine, build_exchange, build_outer
from paceline.training.methods.presets.registry import PRESETS, build_strategy, describe_presets
from paceline.training.methods.strategy import Mixer, Rule, Strategy, Subject, Trigger

GRADIENT, DELTA, PARAMS, BOTH = Subject.GRADIENT, Subject.DELTA, Subject.PARAMS, Subject.DELTA_AND_ANCHOR
LOCAL = LocalOptimizer()
SHAPED = Dct(TopK(2, 9), 3)
LATE = Trigger(interval=4, delay=4)

REFUSED = [
    ({"subject": DELTA}, "outer: a delta needs"),
    ({"subject": BOTH}, "outer: a delta needs"),
    ({"subject": GRADIENT, "outer": Sgd()}, "outer: gradient takes none"),
    ({"subject": PARAMS, "outer": Sgd()}, "outer: params takes none"),
    ({"subject": DELTA, "outer": PairwiseNesterov()}, "outer: pairwise needs"),
    ({"subject": BOTH, "outer": Nesterov()}, "outer: pairwise needs"),
    ({"subject": PARAMS, "sign": True}, "sign: only for gradients"),
    ({"subject": DELTA, "outer": Sgd(), "sign": True}, "sign: only for gradients"),
    ({"subject": GRADIENT, "look_ahead": True, "trigger": Trigger(delay=1)}, "look_ahead: needs gradients, a sign"),
    ({"subject": GRADIENT, "look_ahead": True, "sign": True}, "look_ahead: needs gradients, a sign and delay 1"),
    ({"subject": GRADIENT, "trigger": Trigger(delay=1)}, "delay: a delayed gradient needs look_ahead"),
    ({"subject": GRADIENT, "trigger": Trigger(interval=2)}, "interval: gradients are sent every step"),
    ({"subject": PARAMS, "mixer": Mixer(keep=0.5)}, "mixer: only for deltas"),
    ({"subject": GRADIENT, "mixer": Mixer(keep=0.5)}, "mixer: only for deltas"),
    ({"subject": DELTA, "outer": Sgd(), "mixer": Mixer(eager=True)}, "mixer.eager: needs delay equal to interval"),
    (
        {"subject": DELTA, "outer": Sgd(), "mixer": Mixer(eager=True), "trigger": LATE, "exchange": Pairs()},
        "mixer.eager: needs all_reduce or all_gather",
    ),
    ({"subject": DELTA, "outer": Sgd(), "mask": RandomMask(0.5)}, "mask: only for params"),
    ({"subject": GRADIENT, "mask": RandomMask(0.5)}, "mask: only for params"),
    ({"subject": GRADIENT, "codec": SHAPED}, "codec: this one needs whole messages"),
    (
        {"subject": PARAMS, "codec": SHAPED, "exchange": AllGather(), "mask": RandomMask(0.5)},
        "codec: this one needs shapes",
    ),
    ({"subject": GRADIENT, "feedback": 0.9}, "feedback: needs whole messages"),
    (
        {"subject": PARAMS, "feedback": 0.9, "exchange": AllGather(), "mask": RandomMask(0.5)},
        "feedback: excludes a mask",
    ),
    ({"subject": PARAMS, "feedback": 0.9, "exchange": AllGather()}, "feedback: only for gradients and deltas"),
    ({"subject": GRADIENT, "feedback": 0.0, "exchange": AllGather()}, "feedback: needs a decay"),
    ({"subject": GRADIENT, "feedback": 1.1, "exchange": AllGather()}, "feedback: needs a decay"),
    ({"subject": GRADIENT, "combine": Krum()}, "combine: this one needs all_gather"),
    ({"subject": DELTA, "outer": Sgd(), "exchange": Syncer(), "combine": Median()}, "combine: a syncer takes the mean"),
    ({"subject": GRADIENT, "combine": TrimmedMean(), "by_tokens": True}, "by_tokens: the combine rule counts"),
    ({"subject": DELTA, "outer": Sgd(), "exchange": Syncer(), "by_tokens": True}, "by_tokens: belongs to the exchange"),
    ({"subject": PARAMS, "exchange": Syncer()}, "exchange: a syncer takes deltas"),
    (
        {"subject": DELTA, "outer": Sgd(), "mixer": Mixer(eager=True), "trigger": LATE, "combine": Median()},
        "mixer.eager: takes the plain mean",
    ),
    (
        {"subject": DELTA, "outer": Sgd(), "mixer": Mixer(eager=True), "trigger": LATE, "by_tokens": True},
        "mixer.eager: takes the plain mean",
    ),
    ({"subject": GRADIENT, "exchange": Pairs()}, "exchange: gradients need everyone"),
    ({"subject": DELTA, "outer": Sgd(), "exchange": Neighbours()}, "exchange: one anchor needs everyone"),
    ({"subject": DELTA, "outer": DelayedNesterov(every=2)}, "outer: a delayed momentum needs a syncer"),
    ({"subject": BOTH, "outer": PairwiseNesterov(), "feedback": 0.5, "exchange": Pairs()}, "feedback: only for"),
    ({"subject": PARAMS, "trigger": Trigger(by_speed=True)}, "by_speed: needs a syncer"),
]


@pytest.mark.parametrize(("settings", "problem"), REFUSED)
def test_invalid_combinations_are_refused_by_name(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        Rule(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"subject": GRADIENT, "codec": SHAPED, "feedback": 1.0, "exchange": AllGather(), "sign": True},
        {"subject": GRADIENT, "look_ahead": True, "sign": True, "trigger": Trigger(delay=1)},
        {"subject": DELTA, "outer": Sgd(), "mixer": Mixer(eager=True), "trigger": LATE, "exchange": AllGather()},
        {"subject": DELTA, "outer": Sgd(), "combine": Krum(), "exchange": AllGather()},
        {"subject": DELTA, "outer": Sgd(), "combine": TrimmedMean()},
        {"subject": BOTH, "outer": PairwiseNesterov(), "exchange": Pairs()},
        {"subject": PARAMS, "mask": RandomMask(1.0), "codec": Half(), "trigger": Trigger(interval=5, delay=5)},
        {"subject": DELTA, "outer": DelayedNesterov(every=3), "exchange": Syncer(), "trigger": Trigger(by_speed=True)},
    ],
)
def test_combinations_at_the_border_stand(settings):
    rule = Rule(**settings)
    assert dataclasses.replace(rule) == rule


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"interval": 0}, "interval 0"),
        ({"fragments": 0}, "fragments 0"),
        ({"delay": -1}, "delay -1"),
        ({"interval": 10, "fragments": 3}, "must be a multiple of fragments 3"),
        ({"interval": 10, "fragments": 2, "delay": 6}, "delay 6: must not exceed 5 steps"),
        ({"interval": 10, "delay": 11}, "delay 11: must not exceed 10 steps"),
        ({"interval": 10, "fragments": 2, "by_speed": True}, "by_speed excludes"),
        ({"interval": 10, "delay": 1, "by_speed": True}, "by_speed excludes"),
    ],
)
def test_invalid_triggers_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        Trigger(**settings)


def test_fragments_take_turns_within_an_interval():
    trigger = Trigger(interval=6, fragments=3, delay=2)
    assert [trigger.get_due_fragment(step) for step in range(8)] == [None, None, 0, None, 1, None, 2, None]
    assert [trigger.get_round(step) for step in (2, 4, 6, 8)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"keep": -0.1}, "mixer.keep"), ({"keep": 1.0}, "mixer.keep"), ({"keep": 0.5, "eager": True}, "mixer.eager")],
)
def test_invalid_mixers_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        Mixer(**settings)


def make_delta(**settings):
    return Rule(subject=DELTA, outer=Sgd(), **settings)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ((Rule(subject=GRADIENT), Rule(subject=PARAMS)), "a gradient rule"),
        (
            (
                Rule(subject=PARAMS, trigger=Trigger(interval=6, fragments=2)),
                Rule(subject=PARAMS, trigger=Trigger(interval=6, fragments=3)),
            ),
            "different fragments",
        ),
        ((make_delta(exchange=Syncer()), Rule(subject=PARAMS)), "a syncer excludes"),
        ((make_delta(), make_delta(trigger=Trigger(interval=4))), "two rules move an anchor"),
    ],
)
def test_invalid_strategies_are_refused(rules, problem):
    with pytest.raises(ConfigError, match=problem):
        Strategy(name="test", local=LOCAL, rules=rules)


# Settings by name


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("dilico", {}, r"strategy.name 'dilico': choose one of async-diloco, ddp"),
        ("diloco", {"H": 30}, r"strategy.H: unknown setting of diloco; its settings: inner_steps, outer_rate"),
        ("diloco", {"inner_steps": 2.5}, r"strategy.inner_steps: must be a whole number, got 2.5"),
        ("diloco", {"inner_steps": True}, r"strategy.inner_steps: must be a whole number, got True"),
        ("diloco", {"outer_rate": "0.7"}, r"strategy.outer_rate: must be a number, got '0.7'"),
        ("overlapped-diloco", {"eager": 1}, r"strategy.eager: must be true or false, got 1"),
        ("diloco", {"inner_steps": 0}, r"strategy diloco \(inner_steps 0, .*interval 0"),
        (
            "streaming-diloco",
            {"inner_steps": 30, "fragments": 4},
            r"inner_steps 30, fragments 4.*multiple of fragments",
        ),
        ("streaming-diloco", {"delay": 26}, r"delay 26: must not exceed 25 steps"),
        ("streaming-diloco", {"keep": 1.0}, r"mixer.keep 1.0"),
        ("sparta", {"share": 0.0}, r"share: must be more than 0"),
        ("sparta", {"delay": 2}, r"delay 2: must not exceed 1 steps"),
        ("sparseloco", {"k": 65, "chunk": 64}, r"k: must be a whole number between 1 and 64"),
        ("decoupled-diloco", {"quorum_share": 0.0}, r"quorum_share 0.0"),
        ("decoupled-diloco", {"fragments": 2}, r"by_speed excludes fragments"),
        ("async-diloco", {"activation": 0.5}, r"outer.activation 0.5: must be within 0 and 1 / every"),
        ("gossip-expander", {"degree": 3}, r"exchange.degree 3: must be even"),
        ("ddp", {"outer": {"name": "sgd"}}, r"outer: gradient takes none"),
        ("none", {"codec": {"name": "int8"}}, r"codec: nothing is sent"),
        ("diloco", {"codec": "int8"}, r"strategy.codec: must be a table with a name"),
        ("diloco", {"codec": {"name": "int9"}}, r"strategy.codec.name: must be one of raw, half, int8"),
        ("diloco", {"codec": {"name": "int8", "bits": 8}}, r"strategy.codec.bits: unknown setting of int8"),
        ("diloco", {"combine": {"name": "best"}}, r"strategy.combine.name: must be one of mean, norm_clip"),
        ("diloco", {"combine": {"name": "krum"}}, r"combine: this one needs all_gather"),
        ("diloco", {"outer": {"name": "nesterov", "rate": "x"}}, r"strategy.outer.rate: must be a number"),
        ("diloco", {"outer": {"name": "sgd"}, "outer_rate": 0.7}, r"strategy.outer_rate: excluded by strategy.outer"),
        ("sparseloco", {"codec": {"name": "sign"}, "k": 3}, r"strategy.k: excluded by strategy.codec"),
        ("gossip-ring", {"exchange": {"name": "star"}}, r"strategy.exchange.name: must be one of all_reduce"),
        ("demo", {"exchange": {"name": "all_reduce"}}, r"codec: this one needs whole messages"),
    ],
)
def test_invalid_settings_are_refused_by_name(name, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        build_strategy(name, settings, trainers=4)


def test_invalid_number_of_trainers_is_refused():
    with pytest.raises(ConfigError, match="at least one trainer"):
        build_strategy("diloco", {}, trainers=0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_stands_with_its_defaults_and_its_papers_optimiser(name):
    preset = PRESETS[name]
    made = build_strategy(name, {}, trainers=4)
    assert made.name == name
    assert made.local == preset.local
    assert made == build_strategy(name, preset.defaults, trainers=4)
    other = LocalOptimizer(name="sgd", rate=0.1)
    assert build_strategy(name, {}, trainers=4, local=other).local == other


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_every_preset_changes_the_strategy(name):
    changes = {
        int: lambda value: value // 2 or value + 1,
        float: lambda value: value / 2 or 0.125,
        bool: lambda value: not value,
    }
    plain = build_strategy(name, {}, trainers=4)
    for key, value in PRESETS[name].defaults.items():
        changed = value * 2 if key == "inner_steps" else changes[type(value)](value)
        beside = {"by_speed": False} if key == "fragments" and "by_speed" in PRESETS[name].defaults else {}
        assert build_strategy(name, {key: changed, **beside}, trainers=4) != plain, key


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_part_replaces_are_settings_of_the_preset(name):
    preset = PRESETS[name]
    assert {key for keys in preset.replaces.values() for key in keys} <= set(preset.defaults)


def test_parts_replace_those_of_the_rule_that_moves_the_anchor():
    settings = {"codec": {"name": "half"}, "outer": {"name": "adam", "rate": 1}}
    made = build_strategy("sparta-diloco", settings, trainers=2)
    mask, rounds = made.rules
    assert (mask.codec, rounds.codec) == (Raw(), Half())
    assert rounds.outer == build_outer({"name": "adam", "rate": 1.0})
    with_exchange = build_strategy("gossip-ring", {"exchange": {"name": "all_gather", "relay": True}}, trainers=2)
    assert with_exchange.rules[0].exchange == AllGather(relay=True)


def test_descriptions_name_purpose_source_and_defaults():
    found = {entry.name: entry for entry in describe_presets()}
    assert list(found) == sorted(PRESETS)
    assert all(entry.purpose.endswith(".") and len(entry.source) > 10 for entry in found.values())
    assert found["diloco"].source == "DiLoCo, arXiv 2311.08105."
    assert found["diloco"].defaults == {"inner_steps": 500, "outer_rate": 0.7, "outer_momentum": 0.9}


@pytest.mark.parametrize(
    ("build", "table", "problem"),
    [
        (build_combine, {}, "combine.name: must be one of"),
        (build_combine, [], "combine: must be a table"),
        (build_combine, {"name": "mean", "share": 0.1}, "combine.share: unknown setting of mean; its settings: none"),
        (build_combine, {"name": "trimmed_mean", "share": 0.5}, "combine.share 0.5"),
        (build_combine, {"name": "krum", "liars": 1.0}, "combine.liars: must be a whole number"),
        (build_outer, {"name": "delayed_nesterov"}, "outer.every: delayed_nesterov needs this setting"),
        (build_outer, {"name": "adam", "kind": "yogi"}, "outer.kind: unknown setting of adam"),
        (build_outer, {"name": "nesterov", "rate": 0}, "outer.rate 0"),
        (build_exchange, {"name": "neighbours", "graph": "star"}, "exchange.graph 'star'"),
        (build_exchange, {"name": "neighbours", "graph": 1}, "exchange.graph: must be a text"),
        (build_exchange, {"name": "all_gather", "relay": "yes"}, "exchange.relay: must be true or false"),
        (build_exchange, {"name": "syncer", "quorum": -1}, "exchange.quorum -1"),
        (build_exchange, {"name": "neighbours", "mutual": True}, "exchange.mutual: unknown setting"),
    ],
)
def test_invalid_parts_are_refused(build, table, problem):
    with pytest.raises(ConfigError, match=problem):
        build(table)


def test_parts_are_built_by_name():
    assert build_combine({"name": "trimmed_mean", "share": 0.25}) == TrimmedMean(share=0.25)
    assert build_outer({"name": "nesterov", "rate": 1}) == Nesterov(rate=1.0)
    assert build_exchange({"name": "all_reduce"}) == AllReduce()


# Inner optimisers and models


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "LBFGS"}, "optimizer.name 'LBFGS'"),
        ({"name": "nn"}, "optimizer.name 'nn'"),
        ({"name": "Optimizer2"}, "optimizer.name"),
        ({"rate": 0.0}, "optimizer.rate 0.0"),
        ({"rate": float("inf")}, "optimizer.rate inf"),
        ({"clip": 0.0}, "optimizer.clip 0.0"),
        ({"settings": {"beta": 0.9}}, "optimizer.settings.beta: adamw has no such setting"),
        ({"settings": {"lr": 0.9}}, "optimizer.settings.lr"),
    ],
)
def test_invalid_inner_optimisers_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        LocalOptimizer(**settings)


def test_invalid_values_of_an_inner_optimiser_are_refused_when_it_is_built():
    local = LocalOptimizer(settings={"betas": [0.9, 1.5]})
    with pytest.raises(ConfigError, match=r"optimizer\.settings: adamw refuses them"):
        local.build([nn.Parameter(torch.zeros(2))])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"kind": "step"}, "schedule.kind"), ({"warmup_steps": -1}, "warmup"), ({"final_share": 1.1}, "final_share")],
)
def test_invalid_schedules_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        Schedule(**settings)


class Odd(nn.Module):
    """A module whose forward gives back what the test says."""

    def __init__(self, give):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.give = give

    def forward(self, batch):
        return self.give(self.weight, batch)


@pytest.mark.parametrize(
    ("give", "found"),
    [
        (lambda weight, batch: weight * batch, r"shape \(3,\)"),
        (lambda weight, batch: (weight.sum(), batch), "tuple"),
        (lambda weight, batch: float(weight.detach().sum()), "float"),
        (lambda weight, batch: batch.sum(), r"shape \(\)"),
    ],
)
def test_invalid_a_loss_that_is_no_scalar_is_refused(give, found):
    with pytest.raises(ConfigError, match=f"the model's forward returned {found}.*must return the loss, one number"):
        FlatModel(Odd(give)).compute_gradient(torch.ones(3))


def test_a_loss_of_one_number_in_any_shape_trains():
    flat = FlatModel(Odd(lambda weight, batch: (weight * batch).sum().view(1, 1)))
    assert flat.compute_gradient(torch.full((3,), 2.0)) == 6.0
    assert flat.gradient.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("module", "fragments", "problem"),
    [
        (nn.Identity, 1, "no parameters"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64)), 1, "mixes"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 1, "running statistics"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 3, "fragments 3: the model has 2 layers"),
        (lambda: nn.Linear(2, 2), 2, "fragments 2: the model has 0 layers"),
    ],
)
def test_invalid_models_are_refused(module, fragments, problem):
    with pytest.raises(ConfigError, match=problem):
        FlatModel(module(), fragments)
