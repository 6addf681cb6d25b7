"""Every message a transaction can carry: a closed, tagged union, each field bounded at decode.

Duty messages (what the protocol asks of a node) pay no fee; the others do.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.hashing import hash_parts
from paceline.protocol.channels import ChannelMessage
from paceline.protocol.codec import Record, encode
from paceline.protocol.credits import CreditMessage
from paceline.protocol.dummies import RevealDummies, SubmitMarked
from paceline.protocol.fields import (
    AddressBytes,
    Amount,
    Count,
    Digest,
    GroupKeyBytes,
    Height,
    Id,
    KeyBytes,
    Link,
    Name,
    Outcome,
    PartialBytes,
    ProofBytes,
    Reason,
    SignatureBytes,
    Url,
    Word,
)
from paceline.protocol.funding import FundingMessage
from paceline.protocol.grants import GrantMessage
from paceline.protocol.openings import OpenRun, OpenSession
from paceline.protocol.pools import PoolMessage
from paceline.protocol.prices import VotePrice
from paceline.protocol.proposals import SubmitProposal, VoteProposal
from paceline.protocol.traps import NO_SEAL, ShowDraws

MAX_TRANSACTION_BYTES = 256 * 1024
MAX_SKIPS = 32
BUSY, LATE = "busy", "late"

ACCEPTED, REJECTED, UNDECIDED = "accepted", "rejected", "undecided"


class Verdict(Record, frozen=True):
    """A judgement: the outcome, why, and the numbers it rests on (integers, meaning set by the kind of work)."""

    outcome: Outcome
    reason: Reason
    evidence: Annotated[tuple[int, ...], Meta(max_length=16)]


class Transfer(Record, frozen=True, tag="transfer"):
    """Move coins to another account."""

    to: AddressBytes
    amount: Amount


class CommitSeed(Record, frozen=True, tag="commit-seed"):
    """Commit to a contribution to an epoch's seed."""

    epoch: Count
    digest: Digest


class RevealSeed(Record, frozen=True, tag="reveal-seed"):
    """Reveal the contribution behind the commitment."""

    epoch: Count
    contribution: Digest


class PostPartials(Record, frozen=True, tag="post-partials"):
    """A member's partial signatures, one per slot: for a beacon index (`height`) or an epoch (`race`)."""

    kind: Annotated[str, Meta(pattern=r"^(height|race)\Z")]
    number: Count
    group: Count
    partials: Annotated[tuple[PartialBytes, ...], Meta(min_length=1, max_length=1_024)]


class PostDealing(Record, frozen=True, tag="post-dealing"):
    """One part of a dealing in the ceremony of a group."""

    number: Count
    part: Annotated[int, Meta(ge=0, le=255)]
    parts: Annotated[int, Meta(ge=1, le=255)]
    data: Annotated[bytes, Meta(max_length=64 * 1024)]


class PostComplaint(Record, frozen=True, tag="post-complaint"):
    """The point shared with a dealer, with its proof: the ledger decrypts and tests the share itself."""

    number: Count
    dealer: AddressBytes
    shared_point: GroupKeyBytes
    proof: ProofBytes


class RegisterGroupKey(Record, frozen=True, tag="register-group-key"):
    """Change the key that shares of the beacon's key are encrypted to."""

    group_key: GroupKeyBytes
    possession: ProofBytes


class Registration(Record, frozen=True, kw_only=True):
    """What a node says of itself when it joins, signed with its account key; whoever pays the deposit hands it in."""

    public_key: KeyBytes
    name: Name
    consensus_key: KeyBytes
    """ed25519 key that signs blocks; the account key never does."""
    consensus_proof: SignatureBytes
    """The consensus key's own signature, which no key that verifiers disagree about can give."""
    group_key: GroupKeyBytes
    possession: ProofBytes
    serves: Annotated[tuple[Name, ...], Meta(max_length=16)]
    url: Url
    """Where peers reach it; empty when they know."""
    link: Link
    """CometBFT only: id@host:port of its engine."""
    expires_at: Height
    signature: SignatureBytes

    def signed_bytes(self, chain_id: str) -> bytes:
        """What the account key signs: all of it but the signature."""
        return b"paceline-registration" + encode((chain_id, *_without_signature(self)))


