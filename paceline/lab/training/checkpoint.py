"""A paused run in one file: everything between two events, written beside the old file and then put in its place.

It refuses to know configuration files, data and models: the caller hands the course and the plan in again. Reading runs
no code from the file: tensors, plain containers and the few dataclasses named here. Invariant: tensors and tuples that
trainers share in memory are shared again after reading, so a resumed run goes on bit for bit like one never stopped.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_parts
from paceline.lab.training.accounts import Evaluation, Evaluations, Meter, Point
from paceline.lab.training.rounds import Round, SyncerState
from paceline.lab.training.run import Actor, Plan, Run
from paceline.training.codecs.codec import Layout
from paceline.training.methods.replica import Course, Outcome, Outgoing, Pending, Replica

_FORMAT = 1
_KNOWN: list[Any] = [Evaluation, Evaluations, Point, Layout, Outcome, Outgoing, Pending]
"""Dataclasses in the file that hold values only. All others are taken apart, because something in them is alive."""

_LIVE_RUN = frozenset({"course", "plan", "actors", "meters", "rounds", "syncers", "shared"})
_LIVE_REPLICA = frozenset({"course", "trainer", "optimizer", "optimizer_owner", "desk", "tamper"})
_LIVE_ACTOR = frozenset({"replica"})
_LIVE_RULE = frozenset({"rule"})


def write_checkpoint(path: Path, run: Run, *, about: str = "") -> None:
    """Write a run that is between two events; `about` names what the course cannot tell, such as the hash of the data.

    Errors: WorkError when the file cannot be written; an older file of that name is then whole.
    Effects: replaces the file at once; what lies on the workbench is kept with its trainer.
    """
    content = {
        "format": _FORMAT,
        "fingerprint": compute_fingerprint(run.course, run.plan, about),
        "run": _pack_run(run),
    }
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as problem:
        beside.unlink(missing_ok=True)
        raise WorkError(
            f"checkpoint {path}: cannot be written ({_find_cause(problem)}); free space there or choose another place;"
            " an older checkpoint is untouched"
        ) from problem


def read_checkpoint(path: Path, course: Course, plan: Plan, *, about: str = "") -> Run:
    """The run that was written with an equal course and plan, ready to `play` on.

    Errors: ConfigError when the file is missing, damaged, or of another configuration.
    Effects: none on the parameters that lie in the module until the run is played.
    """
    content = _load(path)
    if content.get("format") != _FORMAT:
        raise ConfigError(f"checkpoint {path}: format {content.get('format')!r}, this version reads {_FORMAT}")
    if content["fingerprint"] != compute_fingerprint(course, plan, about):
        raise ConfigError(
            f"checkpoint {path}: written by a run of another configuration (strategy, seed, steps, model, fleet, data);"
            " resume with the same one, or delete the file to start anew"
        )
    run = Run(course, plan, course.bench.model.values.clone())
    try:
        _unpack_run(run, content["run"])
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ConfigError(f"checkpoint {path}: damaged ({problem!r}); delete it to start anew") from problem
    return run


def compute_fingerprint(course: Course, plan: Plan, about: str = "") -> str:
    """A hash of all settings from which a run's events follow."""
    described = _describe(
        (
            (course.strategy, course.total_steps, course.seed, course.batch_tokens, course.bench.model.layout),
            (plan.fleet, plan.evaluate_every, plan.timeout_seconds, plan.pretend_params, about),
        )
    )
    return hash_parts("training-checkpoint", described.encode()).hex()


def _describe(value: Any) -> str:
    """Equal settings give equal text, whatever the order of their tables."""
    if is_dataclass(value) and not isinstance(value, type):
        inside = ", ".join(f"{entry.name}={_describe(getattr(value, entry.name))}" for entry in fields(value))
        return f"{type(value).__name__}({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_describe(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_describe, value)) + ")"
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_KNOWN):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"checkpoint {path}: no such file") from None
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, ValueError) as problem:
        raise ConfigError(f"checkpoint {path}: damaged or no checkpoint; delete it to start anew") from problem
    if not isinstance(content, dict) or not {"format", "fingerprint", "run"} <= content.keys():
        raise ConfigError(f"checkpoint {path}: no checkpoint of a training run")
    return content


