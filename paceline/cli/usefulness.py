"""`paceline econ usefulness`: where compute and rewards go, here and elsewhere. Parses and prints, computes nothing."""

from __future__ import annotations

import json as encoder
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from paceline.base.errors import ConfigError
from paceline.cli.command import run_command

if TYPE_CHECKING:
    from paceline.lab.usefulness import Shares, Usefulness

COLUMNS = ("useful", "race", "checking", "dummies", "capital")


def usefulness(
    *,
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=NUMBER of an input; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shares of compute and rewards that are useful, for Bitcoin, a 60/40 staking network and this one."""
    run_command(lambda: _print_usefulness(settings or [], as_json=json))


def _print_usefulness(settings: list[str], *, as_json: bool) -> None:
    from paceline.lab.usefulness import compare_usefulness  # noqa: PLC0415 - only this command needs it

    given = dict(_read_setting(text) for text in settings)
    if len(given) != len(settings):
        raise ConfigError("--set: one input is given twice")
    found = compare_usefulness(given)
    if as_json:
        data = asdict(found)
        data["capital_per_useful"] = found.capital_per_useful if math.isfinite(found.capital_per_useful) else None
        print(encoder.dumps(data))
        return
    _print_tables(found, Console())


def _read_setting(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or math.isnan(number):
        raise ConfigError(f"--set {text!r}: NAME=NUMBER")
    return name, number


def _print_tables(found: Usefulness, console: Console) -> None:
    for title, pick in (("compute", "compute"), ("rewards", "rewards")):
        shown = Table(f"share of {title}", "useful", "Race, mining", "checking", "dummies", "capital")
        for network in found.networks:
            shown.add_row(network.name, *_show_shares(getattr(network, pick)))
        console.print(shown)
    inputs = Table("input", "value", "origin", "source")
    for name, entry in found.inputs.items():
        inputs.add_row(name, f"{entry.value:g}", entry.origin, entry.source)
    console.print(inputs)
    for sentence in found.sentences:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _show_shares(shares: Shares) -> list[str]:
    return [f"{getattr(shares, name):.2%}" if getattr(shares, name) else "–" for name in COLUMNS]
