"""From hits to a claim: every hit is recomputed with the plain twin, then bound by a count-and-range tree.

One wrong opened hit voids a whole claim, so what a faulty machine or kernel found must be dropped before the root is
committed. Hits come in slices, because a claim is replaced while the search goes on. It knows nothing of samples,
ledgers or disks.
Invariant: a claim built here holds each hit once, and an earlier claim of a search is the front part of a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paceline.base.integers import MAX_UINT64
from paceline.base.range_tree import RangeTree
from paceline.race.check import BATCH, PlainTwin, check_nonces
from paceline.race.plan import RaceChallenge
from paceline.race.run import Searcher


class SlicedSearch:
    """One node's search through one Race, slice by slice; it can begin where an interrupted one ended."""

    def __init__(self, challenge: RaceChallenge, public_key: bytes, first_nonce: int = 0, device: str = "cpu") -> None:
        self.next_nonce = first_nonce
        self._batch = challenge.preset.batch
        self._searcher = Searcher(challenge, public_key, device)
        self._twin = PlainTwin(challenge, public_key)

    def run_slice(self, stop: Callable[[], bool], pause: Callable[[], None] = lambda: None) -> dict[int, bytes]:
        """Hits among the next nonces, confirmed by the plain twin, strictly increasing, each with its output's hash.

        Effects: calls `stop` before each batch of the search, and `pause` before each batch of either path, on the
        calling thread; `pause` may take as long as it likes.
        """
        found: list[int] = []
        while self.next_nonce <= MAX_UINT64 and not stop():
            pause()
            batch = range(self.next_nonce, min(self.next_nonce + self._batch, MAX_UINT64 + 1))
            found += [number for number, hit in zip(batch, self._searcher.test_batch(batch), strict=True) if hit]
            self.next_nonce = batch.stop
        return self._confirm(found, pause)

    def _confirm(self, found: Sequence[int], pause: Callable[[], None]) -> dict[int, bytes]:
        right: dict[int, bytes] = {}
        for start in range(0, len(found), BATCH):
            pause()
            batch = found[start : start + BATCH]
            examined = zip(batch, self._twin.examine_batch(batch), strict=True)
            right.update((number, output) for number, (hit, output) in examined if hit)
        return right


def recheck_hits(challenge: RaceChallenge, public_key: bytes, hits: Sequence[int]) -> list[int]:
    """The hits that the plain twin confirms, in the given order: a machine's fault costs hits and not the claim."""
    answers = check_nonces(challenge, public_key, hits)
    return [number for number, right in zip(hits, answers, strict=True) if right]


def build_claim(hits: Sequence[int]) -> RangeTree:
    """The tree whose root and count are committed. Errors: InvalidClaim unless hits strictly increase within 64 bits."""
    return RangeTree(hits)