class RegisterNode(Record, frozen=True, tag="register-node"):
    """Bring a node into the network: the sender is its sponsor and puts down the deposit."""

    registration: Registration


class DescribeNode(Record, frozen=True, tag="describe-node"):
    """A node says anew where it is reached and what it serves."""

    url: Url
    link: Link
    serves: Annotated[tuple[Name, ...], Meta(max_length=16)]


class LeaveNetwork(Record, frozen=True, tag="leave-network"):
    """Take a node out and return its deposit: at any time by itself, by its sponsor while it has no weight."""

    node: AddressBytes


class PlanUpgrade(Record, frozen=True, tag="plan-upgrade"):
    """A vote for new rules from a height on; software that lacks the upgrade of this name stops before it."""

    name: Name
    height: Height


class CancelUpgrade(Record, frozen=True, tag="cancel-upgrade"):
    """A vote for taking the standing plan back."""

    name: Name
    height: Height


class CommitRace(Record, frozen=True, tag="commit-race"):
    """Claim hits: root and count of a count-and-range tree. A later claim of the window counts more and replaces it."""

    race: Count
    root: Digest
    count: Count


class RangeSibling(Record, frozen=True):
    """One node beside the path of an opening."""

    count: Word
    low: Word
    high: Word
    digest: Digest


class Opening(Record, frozen=True):
    """One opened hit of a Race claim."""

    position: Count
    race_nonce: Word
    siblings: Annotated[tuple[RangeSibling, ...], Meta(max_length=40)]


class OpenRace(Record, frozen=True, tag="open-race"):
    """The next openings of a Race claim, in the order of its sample; a large sample takes several messages."""

    race: Count
    openings: Annotated[tuple[Opening, ...], Meta(min_length=1, max_length=1_024)]


class ReportRace(Record, frozen=True, tag="report-race"):
    """A drawn checker found nothing wrong with a Race claim; `checked` is how many of its positions it recomputed.

    `digest` binds the exact outputs at these positions to the checker: it is known to nobody who has not computed them.
    """

    race: Count
    prover: AddressBytes
    checked: Count
    digest: Digest


class AccuseRace(Record, frozen=True, tag="accuse-race"):
    """A drawn checker says, with a bond, that the opened number at a position of a Race claim is no hit."""

    race: Count
    prover: AddressBytes
    position: Count


class JudgeRace(Record, frozen=True, tag="judge-race"):
    """A verdict on the one accused number: accepted when it is a hit, rejected when it is none."""

    race: Count
    prover: AddressBytes
    position: Count
    verdict: Verdict


class AccuseReport(Record, frozen=True, tag="accuse-report"):
    """A node says, with a bond, that a checker's report on a Race claim is not what recomputing gives."""

    race: Count
    prover: AddressBytes
    checker: AddressBytes


class JudgeReport(Record, frozen=True, tag="judge-report"):
    """A verdict on an accused report: rejected when its digest differs or one of its numbers is no hit."""

    race: Count
    prover: AddressBytes
    checker: AddressBytes
    verdict: Verdict


class CloseSession(Record, frozen=True, tag="close-session"):
    """Return what a session did not spend."""

    session: Id


class Skip(Record, frozen=True):
    """Why a node that was drawn earlier does not do a task: `busy` in its own words, `late` in the relay's."""

    node: AddressBytes
    kind: Annotated[str, Meta(pattern=r"^(busy|late)\Z")]
    height: Height
    signature: SignatureBytes

    def signed_bytes(self, chain_id: str, session: bytes, index: int) -> bytes:
        """What the skipped node or the relay signs."""
        return b"paceline-skip" + encode((chain_id, session, index, self.node, self.kind, self.height))


class Voucher(Record, frozen=True, kw_only=True):
    """The session owner's word on one task: who may do it, on what prompt, for how much at most."""

    session: Id
    index: Count
    executor: AddressBytes
    prompt_hash: Digest
    max_cost: Amount
    total: Amount
    """Maximum costs of all indices up to this one, added up."""
    skips: Annotated[tuple[Skip, ...], Meta(max_length=MAX_SKIPS)] = ()
    """Every node that was drawn before the executor, in the drawn order."""
    signature: SignatureBytes

    def signed_bytes(self, chain_id: str) -> bytes:
        """What the owner signs."""
        return b"paceline-voucher" + encode((chain_id, *_without_signature(self)))


