"""The search: one race_nonce after another, in batches, until told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.models.counter_rng import CounterKey
from paceline.models.integer_transformer import IntegerTransformer
from paceline.race.plan import (
    RaceChallenge,
    derive_inputs,
    derive_model,
    derive_node_key,
    derive_permutations,
    derive_target,
)


@dataclass(frozen=True)
class SearchResult:
    """Hits in increasing order, and how many nonces were tried."""

    hits: list[int]
    nonces_tried: int


def search(
    challenge: RaceChallenge,
    public_key: bytes,
    *,
    stop: Callable[[], bool],
    first_nonce: int = 0,
    device: str = "cpu",
) -> SearchResult:
    """Try nonces from `first_nonce` on until `stop` says so; it is asked before every batch."""
    engine = SearchEngine(challenge, public_key, device=device)
    hits: list[int] = []
    tried = 0
    while not stop():
        nonces = torch.arange(challenge.preset.batch, dtype=torch.int64, device=device) + first_nonce + tried
        found = engine.find_hits(nonces)
        hits += nonces[found].tolist()
        tried += challenge.preset.batch
    return SearchResult(hits, tried)


class SearchEngine:
    """Model, target and keys of one node in one Race, ready to try batches."""

    def __init__(self, challenge: RaceChallenge, public_key: bytes, *, device: str = "cpu") -> None:
        self._challenge = challenge
        self._model: IntegerTransformer = derive_model(challenge, device=device)
        self._key: CounterKey = derive_node_key(challenge, public_key)
        self._target = torch.tensor(derive_target(challenge), dtype=torch.int32, device=device)

    def find_hits(self, race_nonces: Tensor) -> Tensor:
        """Which nonces are hits.

        Shapes: (N,) int64 -> (N,) bool.
        """
        outputs = self._model.forward(derive_inputs(self._challenge, self._key, race_nonces)).to(torch.int32)
        order = derive_permutations(self._challenge, self._key, race_nonces)
        permuted = outputs.gather(1, order).to(torch.int64)
        products = (permuted * self._target).sum(1)
        squares = (permuted * permuted).sum(1)
        near = products * products * 1_000_000 >= squares * self._challenge.preset.threshold_ppm
        return near & (products > 0)
