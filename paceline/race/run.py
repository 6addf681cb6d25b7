"""Searches for hits, one `race_nonce` after another, until told to stop.

The fast path: batches on a device, nothing but hits comes back. It knows no clock; who calls says when to stop and may
slip pauses between batches, so that users are served meanwhile.
Invariant: hits are strictly increasing, and every nonce from the first to the last was tried exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.integers import MAX_UINT64, PPM
from paceline.models.counter_rng import build_streams
from paceline.models.integer_transformer import IntegerTransformer
from paceline.race.plan import (
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)

CACHED_ROWS = 1024


@dataclass(frozen=True)
class SearchResult:
    """What one search found. `hits` strictly increase."""

    hits: list[int]
    nonces_tried: int


class Searcher:
    """One node's fast path through one Race on one device."""

    def __init__(
        self,
        challenge: RaceChallenge,
        public_key: bytes,
        device: torch.device | str = "cpu",
        *,
        fuse: bool | None = None,
    ) -> None:
        self._entry = derive_entry(challenge, public_key)
        params = derive_params(challenge, device)
        self._model = IntegerTransformer(challenge.preset.get_shape(), params, device, fuse=fuse)
        self._target = derive_target(challenge).to(device).float()
        self._threshold_ppm = challenge.preset.threshold_ppm
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self._device

    @property
    def kernel_name(self) -> str:
        """How products are made here."""
        return self._model.kernel_name

    def test_batch(self, race_nonces: Sequence[int]) -> list[bool]:
        """For each nonce, whether it is a hit."""
        outputs = self.compute_outputs(race_nonces).float()
        permuted = outputs.gather(1, draw_permutations(self._entry, build_streams(race_nonces, self._device)))
        flags: list[bool] = self._judge_distance(permuted).tolist()
        return flags

    @torch.inference_mode()
    def compute_outputs(self, race_nonces: Sequence[int]) -> Tensor:
        """Output vectors before permutation. Shapes: N nonces -> (N, width) int8."""
        inputs = draw_inputs(self._entry, build_streams(race_nonces, self._device))
        return torch.cat([self._model.forward(part) for part in cut_batch(inputs)])

    def prepare_products(self, inputs: Tensor) -> Callable[[], None]:
        """The products of one pass alone, for measuring."""
        return self._model.prepare_products(inputs)

    def _judge_distance(self, permuted: Tensor) -> Tensor:
        """Nearer to the target than the radius, in exact integers (see `plan`)."""
        product = (permuted @ self._target).long()
        length = permuted.square().sum(dim=-1, dtype=torch.float64).long()
        return (product > 0) & (product * product * PPM > self._threshold_ppm * length)


def cut_batch(inputs: Tensor) -> tuple[Tensor, ...]:
    """Drawing costs least in large batches; a CPU's products and what follows them while their sums stay in its cache."""
    return torch.split(inputs, max(1, CACHED_ROWS // inputs.shape[1])) if inputs.device.type == "cpu" else (inputs,)


def search(
    challenge: RaceChallenge,
    public_key: bytes,
    *,
    stop: Callable[[], bool],
    first_nonce: int = 0,
    pause: Callable[[], None] | None = None,
    device: torch.device | str = "cpu",
) -> SearchResult:
    """Try one `race_nonce` after another, batch by batch, until `stop()` is true or 64 bits are used up.

    Effects: calls `stop` before and `pause` after each batch, on the calling thread.
    """
    searcher = Searcher(challenge, public_key, device)
    hits: list[int] = []
    nonce = first_nonce
    while nonce <= MAX_UINT64 and not stop():
        batch = range(nonce, min(nonce + challenge.preset.batch, MAX_UINT64 + 1))
        hits += [number for number, hit in zip(batch, searcher.test_batch(batch), strict=True) if hit]
        nonce = batch.stop
        if pause is not None:
            pause()
    return SearchResult(hits, nonce - first_nonce)
