"""`paceline audit`: play an attack against the network's own checks on this machine. Parses, prints and writes; no rules."""

from __future__ import annotations

import json as encoder
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.command import run_command
from paceline.cli.environment import get_cache_path
from paceline.cli.files import require_target, write_target

audit_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Attack the network's checks, here.")


@audit_app.callback()
def audit() -> None:
    """Keep `inference` a word of its own: a group with one command would drop it."""


@audit_app.command()
def inference(
    *,
    attack: Annotated[str, typer.Option(help="Name of the attack; a wrong one lists them all.")],
    answers: Annotated[int, typer.Option(min=4, max=396, help="Answers of 64 tokens to play it on.")] = 24,
    html: Annotated[Path | None, typer.Option(help="Write the chart to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How surely the tests of answers catch one attack, by answer length, and how often they alarm falsely."""
    from paceline.lab.audit import audit_attack, build_chart  # noqa: PLC0415 - loads torch
    from paceline.models.language import prepare_model  # noqa: PLC0415 - loads torch

    def play() -> None:
        require_target(html)
        path = prepare_model(get_cache_path(), progress=_tell)
        curves = audit_attack(path, attack, answers, _tell)
        if html is not None:
            write_target(html, build_chart(curves))
        if json:
            print(encoder.dumps([asdict(curve) for curve in curves]))
            return
        for curve in curves:
            print(f"honest: {curve.name}" if curve.honest else curve.name)
            for point in curve.points:
                interval = f"{point.low:.3f} to {point.high:.3f}"
                print(f"{point.tokens:>6} tokens {point.caught:>6} of {point.answers:<6} 95 % interval {interval}")

    run_command(play)


def _tell(line: str) -> None:
    typer.echo(line, err=True)
