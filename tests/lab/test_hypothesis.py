"""Appendix G again: every printed figure, what its line's own operands give, and the corrected figure, to the unit."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli.hypothesis import show_exact
from paceline.cli.main import app
from paceline.lab.hypothesis import (
    MARK,
    compute_hypothesis,
    compute_missing_share,
    list_supply,
    round_half_up,
)

PRINTED = (
    ["460", "4.2", "4.7", "0.89", "410", "892", "655", "888"],
    ["640", "7", "0.32", "21.82", "13967", "21823", "1024", "619"],
)
"""As Appendix G prints them, in its order."""
HOLD = ("yyyynynn", "yyynyyyy")


def read(value):
    return Fraction(value)


def figures(which, name):
    return [getattr(step, name) for step in compute_hypothesis()[which].steps]


@pytest.mark.parametrize("which", [0, 1])
def test_every_printed_figure_is_there_and_those_that_hold_hold_to_the_last_digit(which):
    assert figures(which, "printed") == PRINTED[which]
    assert "".join("y" if step.holds else "n" for step in compute_hypothesis()[which].steps) == HOLD[which]


def test_the_lines_own_operands_of_the_first_scenario():
    again = figures(0, "again")
    assert again[0] == 3 * 50 + 60 + 90 + 160 == 460
    assert again[1:3] == [read("4.24"), read("36.8") / read("7.8")]
    assert again[3:6] == [read("4.2") / read("4.7"), read("409.4"), 892]
    assert again[6:] == [100 * (Fraction(3100, 410) - 1), 100 * (Fraction(8820, 892) - 1)]


def test_the_lines_own_operands_of_the_second_scenario():
    again = figures(1, "again")
    assert again[0] == 6 * 50 + 60 + 120 + 160 == 640
    assert again[1:4] == [7, Fraction(119, 370), 7 / read("0.32")]
    assert again[4:6] == [read("21.823") * 640, 21_823]
    assert [round_half_up(value, 0) for value in again[4:]] == [13_967, 21_823, 1_024, 619]


def test_without_rounding_in_between():
    price = read("4.24") * read("7.8") / read("36.8")
    assert figures(0, "exact") == [
        460, read("4.24"), read("36.8") / read("7.8"), price, price * 460, price * 1000,
        100 * (3100 / (price * 460) - 1), 100 * (8800 / (price * 1000) - 1),
    ]  # fmt: skip
    price = 7 * Fraction(370, 119)
    assert figures(1, "exact")[3:6] == [price, price * 640, price * 1000]


def test_corrected_by_the_pool_of_appendix_e_and_the_rows_of_appendix_f():
    first, second = figures(0, "corrected"), figures(1, "corrected")
    assert (first[0], second[0]) == (460 + 60, 640 + 60)
    # Fees of row k: 50 M (1 - s) / s, to the nicoin; s of rows 3 and 6 is 57.6 and 29.4912 %.
    for found, share, volume in ((first, read("0.576"), read("7.8")), (second, read("0.294912"), Fraction(370))):
        price = 10 * (1 - share) * volume / (50 * (1 - share) / share)
        assert round_half_up(found[3], 9) == round_half_up(price, 9)
        assert found[4] == found[3] * found[0] and found[5] == found[3] * 1000
    assert [round_half_up(value, 3) for value in second[3:6]] == [read("21.823"), read("15276.442"), read("21823.488")]
    assert [round_half_up(value, 1) for value in (*first[6:], *second[6:])] == list(
        map(read, ("84.9", "89.8", "90.3", "86.1"))
    )


def test_the_printed_price_of_the_second_scenario_follows_from_appendix_f_only():
    step = compute_hypothesis()[1].steps[3]
    assert round_half_up(step.corrected, 2) == read(step.printed) != round_half_up(step.exact, 2)
    assert "29.4912" in step.slip


def test_every_line_that_does_not_hold_names_a_slip():
    for scenario in compute_hypothesis():
        assert all(step.slip for step in scenario.steps if not step.holds)
        assert all(entry.wording and entry.source == "Appendix G" for entry in scenario.inputs.values())
        assert any("tokens and requests" in slip for slip in scenario.slips)


@pytest.mark.parametrize(("behind", "share"), [(0, 0), (100, 50), (300, 75)])
def test_twice_as_much_is_half_of_it_missing(behind, share):
    assert compute_missing_share(Fraction(behind)) == share


def test_the_shares_of_appendix_e_come_out():
    rows = {row.name: row for row in list_supply()}
    assert all(row.percent == row.printed_percent for row in rows.values())
    assert [row.coins for row in rows.values()] == [840_000_000, 600_000_000, 120_000_000, 120_000_000, 160_000_000]
    parts = [row for name, row in rows.items() if name != "Incentives to Hardware Providers"]
    assert sum(row.coins for row in parts) == 1_000_000_000 and sum(row.percent for row in parts) == 100


def test_the_command_marks_it_as_the_papers_hypothesis():
    shown = CliRunner().invoke(app, ["econ", "hypothesis"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and shown.stdout.startswith(MARK)
    assert "0.892 follows from no figure before it" in shown.stdout and "Founders allocation" in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["econ", "hypothesis", "--json"]).stdout)
    assert data["mark"] == MARK
    step = data["scenarios"][0]["steps"][4]
    assert (step["printed"], step["from_printed_operands"], step["from_inputs"]) == ("410", "409.400000", "413.400000")
    assert step["holds"] is False and data["supply"][0]["percent"] == "84.000000"


@pytest.mark.parametrize(("value", "shown"), [("1/3", "0.333333"), ("2/3", "0.666667"), ("12", "12.000000")])
def test_exact_values_have_six_digits(value, shown):
    assert show_exact(Fraction(value)) == shown


def test_the_table_of_the_page_is_what_the_command_prints():
    page = Path("docs/COMPARISONS.md").read_text("utf-8")
    printed = CliRunner().invoke(app, ["econ", "hypothesis"], env={"COLUMNS": "80"}).stdout
    other = CliRunner().invoke(app, ["econ", "usefulness"], env={"COLUMNS": "80"}).stdout
    blocks = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block, told in zip(blocks, (printed, other), strict=True):
        for line in block.splitlines()[1:]:
            assert line.rstrip(" …") in told, line


@pytest.mark.parametrize("words", [("hypothesis",), ("table",), ("table", "--fund-ppm", "1000000"), ("usefulness",)])
def test_no_cell_is_cut_at_80_columns(words):
    done = CliRunner().invoke(app, ["econ", *words], env={"COLUMNS": "80"})
    assert done.exit_code == 0 and "…" not in done.stdout, done.stdout
