"""One process of the tests: `process_worker.py FOLDER RANK WORLD SCENE KIND...` plays the kinds one after the other."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from method_runs import KINDS, draw_batch, make_course, make_evaluate

from paceline.base.errors import PacelineError
from paceline.lab.training.accounts import UPDATE
from paceline.lab.training.processes import Process, ProcessPlan
from paceline.lab.training.worker import Meeting, RunParts, meet

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


@contextmanager
def count_handed_bytes():
    """What torch.distributed is really given to send, broadcasts by their source only."""
    handed = [0]
    isend, broadcast = dist.isend, dist.broadcast

    def count_isend(tensor, **settings):
        handed[0] += tensor.numel() * tensor.element_size()
        return isend(tensor, **settings)

    def count_broadcast(tensor, **settings):
        if dist.get_world_size() > 1 and settings["group_src"] == dist.get_rank():
            handed[0] += tensor.numel() * tensor.element_size()
        return broadcast(tensor, **settings)

    dist.isend, dist.broadcast = count_isend, count_broadcast
    try:
        yield handed
    finally:
        dist.isend, dist.broadcast = isend, broadcast


def play_kind(folder, rank, world, scene, kind):
    timeout = 3.0 if scene in {"dies", "stops"} else 60.0
    with count_handed_bytes() as handed, meet(Meeting(method=f"file://{folder}/{kind}.meet", rank=rank, world=world)):
        parts = build(kind, scene, rank, timeout)
        process = Process(parts.course, parts.plan, parts.params)
        result = process.play()
    content = {name: getattr(result, name) for name in ("params", "events", "rounds", "param_count")}
    content["points"] = [vars(point) for point in result.points]
    content["meters"] = [
        vars(meter) | {"sent": dict(meter.sent), "received": dict(meter.received)} for meter in result.meters
    ]
    content["sent"] = process.updates.sent[UPDATE]
    content["counted"] = sum(sum(transport.sent.values()) for transport in (process.updates, process.checks))
    content["handed"] = handed[0]
    torch.save(content, Path(folder) / f"{kind}-{rank}.pt")


def main():
    folder, rank, world, scene, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        for kind in kinds:
            play_kind(folder, int(rank), int(world), scene, kind)
    except PacelineError as problem:
        sys.stdout.write(f"{type(problem).__name__}: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
