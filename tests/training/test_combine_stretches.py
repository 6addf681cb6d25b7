"""Rules that sort coordinates work stretch by stretch, and the mean takes updates as they are made."""

from __future__ import annotations

import pytest
import torch

from paceline.training.methods import combine
from paceline.training.methods.combine import Mean, Median, TrimmedMean


def draw_updates(count, size):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(size, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("size", [0, 1, combine._STRETCH, combine._STRETCH + 1])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_stretches_give_the_bits_of_the_whole(size, count):
    updates = draw_updates(count, size)
    ordered = torch.stack(updates).sort(dim=0).values
    middle = ordered[count // 2] if count % 2 else (ordered[count // 2 - 1] + ordered[count // 2]) / 2
    assert torch.equal(Median().apply(iter(updates), [1.0] * count), middle)
    cut = count // 5
    total = ordered[cut].clone()
    for row in ordered[cut + 1 : count - cut]:
        total += row
    assert torch.equal(TrimmedMean(share=0.2).apply(iter(updates), [1.0] * count), total / (count - 2 * cut))


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 5.0]])
def test_the_mean_holds_one_update_at_a_time(weights):
    held = []

    def make():
        for update in draw_updates(3, 10):
            held.append(update)
            yield update
            assert held.pop() is update

    whole = Mean().apply(draw_updates(3, 10), weights)
    assert torch.equal(Mean().apply(make(), weights), whole)
    assert held == []


def test_the_mean_leaves_the_updates_as_they_are():
    updates = draw_updates(3, 10)
    copies = [update.clone() for update in updates]
    Mean().apply(updates, [1.0] * 3)
    assert all(torch.equal(one, other) for one, other in zip(updates, copies, strict=True))
