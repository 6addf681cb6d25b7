"""Plays many runs in several processes and keeps each result by the hash of its configuration.

It refuses to know what the runs are for. Invariant: a run whose record is in the folder is not played again; a record is
written when its run is over, so whatever stops the command loses only what was under way.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paceline.base.errors import WorkError
from paceline.lab.training.config import RunConfig, hash_config
from paceline.lab.training.parts import build_run, compute_content_hash
from paceline.lab.training.record import RunRecord, read_record, write_record
from paceline.lab.training.simulation import finish

_TICK_SECONDS = 0.5
Progress = Callable[[int], None]
"""Called with the trainers' steps that were done since the last call."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where records and tokens lie."""

    records: Path
    tokens: Path

    def get_path(self, config: RunConfig) -> Path:
        """Of a record: it follows from the configuration and from the files that the configuration names."""
        return self.records / f"{hash_config(config)}-{compute_content_hash(config).hex()[:8]}.json"


def count_steps(config: RunConfig) -> int:
    """Inner steps of all trainers, the measure of progress."""
    return config.run.steps * config.fleet.trainers


def play_run(config: RunConfig, tokens_dir: Path, on_progress: Progress | None = None) -> RunRecord:
    """Play one run to its end.

    Errors: ConfigError for a model or data that do not fit, WorkError when no trainer is left.
    """
    prepared = build_run(config, tokens_dir)
    per_step, told = prepared.course.batch_tokens, 0

    def tell(tokens: int, _: int) -> None:
        nonlocal told
        done = tokens // per_step
        if on_progress is not None and done > told:
            on_progress(done - told)
            told = done

    run = prepared.start(tell)
    run.play()
    return finish(prepared, run.get_result()).record


def play_all(
    configs: Mapping[str, RunConfig], store: Store, *, jobs: int, on_progress: Progress | None = None
) -> dict[str, RunRecord]:
    """The records of all configurations, by their names; equal configurations are played once.

    Errors: those of the runs, and WorkError when a process dies; finished runs are kept.
    """
    paths = {name: store.get_path(config) for name, config in configs.items()}
    found = {path: record for path in set(paths.values()) if (record := read_record(path)) is not None}
    todo = {path: configs[name] for name, path in paths.items() if path not in found}
    tell = on_progress or (lambda _: None)
    # What is done already and what is the same run under another name takes no time.
    tell(sum(map(count_steps, configs.values())) - sum(map(count_steps, todo.values())))
    if todo:
        play = _play_here if jobs == 1 else _play_in_processes
        found |= play(todo, store, min(jobs, len(todo)), tell)
    return {name: found[path] for name, path in paths.items()}


def _play_here(todo: Mapping[Path, RunConfig], store: Store, _jobs: int, tell: Progress) -> dict[Path, RunRecord]:
    """One after the other; with one thread too, because the number of threads changes the order of sums."""
    threads, found = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for path in sorted(todo, key=str):
            found[path] = play_run(todo[path], store.tokens, tell)
            write_record(found[path], path)
    finally:
        torch.set_num_threads(threads)
    return found


def _play_in_processes(
    todo: Mapping[Path, RunConfig], store: Store, jobs: int, tell: Progress
) -> dict[Path, RunRecord]:
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    found: dict[Path, RunRecord] = {}
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(told,))
    try:
        # Long ones first, so that no process ends alone with the longest.
        ordered = sorted(todo, key=lambda path: (-count_steps(todo[path]), str(path)))
        futures = {pool.submit(_play_in_worker, todo[path], store.tokens, path): path for path in ordered}
        open_futures: set[Future[RunRecord]] = set(futures)
        while open_futures:
            done, open_futures = wait(open_futures, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
            _drain(told, tell)
            found |= {futures[future]: future.result() for future in done}
        _drain(told, tell)
    except BrokenProcessPool:
        raise WorkError("a process of the comparison died (out of memory?); run it again with fewer --jobs") from None
    except BaseException:
        _end_workers(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        told.close()
    return found


def _drain(told: Any, tell: Progress) -> None:
    while True:
        try:
            tell(told.get_nowait())
        except queue.Empty:
            return


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """A run under way has nothing to keep; waiting for it would only delay the end."""
    for process in list((pool._processes or {}).values()):  # noqa: SLF001 - the pool has no public way before 3.14
        process.terminate()


_told: Any = None


def _begin_worker(told: Any) -> None:
    global _told  # noqa: PLW0603 - what a process is given at its start
    _told = told
    # Ctrl-C reaches the whole group; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)


def _play_in_worker(config: RunConfig, tokens_dir: Path, path: Path) -> RunRecord:
    held, counted, last = 0, 0, time.monotonic()

    def tell(steps: int) -> None:
        nonlocal held, counted, last
        held, counted = held + steps, counted + steps
        if time.monotonic() - last > _TICK_SECONDS:
            _told.put(held)
            held, last = 0, time.monotonic()

    record = play_run(config, tokens_dir, tell)
    # Trainers that come and go do other numbers of steps than planned; the bar is to end full.
    _told.put(held + count_steps(config) - counted)
    write_record(record, path)
    return record
