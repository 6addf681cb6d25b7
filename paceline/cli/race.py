"""`paceline race`: what this machine does in a Race. Parses, prints and owns the clock; `race.speed` measures."""

from __future__ import annotations

import json as encoder
import time
from collections.abc import Callable
from typing import Annotated

import typer

from paceline.cli.command import run_command

race_app = typer.Typer(no_args_is_help=True, add_completion=False, help="The timed contest that gives voting power.")


@race_app.callback()
def race() -> None:
    """Keep `bench` a word of its own: a group with one command would drop it."""


@race_app.command()
def bench(
    *,
    preset: Annotated[str, typer.Option(help="Size of the Race: paper, consumer, tiny or micro.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1 …")] = "cpu",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 5.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Nonces at a time. Default: the preset's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure nonces per second, and the share of what the matrix products alone would reach."""
    from paceline.race.speed import SpeedOptions, measure_race  # noqa: PLC0415 - loads torch

    def measure() -> None:
        options = SpeedOptions(preset=preset, device=device, seconds=seconds, batch=batch)
        figures = measure_race(options, get_clock(device))
        if json:
            print(encoder.dumps(figures))
            return
        for name, value in figures.items():
            print(f"{name:<32}{format_figure(value):>28}")

    run_command(measure)


def get_clock(device: str) -> Callable[[], float]:
    """Time of this process on a CPU, so that other work on the machine disturbs little; else of the clock."""
    return time.process_time if device == "cpu" else time.perf_counter


def format_figure(value: object) -> str:
    """Numbers with three to four digits that count, all else as it is."""
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
