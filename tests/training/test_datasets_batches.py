"""Batches: rebuilt from integers, inside their slices, never in the held-out tail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import ConfigError
from paceline.base.integers import MAX_UINT64
from paceline.training.datasets.batches import TokenBatches

TOKENS = np.arange(50_000, dtype=np.uint16)
TAIL = 5_000
"""A token is its own place, so a batch shows where it was cut."""


def make(count=50_000, **changes):
    settings = {"sequence_tokens": 16, "batch_size": 8, "seed": 5, "trainers": 4, "heterogeneity": 0.0}
    return TokenBatches(TOKENS[:count], **settings | changes)


def draw_places(batches, trainer, steps=200):
    return np.array([batches.compute_offsets(trainer, step) for step in range(steps)]).ravel()


def test_a_batch_is_a_stretch_of_tokens_for_each_sequence():
    batch = make().get_batch(2, 9)
    assert batch.shape == (8, 17)
    assert batch.dtype == torch.int64
    assert bool((batch.diff(dim=1) == 1).all())
    assert make().tokens_per_step == 128


def test_any_step_can_be_had_at_any_time():
    first, second = make(), make()
    kept = [first.get_batch(1, step) for step in range(4)]
    assert torch.equal(second.get_batch(1, 3), kept[3])
    others = [first.get_batch(2, 3), first.get_batch(1, 2), make(seed=6).get_batch(1, 3)]
    assert not any(torch.equal(kept[3], other) for other in others)


def test_offsets_are_pinned():
    assert make().compute_offsets(1, 7)[:4] == [22503, 39177, 35814, 19871]
    assert make(heterogeneity=0.5).compute_offsets(1, 7)[:4] == [16607, 14981, 18066, 19871]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_tokens_may_have_any_integer_type(dtype):
    tokens = (TOKENS % 200).astype(dtype)
    batches = TokenBatches(tokens, sequence_tokens=16, batch_size=8, seed=5)
    assert torch.equal(batches.get_batch(0, 0), make(trainers=1).get_batch(0, 0) % 200)


@given(
    count=st.integers(1_700, 50_000),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    trainer=st.integers(0, 3),
    step=st.integers(0, 2**63),
)
def test_no_sequence_reaches_the_held_out_tail(count, share, trainer, step):
    batches = make(count, heterogeneity=share)
    held_out = min(window.min() for window in batches.get_evaluation_batches())
    assert batches.get_batch(trainer, step).max() < batches.training_tokens <= held_out


def test_iid_trainers_draw_from_everything():
    for trainer in range(4):
        counts = np.bincount(draw_places(make(), trainer) // 11_250, minlength=4)
        assert counts.min() > 330  # of 1,600; 400 expected, standard deviation 17


def test_disjoint_trainers_never_share_a_token():
    batches = make(heterogeneity=1.0)
    for trainer in range(4):
        drawn = np.concatenate([batches.get_batch(trainer, step).flatten() for step in range(100)])
        assert set(drawn // batches.slice_tokens) == {trainer}


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_between_them_a_share_comes_from_the_own_slice(share):
    own = np.mean(draw_places(make(heterogeneity=share), 2) // 11_250 == 2)
    assert own == pytest.approx(share + (1 - share) / 4, abs=0.04)


def test_evaluation_windows_lie_in_the_tail_and_are_the_same_for_all():
    windows = make().get_evaluation_batches()
    assert {tuple(batch.shape) for batch in windows} == {(256, 17)}
    joined = torch.cat(windows)
    assert joined.min() == 45_000
    assert joined.max() < 50_000
    assert len(joined.unique()) == joined.numel()
    others = make(seed=9, trainers=2, batch_size=3).get_evaluation_batches()
    assert all(torch.equal(batch, other) for batch, other in zip(windows, others, strict=True))


def test_evaluation_is_bounded():
    tokens = np.zeros(2_000_000, dtype=np.uint8)
    batches = TokenBatches(tokens, sequence_tokens=64, batch_size=1, seed=0)
    assert batches.training_tokens == 2_000_000 - 65_536
    assert [tuple(batch.shape) for batch in batches.get_evaluation_batches()] == [(64, 65)] * 4


def test_the_smallest_dataset_has_one_choice():
    tail = make(170, sequence_tokens=16, batch_size=9, trainers=1)
    assert tail.training_tokens == 153
    assert [tuple(batch.shape) for batch in tail.get_evaluation_batches()] == [(1, 17)]
    slices = make(170, batch_size=1, trainers=9, heterogeneity=1.0)
    assert [slices.compute_offsets(trainer, 0) for trainer in range(9)] == [[trainer * 17] for trainer in range(9)]
    assert make(170, batch_size=1, trainers=1000).get_batch(999, 0).shape == (1, 17)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 169}, "sequence_tokens is 16: the held-out tail of 16 tokens cannot hold one sequence"),
        ({"count": 170, "batch_size": 10}, "batch_size is 10: 153 tokens to train on are less than one batch of 170"),
        (
            {"count": 170, "trainers": 10, "heterogeneity": 0.1},
            "trainers is 10: a slice of 15 tokens for each cannot hold a sequence of 17.*heterogeneity = 0",
        ),
        ({"sequence_tokens": 0}, "sequence_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"trainers": 0}, "trainers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": MAX_UINT64 + 1}, "seed is"),
        ({"heterogeneity": 1.01}, r"heterogeneity is 1\.01"),
        ({"heterogeneity": -0.01}, r"heterogeneity is -0\.01"),
        ({"heterogeneity": float("nan")}, "heterogeneity is nan"),
    ],
)
def test_invalid_settings_are_named_with_what_to_do(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**{"batch_size": 1, **changes})


def test_invalid_trainer():
    assert make().get_batch(3, 0).shape == (8, 17)
    for trainer in (-1, 4):
        with pytest.raises(ConfigError, match=f"trainer is {trainer}, but trainers is 4"):
            make().get_batch(trainer, 0)
