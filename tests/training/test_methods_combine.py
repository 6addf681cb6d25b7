"""Combine rules: what each is by definition, what no liar can do to it, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import ConfigError
from paceline.training.methods.combine import GeometricMedian, Krum, Mean, Median, NormClip, TrimmedMean

ALL = (Mean(), NormClip(), TrimmedMean(), Median(), GeometricMedian(), Krum())
ROBUST = (TrimmedMean(share=0.3), Median(), GeometricMedian(), Krum(liars=2))


def draw(count, size=40, seed=0, spread=0.1):
    """Honest updates: one direction and a little noise each."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(size, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, size, generator=generator, dtype=torch.float64) * spread
    return list(common + noise), common


def combine(rule, updates, weights=None):
    return rule.apply(updates, weights or [1.0] * len(updates))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_updates_combine_to_themselves_whatever_their_number(rule, count):
    update = draw(1)[0][0]
    torch.testing.assert_close(combine(rule, [update] * count), update, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
def test_the_arguments_stay_and_the_result_is_new(rule):
    updates, _ = draw(5)
    kept = [update.clone() for update in updates]
    found = combine(rule, updates)
    found.zero_()
    assert all(torch.equal(update, copy) for update, copy in zip(updates, kept, strict=True))
    assert torch.equal(combine(rule, updates), combine(rule, kept))


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("lie", ["flip", "huge", "zero", "far"])
def test_two_liars_of_nine_cannot_steer(rule, lie):
    updates, common = draw(9)
    lies = {"flip": -10 * common, "huge": common * 1e12, "zero": common * 0, "far": torch.full_like(common, 1e6)}
    updates[2] = updates[7] = lies[lie]
    honest = torch.stack([update for place, update in enumerate(updates) if place not in {2, 7}])
    limit = (honest - honest.mean(0)).norm(dim=1).max() * 1.5
    assert float((combine(rule, updates) - honest.mean(0)).norm()) <= float(limit)
    if lie != "zero":
        assert float((combine(Mean(), updates) - honest.mean(0)).norm()) > float(limit)


def test_the_clipped_mean_is_steered_by_a_liars_share_at_most():
    updates, common = draw(5)
    updates[0] = -1e9 * common
    found = combine(NormClip(factor=1.0), updates)
    assert float((found - torch.stack(updates[1:]).mean(0)).norm()) <= 2 / 5 * 1.2 * float(common.norm())


@given(st.integers(1, 9), st.integers(0, 1000))
def test_means_match_their_definitions(count, seed):
    updates, _ = draw(count, size=7, seed=seed)
    table = torch.stack(updates)
    weights = [float(place + 1) for place in range(count)]
    expected = (table * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0) / sum(weights)
    torch.testing.assert_close(combine(Mean(), updates, weights), expected)
    torch.testing.assert_close(combine(TrimmedMean(share=0.0), updates), combine(Mean(), updates))
    cut = count // 4
    trimmed = table.sort(0).values[cut : count - cut].mean(0)
    torch.testing.assert_close(combine(TrimmedMean(share=0.25), updates), trimmed)
    torch.testing.assert_close(combine(Median(), updates), table.quantile(0.5, dim=0, interpolation="midpoint"))


def test_the_order_of_liars_does_not_matter_to_robust_rules():
    updates, _ = draw(6)
    for rule in (TrimmedMean(share=0.2), Median()):
        assert torch.allclose(combine(rule, updates), combine(rule, updates[::-1]), rtol=0, atol=1e-15)


def test_trimming_cuts_whole_numbers_of_updates_and_float_shares_do_not_lose_one():
    updates = [torch.tensor([float(value)]) for value in (0, 1, 2, 3, 100)]
    assert combine(TrimmedMean(share=0.2), updates).item() == 2.0
    assert combine(TrimmedMean(share=0.19), updates).item() == pytest.approx(21.2)
    ten = [torch.tensor([float(value)]) for value in range(9)] + [torch.tensor([1e9])]
    assert combine(TrimmedMean(share=0.3), ten).item() == 4.5


def test_the_geometric_median_has_the_least_sum_of_distances():
    updates, _ = draw(7, size=3, spread=1.0)
    found = combine(GeometricMedian(iterations=200), updates)
    generator = torch.Generator().manual_seed(1)

    def measure(point):
        return float(sum((update - point).norm() for update in updates))

    for _ in range(50):
        other = found + torch.randn(3, generator=generator, dtype=torch.float64) * 0.05
        assert measure(other) >= measure(found) - 1e-9


def test_the_geometric_median_may_lie_on_an_update():
    updates = [torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.tensor([9.0, 0.0])]
    assert float(combine(GeometricMedian(iterations=50), updates).norm()) < 1e-3


def test_krum_takes_the_update_with_the_nearest_neighbours():
    updates = [torch.tensor([value]) for value in (0.0, 1.0, 1.1, 1.3, 9.0)]
    assert combine(Krum(liars=1), updates).item() == pytest.approx(1.1)
    assert combine(Krum(liars=1, keep=3), updates).item() == pytest.approx((1.0 + 1.1 + 1.3) / 3)
    assert combine(Krum(liars=1, keep=99), updates).item() == pytest.approx(12.4 / 5)


def test_krum_with_too_few_updates_is_the_median():
    updates = [torch.tensor([value]) for value in (0.0, 1.0, 9.0, 10.0)]
    assert combine(Krum(liars=1), updates).item() == 5.0
    assert combine(Krum(liars=0), updates[:3]).item() == pytest.approx(0.0)


def test_the_norm_clip_scales_to_the_median_norm():
    updates = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.tensor([300.0, 400.0])]
    expected = (torch.tensor([3.0, 4.0]) * 2 + torch.tensor([0.0, 1.0])) / 3
    torch.testing.assert_close(combine(NormClip(), updates), expected)
    zeros = [torch.zeros(2)] * 2 + [torch.ones(2)]
    assert torch.equal(combine(NormClip(), zeros), torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: NormClip(factor=0.0), "combine.factor"),
        (lambda: TrimmedMean(share=0.5), "combine.share"),
        (lambda: TrimmedMean(share=-0.1), "combine.share"),
        (lambda: GeometricMedian(iterations=0), "combine.iterations"),
        (lambda: GeometricMedian(smoothing=0.0), "combine.smoothing"),
        (lambda: Krum(liars=-1), "combine.liars"),
        (lambda: Krum(keep=0), "combine.keep"),
    ],
)
def test_invalid_settings_are_refused(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
