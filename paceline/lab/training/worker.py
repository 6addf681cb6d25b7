"""One process of a run that torchrun starts: it joins the others, plays its part, and leaves.

It refuses to know how settings are written: a function builds the run. Invariant: the process group is given back
however the run ends, so that a failing process never keeps the others waiting longer than their timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor

from paceline.base.errors import WorkError
from paceline.lab.training.accounts import Result
from paceline.lab.training.processes import CONTROL, ProcessPlan, run_process
from paceline.lab.training.transport import Transport
from paceline.training.methods.replica import Course


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What every process builds for itself, equal on all of them."""

    course: Course
    plan: ProcessPlan
    params: Tensor
    """The initial ones."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where processes find each other. torchrun says it in the environment; other launchers give all three."""

    method: str = "env://"
    rank: int = -1
    world: int = -1
    timeout_seconds: float = 600.0
    """Until all have met, and until the first has built the run."""


@contextmanager
def meet(meeting: Meeting) -> Iterator[None]:
    """The other processes, for as long as the block runs.

    Errors: WorkError when they do not meet in time.
    Effects: torch.distributed is initialised and, in the end, not any more.
    """
    try:
        dist.init_process_group(
            "gloo",
            init_method=meeting.method,
            rank=meeting.rank,
            world_size=meeting.world,
            timeout=timedelta(seconds=meeting.timeout_seconds),
        )
    except (RuntimeError, ValueError) as problem:
        raise WorkError(f"processes: they did not meet at {meeting.method} ({problem})") from problem
    try:
        yield
    finally:
        dist.destroy_process_group()


def work(build: Callable[[], RunParts], meeting: Meeting | None = None) -> Result:
    """Meet the other processes, build the run and play this one's part.

    The first process builds first: what it prepares on disk, such as tokens, the others find there.
    Errors: WorkError when they do not meet or one is lost; ConfigError from `build` and the run.
    """
    place = meeting or Meeting()
    with meet(place):
        gate = Transport(place.timeout_seconds)
        built = build() if gate.rank == 0 else None
        gate.tell_all(CONTROL, b"go")
        parts = built or build()
        gate.close()
        return run_process(parts.course, parts.plan, parts.params)
