"""Frauds that a node can be told to play, so that everybody can watch them being caught. Off unless set in `node.toml`."""

from __future__ import annotations

from paceline.base.draws import generate_words
from paceline.base.hashing import hash_parts

RACE_PADDING = "race-padding"
CHEAP_MODEL = "cheap-model"
UNTRAINED_UPDATE = "untrained-update"

PADDING_PPM = 500_000
"""Invented hits per true hit."""


def pad_hits(hits: list[int], tried: range, secret: bytes) -> list[int]:
    """True hits of the tried nonces and as many invented ones among them as the padding says."""
    words = generate_words(hash_parts("invented-hits", secret, tried.start.to_bytes(8, "little")))
    invented = [tried[next(words) % len(tried)] for _ in range(len(hits) * PADDING_PPM // 1_000_000)]
    return sorted({*hits, *invented})