class Receipt(Record, frozen=True):
    """What an executor says it did under a voucher; the payload stays with it under its hash."""

    voucher: Voucher
    payload_hash: Digest
    prompt_tokens: Count
    completion_tokens: Count
    seal: Digest = NO_SEAL
    """Over the payload of the true answer, which differs from the other where it is a forced error."""


class SubmitReceipts(Record, frozen=True, tag="submit-receipts"):
    """A batch of receipts of one executor."""

    receipts: Annotated[tuple[Receipt, ...], Meta(min_length=1, max_length=64)]


class ProveVouchers(Record, frozen=True, tag="prove-vouchers"):
    """Two vouchers of one session that no honest owner signs: they contradict each other."""

    first: Voucher
    second: Voucher


class CommitVerdict(Record, frozen=True, tag="commit-verdict"):
    """A drawn checker binds itself to a verdict on a task before any of them is shown."""

    task: Digest
    digest: Digest


class JudgeTask(Record, frozen=True, tag="judge-task"):
    """A verdict on a task: what a drawn checker committed to or, once flagged, the word of anybody with weight."""

    task: Digest
    verdict: Verdict
    salt: Digest = bytes(32)

    def compute_commitment(self, voter: bytes) -> bytes:
        """What `CommitVerdict` carries: nobody else can commit to the same without knowing the verdict."""
        return hash_parts("task-verdict", voter, encode((self.task, self.verdict, self.salt)))


class JudgeNode(Record, frozen=True, tag="judge-node"):
    """A verdict on a suspected node, over its kept tasks: rejected when the own numbers make it as suspect."""

    node: AddressBytes
    verdict: Verdict


class ReportTask(Record, frozen=True, tag="report-task"):
    """The user who paid for an answer doubts it, and pays for checks by fresh checkers."""

    task: Digest


class JoinRun(Record, frozen=True, tag="join-run"):
    """Offer to train in a run."""

    run: Id


class CommitUpdate(Record, frozen=True, tag="commit-update"):
    """A trainer's update of a round: its hash, the hashes of the states at the segment borders, its loss."""

    run: Id
    round_index: Count
    update_hash: Digest
    state_hashes: Annotated[tuple[Digest, ...], Meta(min_length=2, max_length=1_001)]
    loss_micronats: Count


class JudgeUpdate(Record, frozen=True, tag="judge-update"):
    """A verdict on a trainer's update of a round."""

    run: Id
    round_index: Count
    trainer: AddressBytes
    verdict: Verdict


class ReportState(Record, frozen=True, tag="report-state"):
    """The state a node computed from the accepted updates of a round, with its held-out loss."""

    run: Id
    round_index: Count
    state_hash: Digest
    loss_micronats: Count


Message = (
    Transfer
    | CommitSeed
    | RevealSeed
    | PostPartials
    | PostDealing
    | PostComplaint
    | RegisterGroupKey
    | RegisterNode
    | DescribeNode
    | LeaveNetwork
    | PlanUpgrade
    | VotePrice
    | CancelUpgrade
    | CommitRace
    | OpenRace
    | ReportRace
    | AccuseRace
    | JudgeRace
    | AccuseReport
    | JudgeReport
    | OpenSession
    | CloseSession
    | SubmitReceipts
    | ProveVouchers
    | RevealDummies
    | SubmitMarked
    | CommitVerdict
    | JudgeTask
    | ShowDraws
    | JudgeNode
    | ReportTask
    | ChannelMessage
    | PoolMessage
    | CreditMessage
    | OpenRun
    | FundingMessage
    | JoinRun
    | CommitUpdate
    | JudgeUpdate
    | ReportState
    | SubmitProposal
    | VoteProposal
    | GrantMessage
)


def _without_signature(record: Registration | Voucher) -> tuple[object, ...]:
    return tuple(getattr(record, field) for field in record.__struct_fields__ if field != "signature")
