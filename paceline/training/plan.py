"""What a training run fixes before it starts: model, data, inner and outer settings, and who trains on which shard.

It refuses to know heights, peers and blobs. Invariant: every number is an integer bounded at decode, so the plan in
the ledger and the plan in a trainer's hands are the same bytes; a setting that cannot work is refused, never bent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from paceline.base.draws import derive_seed, draw_order
from paceline.base.errors import ConfigError, InvalidClaim
from paceline.base.integers import PPM
from paceline.models.byte_gpt import get_config
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Digest, Name

MAX_PLAN_BYTES = 4096
MAX_SEGMENT_STEPS = 10
"""Rounding between machines grows from 2e-5 of the update at 5 steps to 3.5e-5 at 10, then chaotically.

Source: measured, see `verification.updates`.
"""

MIN_INNER_RATE_PPB = 20_000
"""Below a rate of 2e-5 one step moves norms (near 1.0) by so few fp32 units that honest rounding passes the threshold.

Source: distance = sqrt(noise * unit / rate) with noise 1e-5 (measured) and unit 6e-8 reaches 3e-4 near 7e-6.
"""

_Ppm = Annotated[int, Meta(ge=0, le=PPM)]
_Decay = Annotated[int, Meta(ge=0, lt=PPM)]


class TrainingPlan(Record, frozen=True, kw_only=True):
    """All settings of a run. Rates and coefficients are parts per million.

    Errors: ConfigError from the constructor for settings that exclude each other.
    """

    data_hash: Digest
    """Address of the corpus as a blob."""
    seed: Digest
    """The first parameters follow from it."""
    model: Name = "tiny"
    rounds: Annotated[int, Meta(ge=1, le=10_000)] = 5
    inner_steps: Annotated[int, Meta(ge=1, le=1_000)] = 40
    """Inner steps of one trainer in one round (H)."""
    segment_steps: Annotated[int, Meta(ge=1, le=MAX_SEGMENT_STEPS)] = 10
    """Inner steps between two committed states; an audit replays whole segments."""
    batch_size: Annotated[int, Meta(ge=1, le=4_096)] = 16
    """Sequences per inner step; each has the context of the model."""
    inner_rate_ppm: _Ppm = 3_000
    warmup_steps: Annotated[int, Meta(ge=0, le=100_000)] = 30
    """Inner steps over which the inner rate climbs from zero, counted over rounds."""
    final_rate_ppm: _Ppm = 100_000
    """Share of the inner rate that is left after a linear fall to the last inner step of the last round."""
    first_decay_ppm: _Decay = 900_000
    """AdamW's beta for the mean of gradients."""
    second_decay_ppm: _Decay = 950_000
    """AdamW's beta for the mean of squared gradients."""
    weight_decay_ppm: _Ppm = 10_000
    outer_rate_ppm: Annotated[int, Meta(ge=1, le=2 * PPM)] = 700_000
    outer_momentum_ppm: _Decay = 600_000
    """The outer gain is rate / (1 - momentum); the usual 0.9 overshoots in runs of few rounds."""

    def __post_init__(self) -> None:
        get_config(self.model)
        if self.segment_steps < 1 or self.inner_steps % self.segment_steps:
            raise ConfigError(
                f"inner_steps {self.inner_steps} must be a multiple of segment_steps {self.segment_steps}"
            )
        if self.warmup_steps > self.rounds * self.inner_steps:
            raise ConfigError(
                f"warmup_steps {self.warmup_steps} must not exceed the {self.rounds * self.inner_steps} of the run"
            )
        lowest = min(compute_inner_rate_ppb(self, step) for step in (0, self.rounds * self.inner_steps - 1))
        if lowest < MIN_INNER_RATE_PPB:
            raise ConfigError(
                f"the inner rate falls to {lowest} ppb, replay needs {MIN_INNER_RATE_PPB}; raise inner_rate_ppm or "
                "final_rate_ppm, or shorten warmup_steps"
            )

    @property
    def segment_count(self) -> int:
        """Segments of one round; a claim commits one state more than that."""
        return self.inner_steps // self.segment_steps

    @property
    def sequence_bytes(self) -> int:
        """Bytes of text behind one training sequence: the context and the byte after it."""
        return get_config(self.model).context + 1


@dataclass(frozen=True, kw_only=True)
class RoundAssignment:
    """One trainer's share of one round: slice `shard_index` of `shard_count` equal ones, batches by `shard_seed`."""

    round_index: int
    trainer: bytes
    shard_index: int
    shard_count: int
    shard_seed: bytes


def encode_plan(plan: TrainingPlan) -> bytes:
    """Canonical bytes of a plan, as the ledger holds them.

    Errors: ConfigError when a setting is out of its bounds, which the constructor alone does not see.
    """
    data = encode(plan)
    try:
        decode_plan(data)
    except InvalidClaim as problem:
        raise ConfigError(f"training plan: {problem.message}") from None
    return data


def decode_plan(data: bytes) -> TrainingPlan:
    """A plan from untrusted bytes.

    Errors: InvalidClaim with code too-large, malformed, non-canonical or plan (settings that exclude each other).
    """
    try:
        return decode(TrainingPlan, data, limit_bytes=MAX_PLAN_BYTES, error=InvalidClaim)
    except ConfigError as problem:
        raise InvalidClaim("plan", str(problem)) from None


def derive_assignments(
    beacon: bytes, run: bytes, round_index: int, trainers: Sequence[bytes]
) -> dict[bytes, RoundAssignment]:
    """Who trains on which slice of the corpus in a round: disjoint slices, shuffled by the beacon, by address."""
    place = round_index.to_bytes(4, "little")
    order = draw_order(derive_seed(beacon, "training-shards", run, place), dict.fromkeys(trainers, 1))
    return {
        trainer: RoundAssignment(
            round_index=round_index,
            trainer=trainer,
            shard_index=order.index(trainer),
            shard_count=len(order),
            shard_seed=derive_seed(beacon, "training-batches", run, place, trainer),
        )
        for trainer in sorted(order)
    }


def compute_inner_rate_ppb(plan: TrainingPlan, step: int) -> int:
    """The inner rate at a step counted over all rounds.

    Units: parts per billion, floor; linear climb over the warm-up, then a linear fall to the final share.
    """
    peak, last = plan.inner_rate_ppm * 1_000, plan.rounds * plan.inner_steps
    if step < plan.warmup_steps:
        return peak * (step + 1) // plan.warmup_steps
    left, span = max(0, last - step), last - plan.warmup_steps
    share = plan.final_rate_ppm + (PPM - plan.final_rate_ppm) * left // span if span else PPM
    return peak * share // PPM
