"""Messages on runs that somebody else than their opener pays for: reserved budgets, more coins, what is published at the end.

What was voted on is named by its proposal's number and never told again. It refuses to know balances and phases. Invariant: every
list and number is bounded where it is decoded.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.codec import Record
from paceline.protocol.fields import Amount, Digest, Id

_Number = Annotated[int, Meta(ge=1, le=2**32 - 1)]


class OpenExperiment(Record, frozen=True, tag="open-experiment"):
    """Open the run of an experiment that passed; its plan, data, budget and pay are those that were voted on."""

    experiment: _Number
    """Number of the proposal that reserved the budget."""
    state_hash: Digest
    rounds: Annotated[int, Meta(ge=1, le=10_000)]
    trainers: Annotated[int, Meta(ge=1, le=64)]
    segments: Annotated[int, Meta(ge=1, le=1_000)]


class FundRun(Record, frozen=True, tag="fund-run"):
    """Add coins to the budget of a run that its opener does not pay for."""

    run: Id
    amount: Amount


FundingMessage = OpenExperiment | FundRun
