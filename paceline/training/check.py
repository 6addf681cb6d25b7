"""The auditor's side: start state, binding of the update, and replay of drawn segments. Returns evidence, never judges.

It refuses to know thresholds and weights. Invariant: a segment is always replayed from the committed state before
it, so an honest trainer's rounding never adds up over segments; distances are relative to the replayed update of
each tensor, which the prover cannot choose.
Source: white paper appendix L (state preservation, validation); Proof-of-Learning, arXiv 2103.05633.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.errors import InvalidClaim, WorkError
from paceline.base.hashing import hash_blob
from paceline.training.claim import (
    RoundClaim,
    Tensors,
    TrainerState,
    compute_pseudo_gradient,
    compute_start_state,
    decode_trainer_state,
    verify_blob,
)
from paceline.training.plan import RoundAssignment, TrainingPlan
from paceline.training.run import InnerLoop, compute_loss_micronats, require_corpus

UNBOUNDED_PPB = 2**62
"""Distance of anything that is no number, or that moved a tensor which the replay leaves still."""
_PPB = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class SegmentEvidence:
    """How far a committed state lies from the replayed one."""

    segment_index: int
    distance_ppb: int
    """Largest over all tensors of |replayed - committed| / |replayed - start|."""
    tensor: str
    """The tensor with that distance."""
    loss_micronats: int
    """Mean loss that the replay saw."""


@dataclass(frozen=True, kw_only=True)
class BindingEvidence:
    """Two hashes that must be equal: what the claim says and what the states it rests on give."""

    subject: str
    claimed: bytes
    computed: bytes


@dataclass(frozen=True, kw_only=True)
class UpdateEvidence:
    """All that one auditor found about one claim."""

    bindings: tuple[BindingEvidence, ...]
    segments: tuple[SegmentEvidence, ...]
    loss_gap_micronats: int | None
    """Claimed minus replayed loss of the last segment; None when that segment was not drawn."""


@dataclass(frozen=True, kw_only=True)
class UpdateAudit:
    """What an auditor works with. `get_blob` answers None for a blob that the trainer did not hand over."""

    plan: TrainingPlan
    assignment: RoundAssignment
    corpus: bytes
    claim: RoundClaim
    global_state: bytes
    previous_state: bytes | None
    """The trainer's last accepted final state, or None when it has none."""
    segments: Sequence[int]
    """Indices drawn after the claim was committed."""
    get_blob: Callable[[bytes], bytes | None]


def check_update(audit: UpdateAudit) -> UpdateEvidence:
    """Everything about one claim: its start, its update, and each drawn segment.

    Errors: InvalidClaim (the trainer's fault) with code claim-shape, withheld, blob-hash or a code of
    `decode_trainer_state`; WorkError when this auditor holds another corpus or malformed states of its own.
    """
    plan, claim = audit.plan, audit.claim
    require_corpus(plan, audit.corpus)
    if len(claim.state_hashes) != plan.segment_count + 1:
        raise InvalidClaim("claim-shape", f"{len(claim.state_hashes)} states, expected {plan.segment_count + 1}")
    start = _build_start(audit)
    held = {hash_blob(start): start}
    final_state = _fetch_state(audit, held, plan.segment_count)
    segments = tuple(_check_drawn_segment(audit, held, index) for index in audit.segments)
    last = next((found for found in segments if found.segment_index == plan.segment_count - 1), None)
    return UpdateEvidence(
        bindings=(
            check_start_state(claim, start),
            check_update_binding(plan, claim, audit.global_state, final_state),
        ),
        segments=segments,
        loss_gap_micronats=claim.loss_micronats - last.loss_micronats if last else None,
    )


def check_start_state(claim: RoundClaim, start_state: bytes) -> BindingEvidence:
    """Segment 0 must begin, bit for bit, where `claim.compute_start_state` says for this trainer and round."""
    return BindingEvidence(subject="start state", claimed=claim.state_hashes[0], computed=hash_blob(start_state))


