"""A node shows that it holds what is published: a hash over chance and every byte, which nobody knows who has not the bytes.

It refuses to know who was drawn and how blobs travel. Invariant: the answer says nothing of the bytes to who lacks them, and one
seed's answer is of no use for another.
Source: seed 001, Appendix K; decision 042.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.hashing import hash_parts


def compute_publication_answer(seed: bytes, blobs: Sequence[bytes]) -> bytes:
    """The hash that every node gets which holds these blobs, in this order."""
    return hash_parts("publication-answer", seed, *(hash_parts("publication-part", seed, blob) for blob in blobs))
