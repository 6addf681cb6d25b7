"""How a finding is shown: as JSON for programs, or as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from rich.console import Console

from paceline.base.integers import PPM

Found = TypeVar("Found", bound=msgspec.Struct)


def count_units(micro_units: int) -> str:
    """Units of compute of millionths."""
    return f"{micro_units / PPM:g} unit{'' if micro_units == PPM else 's'} of compute"


def print_found(found: Found, describe: Callable[[Found], Iterable[str]], *, as_json: bool) -> None:
    """Print what was found; `describe` makes its lines."""
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    console = Console(soft_wrap=True)
    for line in describe(found):
        console.print(line, markup=False, highlight=False)