def _pack_run(run: Run) -> dict[str, Any]:
    run.course.bench.flush()
    return _take(run, _LIVE_RUN) | {
        "actors": [_pack_actor(actor) for actor in run.actors],
        "meters": [vars(meter) | {"sent": dict(meter.sent), "received": dict(meter.received)} for meter in run.meters],
        "rounds": [_take(found, _LIVE_RULE) for found in run.rounds.values()],
        "syncers": [_take(syncer, _LIVE_RULE) for syncer in run.syncers],
        "shared": None if run.shared is None else _pack_optimizer(run.shared),
    }


def _pack_actor(actor: Actor) -> dict[str, Any]:
    replica = actor.replica
    packed = None if replica is None else _take(replica, _LIVE_REPLICA)
    if replica is not None and packed is not None:
        packed["params"] = replica.desk.params
        packed["optimizer"] = None if replica.optimizer_owner == "all" else _pack_optimizer(replica.optimizer)
    return _take(actor, _LIVE_ACTOR) | {"replica": packed}


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return {
        "state": [dict(optimizer.state[param]) if param in optimizer.state else None for param in params],
        "groups": [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ],
    }


def _unpack_run(run: Run, packed: dict[str, Any]) -> None:
    rules = run.course.strategy.rules
    if run.shared is not None:
        _unpack_optimizer(run.shared, packed["shared"])
    run.rounds = {}
    for found in packed["rounds"]:
        run.rounds[found["round_key"]] = Round(rule=rules[found["round_key"][0]], **found)
    run.syncers = [SyncerState(rule=rules[0], **syncer) for syncer in packed["syncers"]]
    run.meters = [_unpack_meter(meter) for meter in packed["meters"]]
    run.actors = [_unpack_actor(run, actor) for actor in packed["actors"]]
    _put(run, packed, _LIVE_RUN)
    _restore_outcomes(run)


def _unpack_meter(packed: dict[str, Any]) -> Meter:
    sent, received = defaultdict(int, packed["sent"]), defaultdict(int, packed["received"])
    return Meter(**(packed | {"sent": sent, "received": received}))


def _unpack_actor(run: Run, packed: dict[str, Any]) -> Actor:
    actor = Actor(**(packed | {"replica": None}))
    saved = packed["replica"]
    if saved is not None:
        actor.replica = replica = Replica(run.course, actor.trainer, saved["params"], run.shared)
        replica.tamper = run.plan.fleet.machines[actor.trainer].make_tamper()
        if saved["optimizer"] is not None:
            _unpack_optimizer(replica.optimizer, saved["optimizer"])
        _put(replica, saved, _LIVE_REPLICA | {"params"})
    return actor


def _unpack_optimizer(optimizer: torch.optim.Optimizer, packed: dict[str, Any]) -> None:
    # torch's own load_state_dict casts what it loads; bit for bit means as it was.
    for group, saved in zip(optimizer.param_groups, packed["groups"], strict=True):
        group.update(saved)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, state in zip(params, packed["state"], strict=True):
        if state is not None:
            optimizer.state[param] = state


def _restore_outcomes(run: Run) -> None:
    """What outcomes remember goes by the identity of objects, which are others now."""
    delivered = [data[1] for *_, data in run.queue if isinstance(data, tuple) and isinstance(data[1], Outcome)]
    kept = [found.outcome for found in run.rounds.values()]
    pending = [
        waiting.outcome for actor in run.actors if actor.replica is not None for waiting in actor.replica.pending
    ]
    outcomes = {id(outcome): outcome for outcome in (*delivered, *kept, *pending) if outcome is not None}
    for outcome in outcomes.values():
        outcome.restore(outcome.forget_identities())


def _take(thing: object, live: frozenset[str]) -> dict[str, Any]:
    """All attributes but those that are alive, so that one added later is not forgotten."""
    return {name: value for name, value in vars(thing).items() if name not in live}


def _put(thing: object, packed: dict[str, Any], live: frozenset[str]) -> None:
    expected = vars(thing).keys() - live
    if packed.keys() - live != expected:
        raise KeyError(*sorted((packed.keys() - live) ^ expected))
    vars(thing).update({name: packed[name] for name in expected})


def _find_cause(problem: BaseException) -> str:
    """The error of the disk; torch hides it behind one of its own."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(problem).partition("\n")[0]
