"""Inputs of a comparison of costs: every key and bound that can be wrong is named."""

from __future__ import annotations

import copy
import tomllib
from datetime import date
from pathlib import Path

import pytest

from paceline.base.errors import ConfigError
from paceline.lab.cost_inputs import FINE_TUNE, TOKENS, TRAIN, load_figures, parse_figures, parse_setting
from paceline.lab.cost_prices import load_prices
from paceline.lab.cost_request import Request, answer

SHIPPED = Path("examples/econ/cost.toml")
PRICES = Path("examples/econ/prices.csv")


def change(edit):
    data = copy.deepcopy(tomllib.loads(SHIPPED.read_text("utf-8")))
    edit(data)
    return parse_figures(data, "file")


def request(kind=TOKENS, **changes):
    usual = {"kind": kind, "tokens": 1e6, "gpu": "H100", "today": date(2026, 7, 1)}
    return answer(Request(**usual | changes), load_prices(PRICES), load_figures(SHIPPED), example_prices=False)


def test_a_table_of_one_kind_of_work_stands_before_the_one_above_it():
    found = load_figures(SHIPPED)
    assert found.inputs[TRAIN]["network_batch_tokens"].median == 524_288
    assert found.inputs[FINE_TUNE]["network_batch_tokens"].median == 32_768
    assert found.inputs[FINE_TUNE]["cloud_lost_hours"] == found.inputs[TRAIN]["cloud_lost_hours"]


def test_a_users_own_prices_are_given_and_no_example():
    ranges = {entry.name: entry.range for entry in request().comparison.inputs}
    assert ranges["cloud_price"].origin == ranges["network_price"].origin == "given"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data["all"].update(surprise=data["all"]["network_fund"]), "all.surprise: unknown"),
        (lambda data: data["tokens"].update(tokens=data["all"]["network_fund"]), "tokens.tokens: unknown"),
        (lambda data: data["tokens"].update(cloud_lost_hours=data["all"]["network_fund"]), "tokens.cloud_lost_hours"),
        (lambda data: data["tokens"].pop("network_retries"), "tokens needs network_retries"),
        (lambda data: data["all"].pop("network_fund"), "tokens needs network_fund"),
        (lambda data: data["all"]["network_fund"].update(value=1.0), "all.network_fund: 1 must be at least 0"),
        (lambda data: data["all"]["network_fund"].update(value=float("nan")), "all.network_fund"),
        (lambda data: data["all"]["network_fund"].update(low=0.1), "all.network_fund: give `value`"),
        (lambda data: data["all"]["cloud_extra"].pop("high"), "all.cloud_extra: give `value`"),
        (lambda data: data["all"]["cloud_extra"].update(low=0.4), "all.cloud_extra: low, median and high"),
        (lambda data: data["all"]["cloud_extra"].update(origin="hearsay"), "all.cloud_extra: "),
        (lambda data: data["all"]["cloud_extra"].update(source=""), "all.cloud_extra: "),
        (lambda data: data["train"]["cloud_billing_seconds"].update(value="one"), "train.cloud_billing_seconds: "),
        (
            lambda data: data["train"]["cloud_billing_seconds"].update(value=None, low=1.0, median=2.0, high=3.0),
            "train.cloud_billing_seconds: takes one value",
        ),
        (lambda data: data["gpu"]["H100"].update(memory_gigabytes=0), "gpu.H100: "),
        (lambda data: data["throughput"][0].update(work="sleep"), "throughput 1: "),
        (lambda data: data["throughput"][0].pop("tokens_per_second"), "throughput 1: give"),
        (lambda data: data["throughput"][0]["tokens_per_second"].update(value=0.0), "throughput 1.tokens_per_second"),
        (lambda data: data["throughput"][2]["mfu"].update(high=1.2), "throughput 3.mfu"),
        (
            lambda data: data["throughput"][0].update(mfu=data["throughput"][2]["mfu"], tokens_per_second=None),
            "throughput 1.mfu: answers",
        ),
    ],
)
def test_invalid_files_name_the_key(edit, named):
    with pytest.raises(ConfigError, match=named):
        change(edit)


def test_invalid_files_that_are_no_files(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("all = ", "utf-8")
    for path in (broken, tmp_path / "none.toml"):
        with pytest.raises(ConfigError, match=path.name):
            load_figures(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("network_fund", "NAME=VALUE"),
        ("surprise=1", "NAME one of"),
        ("cloud_lost_hours=1", "NAME one of"),
        ("network_fund=much", "--set network_fund: 'much' is no number"),
        ("network_fund=0.1:0.2", "VALUE or LOW:MEDIAN:HIGH"),
        ("network_fund=0.3:0.2:0.1", "in order"),
        ("network_fund=-0.1", "at least 0"),
        ("cloud_utilisation=0", "above 0"),
        ("cloud_price=inf", "cloud_price"),
    ],
)
def test_invalid_settings_name_what_is_wrong(text, named):
    with pytest.raises(ConfigError, match=named):
        parse_setting(text, TOKENS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens": 0.0}, "--tokens"),
        ({"kind": TRAIN}, "--params"),
        ({"kind": FINE_TUNE, "params": 1e6, "adapter_params": 2e6}, "--adapter-params"),
        ({"kind": TRAIN, "params": 1e6, "machines": 0}, "--machines"),
        ({"kind": TRAIN, "params": 1e6, "gpus": 0}, "--gpus-per-machine"),
        ({"batch": 13}, "--batch 13"),
        ({"batch": 0}, "--batch 0"),
        ({"settings": ("subsidy=0.1", "subsidy=0.2")}, "given twice"),
        ({"gpu": "B200"}, "no speed of tokens"),
        ({"gpu": "A900", "throughput": "100"}, "no row for the GPU 'A900'"),
        ({"model": "Llama 9"}, "Llama 9 on H100"),
        ({"throughput": "fast"}, "--throughput"),
        ({"throughput": "100", "settings": ("cloud_speed=3",)}, "stands for both sides"),
        ({"kind": TRAIN, "params": 1e9, "gpu": "B200"}, "does not say how fast B200"),
        ({"kind": TRAIN, "params": 7e10}, "take at least 14 GPUs"),
        ({"kind": TRAIN, "params": 1e9, "method": "sailing"}, "sailing"),
    ],
)
def test_invalid_requests_name_the_option(changes, named):
    with pytest.raises(ConfigError, match=named):
        request(**changes)


def test_several_rows_for_a_card_ask_for_the_model():
    data = tomllib.loads(SHIPPED.read_text("utf-8"))
    data["throughput"].append(data["throughput"][0] | {"model": "another"})
    figures = parse_figures(data, "file")
    asked = Request(kind=TOKENS, tokens=1e6, gpu="H100", today=date(2026, 7, 1))
    with pytest.raises(ConfigError, match=r"--model: file has several rows of tokens for H100: Llama 3\.1 8B, another"):
        answer(asked, load_prices(PRICES), figures, example_prices=True)
