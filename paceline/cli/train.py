"""`paceline train`: simulated training with little communication. Parses, shows progress and prints; computes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from paceline.base.errors import ConfigError
from paceline.cli.command import run_command
from paceline.cli.environment import get_cache_path

if TYPE_CHECKING:
    from paceline.lab.training.compare import Group
    from paceline.lab.training.config import RunConfig
    from paceline.lab.training.simulation import FitResult

train_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Training with little communication: simulate and compare methods."
)
MAX_JOBS = 256
STOPPED = 130
OutOption = Annotated[Path | None, typer.Option(help="Folder for the results.")]


@train_app.command()
def simulate(
    run: Annotated[Path, typer.Argument(help="A TOML file; examples/train/ has some.")],
    *,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped in --out.")] = False,
) -> None:
    """Train with virtual trainers on a virtual clock, counting every byte. Ctrl-C keeps a checkpoint."""
    run_command(lambda: _simulate(run, out or Path(run.stem), resume=resume))


@train_app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="TOML files; examples/train/methods/ has one for each method.")],
    *,
    out: OutOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps and one seed: does everything work?")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=MAX_JOBS, help="Processes, each with one thread.")] = 2,
) -> None:
    """Tune and train every method on equal terms; writes report.html and report.csv. A stopped command continues."""
    run_command(lambda: _compare(runs, out or Path("train-report"), quick=quick, jobs=jobs))


@train_app.command()
def worker(
    run: Annotated[Path, typer.Argument(help="A TOML file without simulated machines.")],
    *,
    out: OutOption = None,
) -> None:
    """Train with real processes: torchrun --nproc-per-node 4 -m paceline train worker run.toml."""
    run_command(lambda: _work(run, out or Path(run.stem)))


@train_app.command()
def methods() -> None:
    """List the methods, their settings with the defaults of their papers, and their sources."""
    run_command(_list_methods)


def _simulate(path: Path, out: Path, *, resume: bool) -> None:
    from paceline.lab.training.config import hash_config, parse_config, read_tables  # noqa: PLC0415 - loads torch
    from paceline.lab.training.parts import build_run, compute_content_hash  # noqa: PLC0415
    from paceline.lab.training.pause import begin, play_on  # noqa: PLC0415
    from paceline.lab.training.rows import split_tables  # noqa: PLC0415

    console = Console(stderr=True)
    tables, other = split_tables(read_tables(path))
    if other.get("compare", {}).get("sweep"):
        raise ConfigError(f"{path}: compare.sweep describes several runs; `paceline train compare` plays them")
    if other:
        console.print(f"{', '.join(other)}: only `paceline train compare` reads these tables.")
    config = parse_config(tables, str(path))
    prepared = build_run(config, get_cache_path() / "tokens")
    about = hash_config(config) + compute_content_hash(config).hex()
    run = begin(prepared, out, about=about, resume=resume)
    with _show_progress(console) as progress, _catch_stop() as stop:
        bar = progress.add_task(f"{prepared.course.strategy.name}, tokens", total=run.total_tokens)
        found = play_on(
            prepared,
            run,
            out,
            about=about,
            is_stopped=lambda: bool(stop),
            on_progress=lambda tokens: progress.update(bar, completed=tokens),
        )
    if found is None:
        console.print(f"Stopped; `paceline train simulate {path} --out {out} --resume` goes on.")
        raise typer.Exit(STOPPED)
    _write_fit(found, config, out)
    _print_fit(found, Console())
    print(f"{out}: result.json, points.csv, chart.html, model")


def _work(path: Path, out: Path) -> None:
    from paceline.lab.training.config import parse_config, read_tables  # noqa: PLC0415 - loads torch
    from paceline.lab.training.rows import split_tables  # noqa: PLC0415
    from paceline.lab.training.torchrun import play_process  # noqa: PLC0415

    tables, _ = split_tables(read_tables(path))
    config = parse_config(tables, str(path))
    played = play_process(config, get_cache_path() / "tokens")
    if played.is_first:
        _write_fit(played.fit, config, out)
        _print_fit(played.fit, Console())


def _write_fit(found: FitResult, config: RunConfig, out: Path) -> None:
    from paceline.lab.training.compare import make_single  # noqa: PLC0415 - loads torch
    from paceline.lab.training.record import write_file  # noqa: PLC0415
    from paceline.lab.training.report import write_page  # noqa: PLC0415

    found.save(out)
    page = write_page([make_single(config, found.record)], title=f"A run of {found.record.method}")
    write_file(out / "chart.html", page.encode())


def _compare(paths: list[Path], out: Path, *, quick: bool, jobs: int) -> None:
    from paceline.lab.training.compare import compare as play  # noqa: PLC0415 - loads torch
    from paceline.lab.training.pool import Store  # noqa: PLC0415
    from paceline.lab.training.record import write_file  # noqa: PLC0415
    from paceline.lab.training.report import write_page  # noqa: PLC0415
    from paceline.lab.training.rows import load_rows  # noqa: PLC0415
    from paceline.lab.training.summary import write_csv  # noqa: PLC0415

    rows = load_rows(paths, quick=quick)
    store = Store(records=out / "runs", tokens=get_cache_path() / "tokens")
    console = Console(stderr=True)
    with _show_progress(console) as progress:
        bars = [progress.add_task("", total=0, visible=False)]

        def tell(stage: str, steps: int) -> None:
            bars.append(progress.add_task(f"{stage} {len(rows)} rows, inner steps", total=steps, visible=steps > 0))

        try:
            groups = play(rows, store, jobs=jobs, tell=tell, on_progress=lambda n: progress.advance(bars[-1], n))
        except KeyboardInterrupt:
            console.print(f"Stopped; finished runs lie in {store.records}, and the same command goes on from there.")
            raise
    write_file(out / "report.csv", write_csv(groups).encode())
    write_file(out / "report.html", write_page(groups, quick=quick).encode())
    for group in groups:
        _print_group(group, Console())
    print(f"{out / 'report.html'}, {out / 'report.csv'}")


def _list_methods() -> None:
    from paceline.training.methods.presets.registry import describe_presets  # noqa: PLC0415 - loads torch

    shown = Table("name", "what it does", "settings and their defaults", "inner optimiser", "source")
    for line in describe_presets():
        settings = ", ".join(f"{name} {value}" for name, value in line.defaults.items())
        shown.add_row(line.name, line.purpose, settings, f"{line.local.name} {line.local.rate:g}", line.source)
    Console().print(shown)


def _print_fit(found: FitResult, console: Console) -> None:
    from paceline.lab.training.summary import show_bytes, show_factor  # noqa: PLC0415

    record = found.record
    shown = Table("figure", "value", title=f"{record.method}, {record.trainers} trainers")
    shown.add_row("loss of the average", "diverged" if record.loss is None else f"{record.loss:.4f}")
    for kind in sorted(record.sent | record.received):
        sent, received = record.sent.get(kind, 0), record.received.get(kind, 0)
        shown.add_row(f"{kind}: sent, received", f"{show_bytes(sent)}, {show_bytes(received)}")
    shown.add_row("sent by a trainer in a step", show_bytes(record.bytes_per_step))
    shown.add_row("less than fp32 DDP", show_factor(record.times_less))
    shown.add_row("compute utilisation", f"{record.utilisation:.1%}")
    shown.add_row("replica correlation", "" if record.correlation is None else f"{record.correlation:.4f}")
    shown.add_row("virtual time, rounds", f"{record.seconds:,.1f} s, {record.rounds:,}")
    console.print(shown)
    for event in record.events:
        console.print(event)


def _print_group(group: Group, console: Console) -> None:
    from paceline.lab.training.summary import make_lines, show_bytes, show_line_factor, show_line_gap  # noqa: PLC0415

    shown = Table("row", "seeds", "loss", "gap", "sent a step", "less than DDP", "utilisation", "virtual time")
    shown.title = group.name
    for line in make_lines(group):
        shown.add_row(
            line.label,
            str(line.seeds),
            "diverged" if line.loss is None else f"{line.loss:.4f}",
            show_line_gap(line),
            show_bytes(line.bytes_per_step),
            show_line_factor(line),
            f"{line.utilisation:.1%}",
            f"{line.virtual_seconds:,.0f} s",
        )
    console.print(shown)


def _show_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def _catch_stop() -> Iterator[list[int]]:
    """Filled by the first Ctrl-C, which lets the run end between two events; a second one ends it at once."""
    stop: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
