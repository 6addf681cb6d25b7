"""Messages on runs that somebody else than their opener pays for: reserved budgets, more coins, what is published at the end.

What was voted on is named by its proposal's number and never told again. It refuses to know balances and phases. Invariant: every
list and number is bounded where it is decoded.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.hashing import hash_parts
from paceline.protocol.codec import Record, encode
from paceline.protocol.fields import AddressBytes, Amount, Digest, Id, Name, Outcome
from paceline.protocol.proposals import MAX_UPDATE_UNITS

MAX_FEE_PPM = 200_000
"""A fifth of fees: hosts earn most of what is paid, or nobody serves the model."""
OPEN_LICENCES = (
    "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0",
    "lgpl-3.0", "mit", "mpl-2.0", "odc-by-1.0", "openmdw-1.0", "unlicense",
)  # fmt: skip
"""Under which whoever likes may use, change and pass on what a paid run made; in lower case, as their names have it."""

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


class OpenSharedRun(Record, frozen=True, tag="open-shared-run"):
    """Open a run that its participants pay for: coins are gathered first, shares of later fees are theirs at its close."""

    plan: Annotated[bytes, Meta(max_length=4096)]
    data_hash: Digest
    state_hash: Digest
    rounds: Annotated[int, Meta(ge=1, le=10_000)]
    trainers: Annotated[int, Meta(ge=1, le=64)]
    segments: Annotated[int, Meta(ge=1, le=1_000)]
    micro_units: Annotated[int, Meta(ge=1, le=MAX_UPDATE_UNITS)]
    """Millionths of a unit of compute of one update."""
    goal: Amount
    """Coins with which it begins."""
    fee_ppm: Annotated[int, Meta(ge=1, le=MAX_FEE_PPM)]
    """Part of later fees for its models that the shares split."""


class TransferShares(Record, frozen=True, tag="transfer-shares"):
    """Hand millionths of a run's shares to another account."""

    run: Id
    to: AddressBytes
    ppm: Annotated[int, Meta(ge=1, le=1_000_000)]


class PublishRun(Record, frozen=True, tag="publish-run"):
    """What a run made, as five blobs that every node can fetch by their hashes, and the licence by its name."""

    run: Id
    checkpoint: Digest
    code: Digest
    recipe: Digest
    log: Digest
    licence: Digest
    """The licence's text."""
    licence_name: Name


class CommitPublication(Record, frozen=True, tag="commit-publication"):
    """A drawn node binds itself to what it found of a publication before anybody shows theirs."""

    run: Id
    publisher: AddressBytes
    digest: Digest


class JudgePublication(Record, frozen=True, tag="judge-publication"):
    """What a drawn node committed to: whether it has all blobs, and a hash over them that only their bytes give."""

    run: Id
    publisher: AddressBytes
    outcome: Outcome
    answer: Digest
    salt: Digest

    def compute_commitment(self, voter: bytes) -> bytes:
        """What `CommitPublication` carries: nobody else can commit to the same without knowing the answer."""
        told = encode((self.run, self.publisher, self.outcome, self.answer, self.salt))
        return hash_parts("publication-verdict", voter, told)


FundingMessage = (
    OpenExperiment | FundRun | OpenSharedRun | TransferShares | PublishRun | CommitPublication | JudgePublication
)
FUNDING_DUTIES = (CommitPublication, JudgePublication)
