"""A run file played by real processes, one for each trainer, as torchrun starts them.

It refuses to know a virtual clock: what a file says of simulated machines is refused. Invariant: the result is that of the
simulator, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from paceline.base.errors import ConfigError
from paceline.lab.training.config import FleetTable, RunConfig
from paceline.lab.training.parts import PreparedRun, build_run
from paceline.lab.training.processes import ProcessPlan
from paceline.lab.training.simulation import FitResult, finish
from paceline.lab.training.worker import RunParts, work

USUAL_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a process ends with; all of them end with the same, and the first one writes it."""

    fit: FitResult
    is_first: bool


def play_process(config: RunConfig, tokens_dir: Path, on_progress: Callable[[int, int], None] | None = None) -> Played:
    """Play the part of this process in a run.

    Errors: ConfigError for settings of simulated machines and for another number of processes than trainers; WorkError
    when another process is gone.
    """
    _require_real(config.fleet)
    torch.set_num_threads(1)
    found: list[tuple[PreparedRun, bool]] = []

    def build() -> RunParts:
        if dist.get_world_size() != config.fleet.trainers:
            raise ConfigError(
                f"fleet.trainers {config.fleet.trainers}: {dist.get_world_size()} processes were started; make them equal"
            )
        prepared = build_run(config, tokens_dir)
        found.append((prepared, dist.get_rank() == 0))
        plan = ProcessPlan(
            evaluate_every=config.evaluate_every,
            timeout_seconds=config.run.timeout_seconds or USUAL_TIMEOUT_SECONDS,
            evaluate=prepared.plan.evaluate,
            on_progress=on_progress,
        )
        return RunParts(course=prepared.course, plan=plan, params=prepared.params)

    result = work(build)
    [(prepared, is_first)] = found
    return Played(fit=finish(prepared, result), is_first=is_first)


def _require_real(table: FleetTable) -> None:
    usual = FleetTable(trainers=table.trainers)
    for name in FleetTable.__struct_fields__:
        if getattr(table, name) != getattr(usual, name):
            raise ConfigError(f"fleet.{name}: real processes have links and machines of their own; leave it out")
