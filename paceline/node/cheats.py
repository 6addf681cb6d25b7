"""Frauds that a node can be told to play, so that everybody can watch them being caught. Off unless set in `node.toml`."""

from __future__ import annotations

from paceline.base.draws import generate_words
from paceline.base.hashing import hash_parts

RACE_PADDING = "race-padding"
CHEAP_MODEL = "cheap-model"
UNTRAINED_UPDATE = "untrained-update"

PADDING_PPM = 500_000
"""Invented hits per true hit."""


def pad_hits(hits: list[int], secret: bytes) -> list[int]:
    """True hits and as many invented ones as the padding says."""
    words = generate_words(hash_parts("invented-hits", secret))
    bound = max(hits, default=0) + 1_000_000
    invented = [next(words) % bound for _ in range(len(hits) * PADDING_PPM // 1_000_000 + 1)]
    return sorted({*hits, *invented})
