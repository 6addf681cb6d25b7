"""One process of the tests: `process_worker.py FOLDER RANK WORLD SCENE KIND...` plays the kinds one after the other."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from method_runs import KINDS, draw_batch, make_course, make_evaluate

from paceline.base.errors import PacelineError
from paceline.lab.training.processes import Process, ProcessPlan
from paceline.lab.training.worker import Meeting, RunParts, work

TROUBLE = (1, 9)
"""Trainer and step at which a scene's trouble happens."""


def get_batch_of(scene):
    def get_batch(trainer, step):
        batch = draw_batch(trainer, step)
        if (trainer, step) != TROUBLE:
            return batch
        if scene == "nan":
            return batch * float("nan")
        if scene == "dies":
            os._exit(3)
        if scene == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        if scene == "fails":
            return batch[:, :3]
        return batch

    return get_batch


def build(kind, scene, rank, timeout):
    course = make_course(KINDS[kind], get_batch=get_batch_of(scene), seed=1 + rank if scene == "differs" else 1)
    plan = ProcessPlan(evaluate_every=8, timeout_seconds=timeout, evaluate=make_evaluate(course))
    return RunParts(course=course, plan=plan, params=course.bench.model.values.clone())


def main():
    folder, rank, world, scene, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    timeout = 3.0 if scene in {"dies", "stops"} else 60.0
    counts = []

    def note_counts(self):
        counts.append({"sent": dict(self.updates.sent), "received": dict(self.updates.received)})
        return close(self)

    close, Process._close = Process._close, note_counts
    for kind in kinds:
        meeting = Meeting(method=f"file://{folder}/{kind}.meet", rank=int(rank), world=int(world))
        try:
            result = work(lambda kind=kind: build(kind, scene, int(rank), timeout), meeting)
        except PacelineError as problem:
            print(f"{type(problem).__name__}: {problem}", flush=True)
            return 1
        content = {name: getattr(result, name) for name in ("params", "events", "rounds", "param_count")}
        content["points"] = [vars(point) for point in result.points]
        content["meters"] = [
            vars(meter) | {"sent": dict(meter.sent), "received": dict(meter.received)} for meter in result.meters
        ]
        torch.save(content | {"counts": counts[-1]}, Path(folder) / f"{kind}-{rank}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
