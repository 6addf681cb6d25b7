"""Batches out of a row of tokens: who draws which sequences at which step, and the held-out tail that nobody draws from.

It refuses to know text, models and losses. Invariant: a batch follows from (seed, trainer, step, settings, tokens) through
integers alone, so any step can be had at any time, on any machine; no training sequence reaches the held-out tail.
"""

from __future__ import annotations

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.base.integers import MAX_UINT64
from paceline.training.data import compute_held_out_bytes
from paceline.training.datasets.tokenise import Ids

EVALUATION_TOKENS = 16_384
_EVALUATION_BATCH_TOKENS = 4_096
_WORD_BYTES = 8
_ALWAYS = 1 << 32
"""Draws compare 32 bits with the heterogeneity in this unit, so 0 never and 1 always takes the trainer's own slice."""


class TokenBatches:
    """Training batches of every trainer and the fixed evaluation windows of a run.

    `heterogeneity` is the share of sequences that a trainer draws from its own slice, the rest comes from everything:
    0 gives all trainers the same distribution (IID), 1 gives them disjoint text. Slices are stretches of equal length.
    Errors: ConfigError naming the setting that does not fit the tokens.
    """

    def __init__(
        self,
        tokens: Ids,
        *,
        sequence_tokens: int,
        batch_size: int,
        seed: int,
        trainers: int = 1,
        heterogeneity: float = 0.0,
    ) -> None:
        self._tokens = np.asarray(tokens)
        self.sequence_tokens = sequence_tokens
        self.batch_size = batch_size
        self.seed = seed
        self.trainers = trainers
        self.heterogeneity = heterogeneity
        _require_ranges(self)
        # The same share as for bytes: a tenth, at most 65,536 of them.
        self.training_tokens = len(self._tokens) - compute_held_out_bytes(len(self._tokens))
        _require_room(self, len(self._tokens) - self.training_tokens)
        self._own_share = int(heterogeneity * _ALWAYS)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one trainer predicts in one inner step."""
        return self.batch_size * self.sequence_tokens

    @property
    def slice_tokens(self) -> int:
        """Length of each trainer's own slice."""
        return self.training_tokens // self.trainers

    def get_batch(self, trainer: int, step: int) -> Tensor:
        """The sequences of one inner step.

        Shapes: (batch_size, sequence_tokens + 1) int64.
        Errors: ConfigError for a trainer that the run does not have.
        """
        return self._cut(self.compute_offsets(trainer, step))

    def compute_offsets(self, trainer: int, step: int) -> list[int]:
        """Where the sequences of one inner step begin.

        Units: tokens; the bias of each draw is below the number of choices / 2**64.
        """
        if not 0 <= trainer < self.trainers:
            raise ConfigError(f"trainer is {trainer}, but trainers is {self.trainers}; raise trainers")
        places = (number.to_bytes(_WORD_BYTES, "little") for number in (self.seed, trainer, step))
        digest = blake3(hash_parts("token-batches", *places)).digest(length=2 * _WORD_BYTES * self.batch_size)
        own, places_within = np.frombuffer(digest, dtype="<u8").reshape(2, self.batch_size).tolist()
        own_choices = self.slice_tokens - self.sequence_tokens
        all_choices = self.training_tokens - self.sequence_tokens
        return [
            trainer * self.slice_tokens + place % own_choices
            if chance % _ALWAYS < self._own_share
            else place % all_choices
            for chance, place in zip(own, places_within, strict=True)
        ]

    def get_evaluation_batches(self) -> list[Tensor]:
        """Windows spread evenly over the held-out tail: the same for every seed, trainer and step.

        Shapes: each (windows, sequence_tokens + 1) int64; all of one size, so the mean of their losses is the loss.
        """
        length = self.sequence_tokens + 1
        tail = len(self._tokens) - self.training_tokens
        count = max(1, min(tail // length, EVALUATION_TOKENS // self.sequence_tokens))
        group = min(count, max(1, _EVALUATION_BATCH_TOKENS // self.sequence_tokens))
        count -= count % group
        spread = tail // count
        starts = [self.training_tokens + window * spread for window in range(count)]
        return [self._cut(starts[first : first + group]) for first in range(0, count, group)]

    def _cut(self, starts: list[int]) -> Tensor:
        grid = np.asarray(starts)[:, None] + np.arange(self.sequence_tokens + 1)
        return torch.from_numpy(self._tokens[grid].astype(np.int64))


def _require_ranges(batches: TokenBatches) -> None:
    for name in ("sequence_tokens", "batch_size", "trainers"):
        if getattr(batches, name) < 1:
            raise ConfigError(f"{name} is {getattr(batches, name)}; use at least 1")
    if not 0 <= batches.seed <= MAX_UINT64:
        raise ConfigError(f"seed is {batches.seed}; use a number from 0 to {MAX_UINT64}")
    if not 0 <= batches.heterogeneity <= 1:
        raise ConfigError(f"heterogeneity is {batches.heterogeneity}; use 0 (all draw from everything) to 1 (disjoint)")


def _require_room(batches: TokenBatches, tail: int) -> None:
    length = batches.sequence_tokens + 1
    if tail < length:
        raise ConfigError(
            f"sequence_tokens is {batches.sequence_tokens}: the held-out tail of {tail} tokens cannot hold one sequence "
            "and the token after it; use shorter sequences or more text"
        )
    if batches.training_tokens < batches.batch_size * length:
        raise ConfigError(
            f"batch_size is {batches.batch_size}: {batches.training_tokens} tokens to train on are less than one batch "
            f"of {batches.batch_size * length}; use more text, a smaller batch or shorter sequences"
        )
    if batches.heterogeneity > 0 and batches.slice_tokens < length:
        raise ConfigError(
            f"trainers is {batches.trainers}: a slice of {batches.slice_tokens} tokens for each cannot hold a sequence "
            f"of {length}; use more text, fewer trainers, shorter sequences or heterogeneity = 0"
        )
