"""What checking an answer costs beside making it, as measured. It knows no rates and no ledger, so that every simulator may read it."""

from __future__ import annotations

from collections.abc import Mapping

CHECK_COSTS: Mapping[int, float] = {1: 1.03, 16: 0.18, 64: 0.08, 256: 0.075}
"""Compute of one check over that of the answer, by tokens of the answer, prompt of 64. Source: bench/inference_overhead.py."""
MEAN_CHECK_COST = sum(tokens * cost for tokens, cost in CHECK_COSTS.items()) / sum(CHECK_COSTS)
"""A twelfth: the mean of these, by tokens of the answer."""
