from __future__ import annotations

import pytest

from paceline.base.errors import InvalidClaim
from paceline.protocol.codec import decode, encode
from paceline.protocol.messages import ACCEPTED, REJECTED, Verdict
from paceline.training.check import UNBOUNDED_PPB, BindingEvidence, SegmentEvidence, UpdateEvidence
from paceline.verification.updates import (
    MAX_DISTANCE_PPB,
    MAX_LOSS_GAP_MICRONATS,
    judge_binding,
    judge_evidence,
    judge_invalid_claim,
    judge_loss,
    judge_segment,
)

BOUND = BindingEvidence(subject="update", claimed=b"\1" * 32, computed=b"\1" * 32)
LOOSE = BindingEvidence(subject="update", claimed=b"\1" * 32, computed=b"\2" * 32)


def segment(distance, index=0):
    return SegmentEvidence(segment_index=index, distance_ppb=distance, tensor="params/x", loss_micronats=1)


def evidence(*segments, bindings=(BOUND,), gap=None):
    return UpdateEvidence(bindings=bindings, segments=segments, loss_gap_micronats=gap)


def test_threshold_is_three_ten_thousandths():
    assert MAX_DISTANCE_PPB == 300_000


def test_segment_at_the_threshold_is_accepted():
    for distance in (0, MAX_DISTANCE_PPB):
        verdict = judge_segment(segment(distance, index=2))
        assert (verdict.outcome, verdict.evidence) == (ACCEPTED, (2, distance, MAX_DISTANCE_PPB))


@pytest.mark.parametrize("distance", [MAX_DISTANCE_PPB + 1, UNBOUNDED_PPB])
def test_invalid_segment_names_the_tensor(distance):
    verdict = judge_segment(segment(distance))
    assert verdict.outcome == REJECTED
    assert "params/x" in verdict.reason


def test_binding_is_exact():
    assert judge_binding(BOUND).outcome == ACCEPTED


def test_invalid_binding_names_both_hashes():
    verdict = judge_binding(LOOSE)
    assert verdict.outcome == REJECTED
    assert "01" * 8 in verdict.reason
    assert "02" * 8 in verdict.reason


def test_loss_may_differ_by_rounding():
    for gap in (0, MAX_LOSS_GAP_MICRONATS, -MAX_LOSS_GAP_MICRONATS):
        assert judge_loss(gap).outcome == ACCEPTED


def test_invalid_loss_in_either_direction():
    for gap in (MAX_LOSS_GAP_MICRONATS + 1, -MAX_LOSS_GAP_MICRONATS - 1):
        assert judge_loss(gap).outcome == REJECTED


def test_acceptance_states_the_worst_distance():
    verdict = judge_evidence(evidence(segment(5), segment(70, index=1), gap=3))
    assert verdict == Verdict(ACCEPTED, "2 segments replayed", (2, 70, MAX_DISTANCE_PPB))


@pytest.mark.parametrize(
    "found",
    [
        evidence(segment(0), bindings=(BOUND, LOOSE)),
        evidence(segment(0), segment(UNBOUNDED_PPB, index=1)),
        evidence(segment(0), gap=2_000),
    ],
)
def test_invalid_part_rejects_the_whole(found):
    assert judge_evidence(found).outcome == REJECTED


def test_invalid_claim_becomes_a_printable_rejection():
    verdict = judge_invalid_claim(InvalidClaim("malformed", "naïve\n" + "x" * 500))
    assert verdict.outcome == REJECTED
    assert verdict.reason.startswith("malformed: na?ve?x")


def test_every_verdict_fits_its_message():
    long = SegmentEvidence(segment_index=999, distance_ppb=UNBOUNDED_PPB, tensor="t" * 300, loss_micronats=0)
    verdicts = [judge_segment(long), judge_binding(LOOSE), judge_loss(-(10**9))]
    verdicts += [judge_invalid_claim(InvalidClaim("x", "\x00" * 400)), judge_evidence(evidence(long, gap=0))]
    for verdict in verdicts:
        assert decode(Verdict, encode(verdict), limit_bytes=1_000) == verdict
