"""Outer optimisers against torch's own and against the papers' formulas; every one is pure."""

from __future__ import annotations

import math

import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.training.methods.outer_optimizers import (
    AdaptiveOuter,
    DelayedNesterov,
    Nesterov,
    PairwiseNesterov,
    Sgd,
)

ROUNDS = 5
GENERATOR = torch.Generator().manual_seed(3)
START = torch.randn(9, generator=GENERATOR, dtype=torch.float64)
UPDATES = [torch.randn(9, generator=GENERATOR, dtype=torch.float64) for _ in range(ROUNDS)]


def walk(outer, updates=UPDATES):
    anchor, state = START, outer.make_state(START)
    for update in updates:
        kept = [tensor.clone() for tensor in (anchor, update, *state)]
        moved, after = outer.apply(anchor, state, update)
        assert all(torch.equal(one, two) for one, two in zip(kept, (anchor, update, *state), strict=True))
        anchor, state = moved, after
    return anchor


def walk_torch(**settings):
    param = torch.nn.Parameter(START.clone())
    optimizer = torch.optim.SGD([param], **settings)
    for update in UPDATES:
        param.grad = update.clone()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_is_torchs_heavy_ball(momentum):
    torch.testing.assert_close(walk(Sgd(rate=0.3, momentum=momentum)), walk_torch(lr=0.3, momentum=momentum))


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_nesterov_is_torchs(momentum):
    expected = walk_torch(lr=0.7, momentum=momentum, nesterov=True)
    torch.testing.assert_close(walk(Nesterov(rate=0.7, momentum=momentum)), expected)


def test_nesterov_without_momentum_is_sgd():
    assert torch.equal(walk(Nesterov(rate=0.7, momentum=0.0)), walk(Sgd(rate=0.7)))


@pytest.mark.parametrize("kind", ["adam", "yogi", "adagrad"])
def test_adaptive_steps_follow_the_paper_number_by_number(kind):
    rate, first_decay, second_decay, floor = 0.1, 0.8, 0.9, 1e-2
    found = walk(AdaptiveOuter(kind=kind, rate=rate, first_decay=first_decay, second_decay=second_decay, floor=floor))
    for place in range(len(START)):
        anchor, first, second = START[place].item(), 0.0, floor**2
        for update in UPDATES:
            value = update[place].item()
            first = first_decay * first + (1 - first_decay) * value
            square = value * value
            if kind == "adagrad":
                second += square
            elif kind == "adam":
                second = second_decay * second + (1 - second_decay) * square
            else:
                second -= (1 - second_decay) * square * math.copysign(1.0, second - square)
            anchor -= rate * first / (math.sqrt(second) + floor)
        assert found[place].item() == pytest.approx(anchor, abs=1e-12)


def test_yogis_second_moment_never_turns_negative():
    outer = AdaptiveOuter(kind="yogi", second_decay=0.0)
    anchor, state = START, outer.make_state(START)
    for update in UPDATES * 4:
        anchor, state = outer.apply(anchor, state, update)
        assert bool((state[1] >= 0).all())
    assert bool(torch.isfinite(anchor).all())


def test_delayed_nesterov_of_one_is_nesterov():
    found = walk(DelayedNesterov(every=1, rate=0.7, momentum=0.9))
    torch.testing.assert_close(found, walk(Nesterov(rate=0.7, momentum=0.9)))


@pytest.mark.parametrize("activation", [0.0, 0.25, 0.5])
def test_delayed_nesterov_applies_the_whole_momentum_once_in_every_turn(activation):
    """Over one turn from rest: the mean update, and of the new momentum what each arrival was due."""
    every, rate, momentum = 2, 0.7, 0.9
    found = walk(DelayedNesterov(every=every, rate=rate, momentum=momentum, activation=activation), UPDATES[:2])
    mean = (UPDATES[0] + UPDATES[1]) / 2
    last_share = 1 - every * activation + activation
    torch.testing.assert_close(found, START - rate * (mean + last_share * momentum * mean))
    longer = walk(DelayedNesterov(every=every, rate=rate, momentum=momentum, activation=activation), UPDATES[:3])
    torch.testing.assert_close(longer, found - rate * (UPDATES[2] / 2 + activation * momentum * mean))


def test_pairs_with_one_anchor_step_like_a_heavy_ball():
    outer, anchor, ball = PairwiseNesterov(rate=0.7, momentum=0.5, pull=0.7), START, START
    state, momentum = outer.make_state(START), torch.zeros_like(START)
    for update in UPDATES:
        anchor, state = outer.apply(anchor, state, torch.cat((update, anchor)))
        momentum = 0.5 * momentum + 0.7 * update
        ball = ball - momentum
        torch.testing.assert_close(anchor, ball)


def test_the_pull_brings_anchors_together():
    outer, zero = PairwiseNesterov(rate=0.7, momentum=0.0, pull=0.7), torch.zeros(3)
    anchor, _ = outer.apply(torch.ones(3), outer.make_state(zero), torch.cat((zero, torch.full((3,), 0.5))))
    torch.testing.assert_close(anchor, torch.full((3,), 0.65))


def test_products_and_sums_round_separately():
    """A fused multiply-add would round once, which differs in the last digit of some numbers."""
    anchor, update = (torch.rand(1000, generator=GENERATOR) for _ in range(2))
    found = Sgd(rate=0.7).apply(anchor, (), update)[0]
    product = update * 0.7
    assert torch.equal(found, anchor - product)
    fused = (anchor.double() - update.double() * torch.tensor(0.7).double()).float()
    assert not torch.equal(found, fused)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Sgd(rate=0.0), "outer.rate"),
        (lambda: Sgd(momentum=1.0), "outer.momentum"),
        (lambda: Nesterov(rate=-1.0), "outer.rate"),
        (lambda: Nesterov(momentum=-0.1), "outer.momentum"),
        (lambda: AdaptiveOuter(kind="adamax"), "outer.kind"),
        (lambda: AdaptiveOuter(floor=0.0), "outer.floor"),
        (lambda: AdaptiveOuter(second_decay=1.0), "outer.second_decay"),
        (lambda: DelayedNesterov(every=0), "outer.every"),
        (lambda: DelayedNesterov(every=4, activation=0.3), "outer.activation"),
        (lambda: PairwiseNesterov(pull=-0.1), "outer.pull"),
        (lambda: Sgd(rate=float("nan")), "outer.rate"),
        (lambda: Nesterov(rate=float("inf")), "outer.rate"),
    ],
)
def test_invalid_settings_are_refused(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
