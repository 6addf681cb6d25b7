"""`paceline race bench` as a person types it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.cli.race import format_figure


def run(*words):
    return CliRunner().invoke(app, ["race", "bench", "--seconds", "0.1", *words])


def test_json_is_one_object_with_the_share_of_the_peak():
    done = run("--preset", "micro", "--json")
    assert done.exit_code == 0
    figures = json.loads(done.stdout)
    assert figures["preset"] == "micro"
    assert figures["share_of_products_alone"] > 0
    assert figures["nonces_per_second"] > 0


def test_table_names_every_figure():
    done = run("--preset", "micro", "--batch", "16")
    assert done.exit_code == 0
    assert "nonces_per_second" in done.stdout


@pytest.mark.parametrize("words", [("--preset", "huge"), ("--device", "abacus")])
def test_invalid_words_end_with_one_line_and_code_2(words):
    done = run(*words)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.500"), (12.4, "12"), (12_345.0, "12,345"), (7_000, "7,000"), ("a", "a")]
)
def test_figures_show_the_digits_that_count(value, text):
    assert format_figure(value) == text
