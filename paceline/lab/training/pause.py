"""Plays one run for the command line: to its end, or until it is asked to stop, and on from where it stopped.

It refuses to know terminals and signals. Invariant: a run that was stopped and resumed gives the result of one that was not,
bit for bit; the checkpoint is gone once the run is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.lab.training.checkpoint import read_checkpoint, write_checkpoint
from paceline.lab.training.parts import PreparedRun
from paceline.lab.training.run import Run
from paceline.lab.training.simulation import FitResult, finish

CHECKPOINT_FILE = "checkpoint.pt"
KEEP_EVERY_SECONDS = 120.0
"""A run that is killed loses at most this much real time."""


def begin(prepared: PreparedRun, folder: Path, *, about: str, resume: bool) -> Run:
    """A fresh run, or the one whose checkpoint lies in the folder.

    Errors: ConfigError when there is a checkpoint that was not asked for, or none, or one of another configuration.
    """
    path = folder / CHECKPOINT_FILE
    if not resume:
        if path.exists():
            raise ConfigError(f"{path}: a stopped run lies there; go on with --resume, or delete it")
        return prepared.start()
    return read_checkpoint(path, prepared.course, prepared.plan, about=about)


def play_on(
    prepared: PreparedRun,
    run: Run,
    folder: Path,
    *,
    about: str,
    is_stopped: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> FitResult | None:
    """Play to the end; None when `is_stopped` said so first, and then a checkpoint lies in the folder.

    Errors: those of the run, and WorkError when the checkpoint cannot be written.
    """
    path, kept_at = folder / CHECKPOINT_FILE, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    while not run.play(run.count_tokens() + 1):
        on_progress(run.count_tokens())
        stopped = is_stopped()
        if stopped or time.monotonic() - kept_at > KEEP_EVERY_SECONDS:
            write_checkpoint(path, run, about=about)
            kept_at = time.monotonic()
        if stopped:
            return None
    on_progress(run.count_tokens())
    found = finish(prepared, run.get_result())
    path.unlink(missing_ok=True)
    return found
