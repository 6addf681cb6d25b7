"""Verdicts on training updates: evidence of `training.check` in, `Verdict` out.

It refuses to know how a segment is replayed and what a rejection costs. Invariant: every way a claim can fail gives
REJECTED with a reason; trouble on the auditor's own side never becomes a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.errors import InvalidClaim
from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict
from paceline.training.check import (
    BindingEvidence,
    SegmentEvidence,
    UpdateAudit,
    UpdateEvidence,
    check_update,
)

MAX_DISTANCE_PPB = 300_000
"""3e-4 of a tensor's update, for fp32 segments of at most ten steps.

Source: measured on this model and plan. Honest replays: at most 1.2e-5 between one and two threads and between the
AVX-512, AVX2 and plain code of one library. Cheats: 0.010 for a rate 1 % off, 0.024 for one byte in 1,024 changed,
0.04 for one poisoned row of 16, above 0.1 for all others tried. By proportion a rate 0.02 % off passes, and saves nothing.
"""
MAX_LOSS_GAP_MICRONATS = 1_000
"""Honest replays agree to a few micronats; a trainer that reports a better loss than it had gains at most this."""


def judge_update(audit: UpdateAudit) -> Verdict:
    """Check one claim and judge it.

    Errors: WorkError when this auditor cannot check (it then posts no verdict).
    """
    try:
        evidence = check_update(audit)
    except InvalidClaim as problem:
        return judge_invalid_claim(problem)
    return judge_evidence(evidence)


def judge_evidence(evidence: UpdateEvidence) -> Verdict:
    """The first rejection among bindings, segments and the reported loss, or the acceptance with the worst distance."""
    verdicts = [judge_binding(binding) for binding in evidence.bindings]
    verdicts += [judge_segment(segment) for segment in evidence.segments]
    if evidence.loss_gap_micronats is not None:
        verdicts.append(judge_loss(evidence.loss_gap_micronats))
    rejected = next((verdict for verdict in verdicts if verdict.outcome == REJECTED), None)
    return rejected or _accept(evidence.segments)


def judge_segment(evidence: SegmentEvidence) -> Verdict:
    """Evidence: (segment, distance in ppb, threshold in ppb)."""
    numbers = (evidence.segment_index, evidence.distance_ppb, MAX_DISTANCE_PPB)
    if evidence.distance_ppb > MAX_DISTANCE_PPB:
        where = f"segment {evidence.segment_index}: {evidence.tensor}"
        return Verdict(REJECTED, f"{where} is {evidence.distance_ppb} ppb from its replay"[:160], numbers)
    return Verdict(ACCEPTED, f"segment {evidence.segment_index} was trained", numbers)


def judge_binding(evidence: BindingEvidence) -> Verdict:
    """Exact: one differing bit rejects."""
    if evidence.claimed != evidence.computed:
        found = f"{evidence.claimed.hex()[:16]}, expected {evidence.computed.hex()[:16]}"
        return Verdict(REJECTED, f"the {evidence.subject} does not follow from the committed states: {found}", ())
    return Verdict(ACCEPTED, f"the {evidence.subject} follows from the committed states", ())


def judge_loss(gap_micronats: int) -> Verdict:
    """Evidence: (size of the gap, threshold), in micronats."""
    numbers = (abs(gap_micronats), MAX_LOSS_GAP_MICRONATS)
    if abs(gap_micronats) > MAX_LOSS_GAP_MICRONATS:
        return Verdict(REJECTED, f"the reported loss is {gap_micronats} micronats from the replayed one", numbers)
    return Verdict(ACCEPTED, "the reported loss is the replayed one", numbers)


def judge_invalid_claim(problem: InvalidClaim) -> Verdict:
    """A claim whose blobs are missing or malformed is rejected: withholding equals guilt."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in str(problem))
    return Verdict(REJECTED, printable[:160], ())


def _accept(segments: Sequence[SegmentEvidence]) -> Verdict:
    worst = max((segment.distance_ppb for segment in segments), default=0)
    return Verdict(ACCEPTED, f"{len(segments)} segments replayed", (len(segments), worst, MAX_DISTANCE_PPB))