def check_update_binding(
    plan: TrainingPlan, claim: RoundClaim, global_state: bytes, final_state: bytes
) -> BindingEvidence:
    """The update must be base minus the committed final state, bit for bit.

    Errors: InvalidClaim when the final state is malformed or not the committed one.
    """
    verify_blob(claim.state_hashes[-1], final_state, "final state")
    computed = hash_blob(compute_pseudo_gradient(plan, global_state, final_state))
    return BindingEvidence(subject="update", claimed=claim.update_hash, computed=computed)


def check_segment(
    plan: TrainingPlan,
    assignment: RoundAssignment,
    corpus: bytes,
    start_state: bytes,
    end_state: bytes,
    segment_index: int,
) -> SegmentEvidence:
    """Re-execute one segment from its committed start and measure the distance to its committed end.

    Errors: InvalidClaim when a state is malformed or holds NaN or infinity.
    """
    assert 0 <= segment_index < plan.segment_count
    start, end = decode_trainer_state(plan, start_state), decode_trainer_state(plan, end_state)
    loop = InnerLoop(plan, assignment, corpus, start)
    first = segment_index * plan.segment_steps
    losses = [loop.take_step(step) for step in range(first, first + plan.segment_steps)]
    replayed = loop.get_state()
    distance, tensor = max(_compute_distances(start, replayed, end))
    return SegmentEvidence(
        segment_index=segment_index,
        distance_ppb=distance,
        tensor=tensor,
        loss_micronats=compute_loss_micronats(losses) if all(map(math.isfinite, losses)) else 0,
    )


def compute_distance_ppb(start: Tensor, replayed: Tensor, committed: Tensor) -> int:
    """|replayed - committed| / |replayed - start| in fp64, rounded up; unbounded where that is no number."""
    base, own = start.double(), replayed.double()
    gap = float(torch.linalg.vector_norm(own - committed.double()))
    moved = float(torch.linalg.vector_norm(own - base))
    if gap == 0:
        return 0
    if not (math.isfinite(gap) and math.isfinite(moved)) or moved == 0:
        return UNBOUNDED_PPB
    return min(UNBOUNDED_PPB, math.ceil(gap / moved * _PPB))


def _compute_distances(start: TrainerState, replayed: TrainerState, end: TrainerState) -> list[tuple[int, str]]:
    distances = [(0 if end.step == replayed.step else UNBOUNDED_PPB, "step")]
    groups: tuple[tuple[str, Tensors, Tensors, Tensors], ...] = (
        ("params", start.params, replayed.params, end.params),
        ("first_moment", start.first_moment, replayed.first_moment, end.first_moment),
        ("second_moment", start.second_moment, replayed.second_moment, end.second_moment),
    )
    for group, before, own, committed in groups:
        distances += [
            (compute_distance_ppb(before[name], own[name], committed[name]), f"{group}/{name}") for name in own
        ]
    return distances


def _build_start(audit: UpdateAudit) -> bytes:
    """The global and the previous state were accepted before, so broken bytes here are the auditor's own trouble."""
    try:
        return compute_start_state(audit.plan, audit.global_state, audit.previous_state)
    except InvalidClaim as problem:
        raise WorkError(f"this auditor holds a malformed state: {problem}") from None


def _check_drawn_segment(audit: UpdateAudit, held: dict[bytes, bytes], index: int) -> SegmentEvidence:
    start, end = _fetch_state(audit, held, index), _fetch_state(audit, held, index + 1)
    return check_segment(audit.plan, audit.assignment, audit.corpus, start, end, index)


def _fetch_state(audit: UpdateAudit, held: dict[bytes, bytes], border: int) -> bytes:
    """The committed state at a border; neighbours share one, and the auditor builds an honest start itself."""
    claimed = audit.claim.state_hashes[border]
    if claimed not in held:
        held[claimed] = verify_blob(claimed, audit.get_blob(claimed), f"state at border {border}")
    return held[claimed]
