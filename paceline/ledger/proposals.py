"""Proposals: who may put what before the network, and how nodes with weight vote on it.

Any account proposes and puts a deposit down; only nodes with weight vote, once each. What becomes of a proposal when its
voting ends is the business of `governance`. It refuses to know what an action does. Invariant: the pool of deposits holds
exactly the deposits of the proposals that are voted on, and of these there are never more than the preset says.
Source: seed 001, Appendix J; decision 036.
"""

from __future__ import annotations

from paceline.base.errors import InvalidTransaction
from paceline.economy.ballots import PASSED, Tally
from paceline.ledger import nodes
from paceline.ledger.accounts import PROPOSAL_DEPOSITS, move_coins
from paceline.ledger.actions import require_action
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams
from paceline.protocol.proposals import Action, SubmitProposal, VoteProposal

VOTING, WAITING, EXECUTED, FAILED = "voting", PASSED, "executed", "failed"
"""Under vote; passed, and waiting for the end of the epoch; done; passed, but it could not be done any more."""
NUMBER_BYTES = 8


class Proposal(Record, frozen=True, kw_only=True):
    """What was asked, by whom, and what became of it. `status` is one of the above or an outcome of `economy.ballots`."""

    author: bytes
    title: str
    text: str
    action: Action
    deposit: int
    opened_at: int
    ends_at: int
    """Last height at which votes are taken; the weights of its end decide."""
    status: str = VOTING
    tally: Tally | None = None
    """Weights at the end of voting."""
    reason: str = ""
    """Why a proposal that passed could not be done."""
    ended: int = -1
    """Epoch in which it got its last status."""


PROPOSALS: Table[Proposal] = Table("proposals/by-number", Proposal)
OPEN: Table[bytes] = Table("proposals/open", bytes)
"""Authors of the proposals that are voted on, by last height and number."""
VOTES: Table[str] = Table("proposals/vote", str)
"""Choices by number and voter, until the voting ends."""
LAST: Table[int] = Table("proposals/last", int)


def to_key(number: int) -> bytes:
    """Key of a proposal."""
    return number.to_bytes(NUMBER_BYTES, "big")


def get_proposal(state: State, number: int) -> Proposal | None:
    """A proposal that is still kept."""
    return PROPOSALS.get(state, to_key(number))


def list_proposals(state: State) -> list[tuple[int, Proposal]]:
    """Every kept proposal with its number, oldest first."""
    return [(int.from_bytes(key, "big"), proposal) for key, proposal in PROPOSALS.items(state)]


def get_votes(state: State, number: int) -> dict[bytes, str]:
    """Who voted what so far on an open proposal."""
    return {key[NUMBER_BYTES:]: choice for key, choice in VOTES.items(state, to_key(number))}


def apply_submission(state: State, params: NetworkParams, sender: bytes, message: SubmitProposal) -> None:
    """Take the deposit and open the voting.

    Errors: InvalidTransaction too-many-open, too-many-yours, over-balance, and those of `actions.require_action`.
    """
    _require_room(state, params, sender)
    ends_at = state.height + params.governance.voting_blocks
    require_action(state, params, sender, message.action, ends_at)
    deposit = params.governance.deposit
    move_coins(state, sender, PROPOSAL_DEPOSITS, deposit)
    number = (LAST.get(state) or 0) + 1
    LAST.put(state, b"", number)
    proposal = Proposal(
        author=sender,
        title=message.title,
        text=message.text,
        action=message.action,
        deposit=deposit,
        opened_at=state.height,
        ends_at=ends_at,
    )
    PROPOSALS.put(state, to_key(number), proposal)
    OPEN.put(state, ends_at.to_bytes(8, "big") + to_key(number), sender)
    state.emit("proposal", number=number, author=sender.hex(), title=message.title, ends_at=ends_at)


def apply_vote(state: State, sender: bytes, message: VoteProposal) -> None:
    """A node with weight votes; its weight is counted when the voting ends.

    Errors: InvalidTransaction unknown-proposal, voting-over, no-vote, already-voted.
    """
    proposal = get_proposal(state, message.proposal)
    if proposal is None:
        raise InvalidTransaction("unknown-proposal", f"no proposal has the number {message.proposal}")
    if proposal.status != VOTING:
        raise InvalidTransaction("voting-over", f"votes were taken up to height {proposal.ends_at}")
    node = nodes.NODES.get(state, sender)
    if node is None or node.weight == 0:
        raise InvalidTransaction("no-vote", "only nodes with weight vote on proposals")
    key = to_key(message.proposal) + sender
    if VOTES.get(state, key) is not None:
        raise InvalidTransaction("already-voted", "this node voted on the proposal, and a vote stands")
    VOTES.put(state, key, message.choice)
    state.emit("proposal-vote", number=message.proposal, node=sender.hex(), choice=message.choice)


def compute_deposits(state: State) -> int:
    """Nicoin beside all proposals that are voted on."""
    return sum(proposal.deposit for _, proposal in PROPOSALS.items(state) if proposal.status == VOTING)


def _require_room(state: State, params: NetworkParams, sender: bytes) -> None:
    limits = params.governance
    authors = [author for _, author in OPEN.items(state)]
    if len(authors) >= limits.most_open:
        raise InvalidTransaction("too-many-open", f"{limits.most_open} proposals are voted on, wait until one ends")
    if authors.count(sender) >= limits.most_open_each:
        raise InvalidTransaction("too-many-yours", f"{limits.most_open_each} proposals of this account are voted on")
