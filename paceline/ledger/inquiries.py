"""Inquiries: what becomes of a suspected node.

Outsiders are drawn to compute the numbers of its kept tasks again. When enough of them find it as suspect as before,
everybody with weight judges. Guilt needs more than half of all weight; anything less clears the node, and its sum begins
anew. So neither a calibration that is wrong on some machines nor a colluding checker punishes anybody alone.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import draw_order
from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, nodes, suspicion, task_pay
from paceline.ledger.disputes import Vote, compute_majority, get_outcomes, has_voted
from paceline.ledger.state import State
from paceline.ledger.suspicion import CONFIRMING, DRAWING, INQUIRIES, VOTING, Inquiry
from paceline.protocol.messages import ACCEPTED, REJECTED, JudgeNode
from paceline.protocol.params import NetworkParams


def apply_verdict(state: State, sender: bytes, message: JudgeNode) -> None:
    """A drawn outsider, or later anybody with weight, judges a suspected node.

    Errors: InvalidTransaction nothing-to-judge, no-vote, not-drawn, already-judged, no-numbers.
    """
    inquiry = INQUIRIES.get(state, message.node)
    if inquiry is None or inquiry.status == DRAWING:
        raise InvalidTransaction("nothing-to-judge", "no case of this node waits for verdicts")
    if sender == message.node:
        raise InvalidTransaction("no-vote", "nobody judges its own case")
    if sender not in (inquiry.drawn if inquiry.status == CONFIRMING else nodes.get_weights(state)):
        raise InvalidTransaction("not-drawn", "this node has no say in the case now")
    if has_voted(inquiry.votes, sender):
        raise InvalidTransaction("already-judged", "one verdict per case")
    verdict = message.verdict
    if not verdict.evidence:
        raise InvalidTransaction("no-numbers", "a verdict on a node shows the sum that it rests on")
    if sender in inquiry.drawn:
        nodes.add_to_node(state, sender, checks=1, fulfilled=1)
    vote = Vote(sender, verdict.outcome, verdict.reason, verdict.evidence)
    INQUIRIES.put(state, message.node, msgspec.structs.replace(inquiry, votes=(*inquiry.votes, vote)))
    state.emit("inquiry-verdict", node=message.node.hex(), voter=sender.hex(), outcome=verdict.outcome)


def end_block(state: State, params: NetworkParams, epoch: int) -> None:
    """Draw outsiders, count confirmations, decide."""
    for suspect, inquiry in INQUIRIES.items(state):
        if inquiry.status == DRAWING:
            _draw(state, params, suspect, inquiry)
        elif inquiry.status == CONFIRMING:
            _count_confirmations(state, params, suspect, inquiry)
        else:
            _decide(state, params, suspect, inquiry, epoch)


def _draw(state: State, params: NetworkParams, suspect: bytes, inquiry: Inquiry) -> None:
    seed = beacon.derive_at(state, inquiry.round_index, "inquiry", suspect)
    if seed is None:
        return
    weights = nodes.get_weights(state)
    weights.pop(suspect, None)
    accusers = {vote.voter for _, kept in suspicion.list_kept(state, suspect) for vote in kept.task.votes}
    outsiders = {address: weight for address, weight in weights.items() if address not in accusers}
    # In a small network everybody has checked everybody; then those judge again.
    enough = len(outsiders) >= params.tasks.inquiry_confirmations
    drawn = tuple(draw_order(seed, outsiders if enough else weights)[: params.tasks.inquiry_slots])
    for address in drawn:
        nodes.add_to_node(state, address, duties=1)
    deadline = state.height + params.dispute_blocks
    INQUIRIES.put(state, suspect, msgspec.structs.replace(inquiry, status=CONFIRMING, drawn=drawn, deadline=deadline))


def _count_confirmations(state: State, params: NetworkParams, suspect: bytes, inquiry: Inquiry) -> None:
    confirmed = sum(vote.outcome == REJECTED for vote in inquiry.votes)
    if confirmed >= params.tasks.inquiry_confirmations:
        deadline = state.height + params.dispute_blocks
        INQUIRIES.put(state, suspect, msgspec.structs.replace(inquiry, status=VOTING, deadline=deadline))
    elif len(inquiry.votes) == len(inquiry.drawn) or state.height >= inquiry.deadline:
        _clear(state, suspect)


def _decide(state: State, params: NetworkParams, suspect: bytes, inquiry: Inquiry, epoch: int) -> None:
    outcome = compute_majority(get_outcomes(inquiry.votes), nodes.get_weights(state))
    if outcome == REJECTED:
        task_pay.convict(state, params, suspect, epoch)
        suspicion.clear(state, suspect)
        state.emit("inquiry-guilty", node=suspect.hex())
    elif outcome == ACCEPTED or state.height >= inquiry.deadline:
        _clear(state, suspect)


def _clear(state: State, suspect: bytes) -> None:
    suspicion.clear(state, suspect)
    state.emit("inquiry-cleared", node=suspect.hex())
