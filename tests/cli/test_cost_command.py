"""`paceline cost` as a person types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.cli.cost import read_count, read_method_setting
from paceline.cli.main import app

ON = ("--on", "2026-07-01")
PAGE = Path("docs/COSTS.md")


def run(*words, columns="200"):
    return CliRunner().invoke(app, ["cost", *words, *ON], env={"COLUMNS": columns})


def test_a_million_tokens_name_every_input_with_its_origin_and_who_wins():
    done = run("tokens")
    assert done.exit_code == 0, done.output
    for word in ("measured", "assumption", "example row", "published", "rule", "given", "cloud_utilisation"):
        assert word in done.stdout
    assert "wins by the medians" in done.stdout and "tokens a month for each rented GPU" in done.stdout


def test_the_title_names_the_model_whose_speed_counts():
    assert run("tokens").stdout.startswith("1M tokens of answers of Llama 3.1 8B, H100")
    assert run("tokens", "--params", "8.03B").stdout.startswith("1M tokens of answers of Llama 3.1 8B, H100")
    assert run("tokens", "--throughput", "9", "--params", "70B", "--gpus-per-machine", "2").stdout.startswith(
        "1M tokens of answers, H100"
    )


@pytest.mark.parametrize(
    "words",
    [("tokens",), ("train", "--params", "1.1B", "--tokens", "22B"), ("fine-tune", "--params", "1B", "--tokens", "1M")],
)
def test_nothing_is_cut_at_80_columns(words):
    done = run(*words, columns="80")
    assert done.exit_code == 0 and "…" not in done.stdout and len(done.stdout.splitlines()) < 90


def test_a_run_and_a_fine_tune_as_json():
    trained = run("train", "--params", "1.1B", "--tokens", "22B", "--machines", "4", "--json")
    assert trained.exit_code == 0, trained.output
    data = json.loads(trained.stdout)
    assert data["work"]["machines"] == 4 and data["work"]["params"] == 1.1e9 and data["on"] == "2026-07-01"
    assert data["costs"]["cloud"]["low"]["dollars"] < data["costs"]["cloud"]["high"]["dollars"]
    words = ("--params", "8B", "--adapter-params", "40M", "--tokens", "20M", "--batch", "1", "--gpu", "RTX 4090")
    tuned = run("fine-tune", *words, "--cloud-gpu", "H100", "--json")
    data = json.loads(tuned.stdout)
    assert data["work"]["adapter_params"] == 4e7
    assert {line["name"]: line["median"] for line in data["inputs"]}["subsidy"] == pytest.approx(0.9)


def test_a_run_shows_hours_interruptions_bytes_and_what_an_all_reduce_would_send():
    done = run("train", "--params", "1.1B", "--tokens", "22B", "--machines", "8")
    for word in (
        "this network, TB sent",
        "cloud, interruptions expected",
        "$ per useful TFLOP-hour",
        "500.0 times that",
    ):
        assert word in done.stdout
    assert "the number of tokens: " in done.stdout and "waits for messages" in done.stdout
    large = run("train", "--params", "70B", "--tokens", "1T", "--machines", "16", "--gpus-per-machine", "8")
    assert "The cloud wins: this network cannot do it" in large.stdout and "moves the answer" not in large.stdout


def test_settings_of_the_method_change_the_bytes():
    def count(*words):
        done = run("train", "--params", "1B", "--tokens", "10B", "--json", *words)
        return json.loads(done.stdout)["costs"]["network"]["median"]["bytes_sent"]

    often, seldom = count("--method-set", "inner_steps=50"), count("--method-set", "inner_steps=100")
    assert often == pytest.approx(2 * seldom)
    assert count("--method", "opendiloco-fp16", "--method-set", "inner_steps=100") == pytest.approx(seldom / 2)


def test_own_prices_and_a_csv(tmp_path):
    prices, table = tmp_path / "mine.csv", tmp_path / "out.csv"
    prices.write_text(
        "provider,kind,gpu,gpus,tier,dollars_per_hour,source,seen\n"
        "me,cloud,H100,2,reserved,6,my contract,2026-06-30\nfriend,market,H100,1,on-demand,1,a letter,2026-06-30\n"
    )
    done = run("tokens", "--prices", str(prices), "--csv", str(table), "--against", "cloud", "--tier", "reserved")
    assert done.exit_code == 0, done.output
    rows = {(row["what"], row["name"]): row for row in csv.DictReader(io.StringIO(table.read_text()))}
    assert rows["input", "cloud_price"]["median"] == "3.0" and rows["input", "cloud_price"]["origin"] == "given"
    assert {name for what, name in rows if what == "cost"} == {"cloud", "alone", "network"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("tokens", "--tokens", "many"), "--tokens 'many'"),
        (("tokens", "--against", "sky"), "--against 'sky'"),
        (("tokens", "--tier", "free"), "--tier 'free'"),
        (("tokens", "--provider", "Nobody"), "no row for H100 fits"),
        (("tokens", "--prices", "none.csv"), "none.csv"),
        (("tokens", "--figures", "none.toml"), "none.toml"),
        (("tokens", "--csv", "no/such/out.csv"), "its folder does not exist"),
        (("tokens", "--csv", "tests"), "tests is a folder"),
        (("tokens", "--params", "70B"), "--params 70B: the speed is of Llama 3.1 8B, which has 8B; give --throughput"),
        (("tokens", "--params", "70B", "--set", "cloud_speed=9"), "which has 8B; give --set network_speed=…"),
        (
            ("tokens", "--cloud-gpu", "A100 80GB"),
            "of DeepSeek R1 Distill Qwen 7B and of Llama 3.1 8B; give --set cloud_speed",
        ),
        (("tokens", "--cloud-gpu", "L4"), "Give yours with --set cloud_speed=… --set network_speed=…"),
        (
            ("tokens", "--throughput", "9", "--cloud-gpu", "A100 80GB"),
            "two cards: give --set cloud_speed=… --set network_speed=…",
        ),
        (
            ("tokens", "--throughput", "9", "--set", "cloud_speed=9"),
            "give --set cloud_speed=… --set network_speed=… alone",
        ),
        (
            (
                "train",
                "--params",
                "1B",
                "--tokens",
                "1B",
                "--method-set",
                "inner_steps=5",
                "--method-set",
                "inner_steps=6",
            ),
            "--method-set inner_steps: it is given twice",
        ),
        (("tokens", "--set", "cloud_price"), "--set cloud_price"),
        (("train", "--params", "1B", "--tokens", "1B", "--method-set", "inner_steps"), "--method-set"),
        (("train", "--params", "1B", "--tokens", "1B", "--method-set", "inner_steps=half"), "inner_steps"),
        (("fine-tune", "--params", "1B", "--tokens", "1B", "--adapter-params", "-1"), "--adapter-params"),
    ],
)
def test_invalid_words_end_with_one_line_and_code_2(words, named):
    done = run(*words)
    assert done.exit_code == 2
    assert named in done.stderr and done.stderr.count("\n") == 1


def test_invalid_day_ends_with_one_line():
    done = CliRunner().invoke(app, ["cost", "tokens", "--on", "1900-01-01"])
    assert done.exit_code == 2 and "--on 1900-01-01: the price in line" in done.stderr and "later day" in done.stderr
    done = CliRunner().invoke(app, ["cost", "tokens", "--on", "tomorrow"])
    assert done.exit_code == 2 and "--on 'tomorrow'" in done.stderr


def test_without_a_day_it_is_today_and_old_rows_are_counted():
    done = CliRunner().invoke(app, ["cost", "tokens", "--json"])
    prices = {line["name"]: line["source"] for line in json.loads(done.stdout)["inputs"]}
    assert "older than 90 days" in prices["cloud_price"]


@pytest.mark.parametrize(
    ("text", "count"), [("1500", 1500), ("8k", 8e3), ("1.1B", 1.1e9), ("15T", 15e12), ("7M", 7e6), ("1e9", 1e9)]
)
def test_counts_have_endings(text, count):
    assert read_count(text, "--tokens") == pytest.approx(count)


@pytest.mark.parametrize("text", ["", "-1", "1,000", "B", "1b", "nan", "inf"])
def test_invalid_counts_are_refused(text):
    with pytest.raises(ConfigError, match="--tokens"):
        read_count(text, "--tokens")


def test_settings_of_a_method_have_types():
    assert read_method_setting("inner_steps=50") == ("inner_steps", 50)
    assert read_method_setting("share=0.5") == ("share", 0.5)
    assert read_method_setting("graph=ring") == ("graph", "ring")
    with pytest.raises(ConfigError):
        read_method_setting("=1")


def test_the_transcript_of_the_page_is_what_the_command_prints():
    block = PAGE.read_text("utf-8").split("```text\n")[1].split("```")[0].splitlines()
    words = block[0].removeprefix("$ paceline cost ").split()
    printed = CliRunner().invoke(app, ["cost", *words], env={"COLUMNS": "80"}).stdout
    for line in block[1:]:
        if line.strip(" …"):
            assert line.rstrip() in printed, line
