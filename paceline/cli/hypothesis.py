"""`paceline econ hypothesis`: the paper's scenarios about the price of a coin, recomputed. Prints, computes nothing."""

from __future__ import annotations

import json as encoder
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from paceline.lab.hypothesis import Scenario

DIGITS = 6
HEADS = (
    "operands: computed from those that the printed line names; unrounded: from the inputs, without rounding in between; "
    "holds: whether the printed figure follows from its operands."
)


def hypothesis(*, json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """The paper's Appendix G with its own inputs, and the corrected figure beside each slip. A hypothesis, no promise."""
    from paceline.lab.hypothesis import MARK, compute_hypothesis, list_supply  # noqa: PLC0415 - only this command needs it

    scenarios, supply = compute_hypothesis(), list_supply()
    if json:
        rows = [{"name": row.name, "coins": row.coins, "percent": show_exact(row.percent)} for row in supply]
        print(encoder.dumps({"mark": MARK, "scenarios": [_make_json(found) for found in scenarios], "supply": rows}))
        return
    console = Console()
    for line in (MARK, HEADS):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for found in scenarios:
        _print_scenario(found, console)
    shown = Table("Appendix E", "coins", "share", "printed")
    for row in supply:
        shown.add_row(row.name, f"{row.coins:,}", f"{show_short(row.percent)} %", f"{row.printed_percent} %")
    console.print(shown)


def show_exact(value: Fraction) -> str:
    """A fraction as a decimal number with six digits behind the point, half up."""
    from paceline.lab.hypothesis import round_half_up  # noqa: PLC0415 - only this command needs it

    whole, part = divmod(int(round_half_up(value, DIGITS) * 10**DIGITS), 10**DIGITS)
    return f"{whole}.{part:0{DIGITS}}"


def show_short(value: Fraction) -> str:
    """The same with as many digits as are needed, at most four that count below a thousand."""
    return f"{float(value):,.0f}" if value >= 1000 else f"{float(value):.4g}"


def _print_scenario(found: Scenario, console: Console) -> None:
    inputs = Table(f"{found.name}: the paper's inputs", "value", "")
    for entry in found.inputs.values():
        inputs.add_row(entry.wording, show_short(entry.value), entry.unit)
    heads = ("printed", "operands", "unrounded", "corrected", "holds")
    steps = Table("figure, unit", *(Column(head, justify="right", no_wrap=True) for head in heads))
    for step in found.steps:
        figures = (show_short(value) for value in (step.again, step.exact, step.corrected))
        steps.add_row(f"{step.name}, {step.unit}", step.printed, *figures, "yes" if step.holds else "no")
    console.print(inputs)
    console.print(steps)
    for step in found.steps:
        if step.slip:
            console.print(f"- {step.name}: {step.slip}.", markup=False, highlight=False, soft_wrap=True)
    for slip in found.slips:
        console.print(f"- {slip}", markup=False, highlight=False, soft_wrap=True)


def _make_json(found: Scenario) -> dict[str, Any]:
    inputs = [
        {"wording": entry.wording, "value": show_exact(entry.value), "unit": entry.unit, "source": entry.source}
        for entry in found.inputs.values()
    ]
    steps = [
        {
            "name": step.name,
            "formula": step.formula,
            "unit": step.unit,
            "printed": step.printed,
            "from_printed_operands": show_exact(step.again),
            "from_inputs": show_exact(step.exact),
            "corrected": show_exact(step.corrected),
            "holds": step.holds,
            "slip": step.slip,
        }
        for step in found.steps
    ]
    return {"name": found.name, "inputs": inputs, "steps": steps, "slips": list(found.slips)}
