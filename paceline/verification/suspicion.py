"""Suspicion that is valid at any time: a bet against a node's honesty, one stake for each checked answer.

The chance of an answer under honesty becomes an e-value, whose mean over honest answers is at most one; the product over a
node's answers then exceeds 1 / LEVEL with a chance of at most LEVEL, whenever one looks (Ville's inequality). It refuses to
know scores and models. Invariant: no answer alone makes a node suspect.
Source: decision 024.
"""

from __future__ import annotations

import math

from paceline.verification.calibration import BILLION

LEVEL = 1e-6
"""Chance that an honest node is ever suspected, given that the calibration holds."""
SUSPECT_MICRONATS = round(-math.log(LEVEL) * 1e6)
STAKE = 0.02
"""Share of the wealth that each answer puts at risk: the best for a node that cheats in two of a hundred answers."""
HIGHEST_E = 10_000.0
# Chances at which a bet pays, with its share. Rare chances pay most: a node that cheats seldom shows in few answers.
BETS = ((0.0001, 0.15), (0.0006, 0.55), (0.0015, 0.15), (0.006, 0.1), (0.03, 0.05))
STATES_SHARE = 0.7
"""The rest is bet on the tokens, which only a cheat of the sampler moves alone."""


def compute_e_value(chance_ppb: int) -> float:
    """What the bets pay for an answer of this chance under honesty; at most one in the mean."""
    chance = chance_ppb / BILLION
    return min(HIGHEST_E, sum(share / level for level, share in BETS if chance <= level))


def compute_log_e_micro(states_ppb: int, tokens_ppb: int) -> int:
    """Logarithm of one answer's factor. Units: micronats. An average of both tests, as they depend on each other."""
    both = STATES_SHARE * compute_e_value(states_ppb) + (1.0 - STATES_SHARE) * compute_e_value(tokens_ppb)
    return math.floor(1e6 * math.log1p(STAKE * (both - 1.0)))


def is_suspect(log_e_micro_sum: int) -> bool:
    """True when the answers of a node together are too unlikely for an honest one."""
    return log_e_micro_sum >= SUSPECT_MICRONATS
