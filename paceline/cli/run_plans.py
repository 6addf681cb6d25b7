"""`paceline run plan`: the plan of a training run as a file, by the numbers that a person names. Needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.cli.propose import read_file
from paceline.node.control import MAX_DATA_BYTES
from paceline.node.home import write_whole
from paceline.training.plan import TrainingPlan, encode_plan


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The numbers of a plan that a person names; the others are those of `TrainingPlan`."""

    rounds: int
    inner_steps: int
    segment_steps: int
    batch_size: int
    warmup_steps: int
    seed: str


def write_plan_file(data: Path, out: Path, wanted: Wanted) -> None:
    """Write a plan and print what a proposal or a run names of it.

    Errors: ConfigError for data that cannot be read, numbers that exclude each other, or a file that is there already.
    """
    data_hash = hash_blob(read_file(data, MAX_DATA_BYTES))
    plan = TrainingPlan(
        data_hash=data_hash,
        seed=hash_parts("training-plan", wanted.seed.encode()),
        rounds=wanted.rounds,
        inner_steps=wanted.inner_steps,
        segment_steps=wanted.segment_steps,
        batch_size=wanted.batch_size,
        warmup_steps=min(wanted.warmup_steps, wanted.rounds * wanted.inner_steps),
    )
    if not out.parent.is_dir():
        raise ConfigError(f"OUT: there is no folder {out.parent}")
    if out.exists():
        raise ConfigError(f"OUT: {out} is there already; name another file")
    try:
        write_whole(out, encode_plan(plan))
    except OSError as problem:
        raise ConfigError(f"OUT: {out} cannot be written: {problem.strerror}") from None
    print(f"Plan      {out}, {plan.rounds} rounds of {plan.inner_steps} steps in {plan.segment_count} segments")
    print(f"Data      {data_hash.hex()}")
