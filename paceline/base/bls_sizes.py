"""Lengths of points and proofs on BLS12-381 in bytes, for those who carry them and compute nothing with them.

A module of its own because messages are also read where the curve's library is not installed: in the process of a model server.
"""

from __future__ import annotations

SCALAR_BYTES = 32
G1_BYTES = 48
G2_BYTES = 96
PROOF_BYTES = 2 * SCALAR_BYTES
