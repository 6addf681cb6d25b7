"""DiLoCo by this package: the engine's replica over gloo."""

from __future__ import annotations

import torch
from work import (
    BATCH_SIZE,
    OUTER_MOMENTUM,
    OUTER_RATE,
    RATE,
    SEQUENCE_TOKENS,
    Stopwatch,
    make_batches,
    make_model,
    read_settings,
)
from work import Settings as PeerSettings

from paceline.lab.training.processes import ProcessPlan, run_process
from paceline.lab.training.worker import Meeting, meet
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.presets.registry import build_strategy
from paceline.training.methods.replica import Course
from paceline.training.methods.workbench import Workbench


def build_course(settings: PeerSettings, model: FlatModel) -> Course:
    local = LocalOptimizer(rate=RATE, settings={"fused": True}, schedule=Schedule(kind="constant"))
    outer = {"inner_steps": settings.inner_steps, "outer_rate": OUTER_RATE, "outer_momentum": OUTER_MOMENTUM}
    return Course(
        strategy=build_strategy("diloco", outer, trainers=settings.world, local=local),
        bench=Workbench(model),
        total_steps=settings.steps,
        seed=b"peers",
        get_batch=make_batches(settings).get_batch,
        batch_tokens=BATCH_SIZE * SEQUENCE_TOKENS,
    )


def main() -> None:
    settings = read_settings()
    module = make_model()
    model = FlatModel(module)
    with meet(Meeting()):
        course = build_course(settings, model)
        # Evaluations would be paid by this side only.
        plan = ProcessPlan(evaluate_every=settings.steps)
        torch.distributed.barrier()
        watch = Stopwatch()
        result = run_process(course, plan, model.values.clone())
        model.values.copy_(result.params)
        # Meeting the others and gathering the average are not part of the loops that the peers are timed by.
        meter = result.meters[settings.rank]
        watch.finish(settings, module, meter.compute_seconds + meter.idle_seconds)


if __name__ == "__main__":
    main()
