"""A small run that every training test shares: four inner steps in two segments on a generated text."""

from __future__ import annotations

import msgspec
import torch

from paceline.base.hashing import hash_parts
from paceline.training.claim import build_initial_state, compute_start_state
from paceline.training.data import compute_data_hash
from paceline.training.plan import RoundAssignment, TrainingPlan, derive_assignments
from paceline.training.run import RoundWork, train_round

torch.set_num_threads(1)

WORDS = ("the", "rider", "turns", "a", "long", "wheel", "and", "sings", "of", "rain", "while", "hills", "fall", "by")
TRAINERS = (b"a" * 20, b"b" * 20, b"c" * 20)
RUN = b"run-000000000001"
BEACON = b"\7" * 32


def make_corpus(size: int = 40_000) -> bytes:
    picks = (
        WORDS[byte % len(WORDS)]
        for block in range(size // 64)
        for byte in hash_parts("text", bytes([block % 256, block // 256]))
    )
    return " ".join(picks).encode()[:size]


CORPUS = make_corpus()
PLAN = TrainingPlan(
    data_hash=compute_data_hash(CORPUS),
    seed=b"\1" * 32,
    rounds=2,
    inner_steps=4,
    segment_steps=2,
    batch_size=4,
    warmup_steps=2,
)
BASE = build_initial_state(PLAN)
START = compute_start_state(PLAN, BASE, None)


def replan(**changes: object) -> TrainingPlan:
    return msgspec.structs.replace(PLAN, **changes)


def assign(trainer: bytes = TRAINERS[0], round_index: int = 0) -> RoundAssignment:
    return derive_assignments(BEACON, RUN, round_index, TRAINERS)[trainer]


def train(trainer: bytes = TRAINERS[0]) -> RoundWork:
    return train_round(PLAN, assign(trainer), CORPUS, START, BASE)
