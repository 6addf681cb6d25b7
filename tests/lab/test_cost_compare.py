"""Estimates, verdicts, turns and swings of a comparison, against formulas and by hand."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cost import ANSWERS, RUN, RUN_VALUES, TOKEN_VALUES

from paceline.economy.issuance import BATCHES, compute_batch
from paceline.lab.cost import bill_cloud, bill_network
from paceline.lab.cost_compare import Input, compare, compute_monthly_tokens, find_turn, get_values
from paceline.lab.cost_inputs import KNOWN, TOKENS, Range, load_figures
from paceline.lab.cost_prices import load_prices
from paceline.lab.cost_request import SEGMENT_STEPS, Answer, Request, answer, compute_audits, compute_subsidy
from paceline.lab.cost_words import list_sentences, make_json, show_dollars, show_number, write_csv
from paceline.protocol.params import TINY
from paceline.training.plan import TrainingPlan

FOLDER = Path("examples/econ")
TODAY = date(2026, 7, 1)


def make_inputs(values, **ranges):
    found = []
    for name, value in values.items():
        low, high = ranges.get(name, (value, value))
        single = Range(low=low, median=value, high=high, origin="given", source="test")
        found.append(Input(name=name, range=single, keys=(name,)))
    return found


def ask(kind=TOKENS, **changes):
    usual = {"kind": kind, "tokens": 1e6, "gpu": "H100", "today": TODAY}
    return answer(
        Request(**usual | changes),
        load_prices(FOLDER / "prices.csv"),
        load_figures(FOLDER / "cost.toml"),
        example_prices=True,
    )


def test_low_takes_the_cheaper_end_of_every_input():
    inputs = make_inputs(TOKEN_VALUES, cloud_price=(1.0, 4.0), cloud_utilisation=(0.25, 1.0))
    assert get_values(inputs, "low")["cloud_price"] == 1.0 and get_values(inputs, "low")["cloud_utilisation"] == 1.0
    found = compare(ANSWERS, inputs)
    cloud = found.cloud
    assert [bill.dollars for bill in (cloud.low, cloud.median, cloud.high)] == pytest.approx([1.25, 5.0, 20.0])
    assert found.network.low.dollars == found.network.high.dollars == pytest.approx(0.390625)


def test_a_winner_is_clear_only_when_no_pair_of_estimates_says_otherwise():
    clear = compare(ANSWERS, make_inputs(TOKEN_VALUES, cloud_price=(1.0, 4.0)))
    assert clear.winner == "network" and clear.is_clear
    overlapping = compare(ANSWERS, make_inputs(TOKEN_VALUES, cloud_price=(0.1, 4.0)))
    assert overlapping.winner == "network" and not overlapping.is_clear
    dear = compare(ANSWERS, make_inputs(TOKEN_VALUES | {"network_price": 100.0}))
    assert dear.winner == "cloud" and dear.is_clear


def test_work_that_the_network_cannot_do_goes_to_the_cloud():
    found = compare(RUN, make_inputs(RUN_VALUES), problem="it is too large")
    assert (found.winner, found.is_clear, found.network, found.turns) == ("cloud", True, None, ())


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0.05, 1))
def test_turns_of_answers_are_where_the_formulas_put_them(cloud_price, network_price, utilisation):
    values = TOKEN_VALUES | {
        "cloud_price": cloud_price,
        "network_price": network_price,
        "cloud_utilisation": utilisation,
        "subsidy": 0.0,
    }
    ratio = bill_network(ANSWERS, values).dollars / bill_cloud(ANSWERS, values).dollars
    expected = {
        "cloud_price": cloud_price * ratio,
        "network_price": network_price / ratio,
        "cloud_utilisation": utilisation / ratio,
        "subsidy": 1 - 1 / ratio,
    }
    for name, at in expected.items():
        turn = find_turn(ANSWERS, values, name)
        if KNOWN[name].least < at < KNOWN[name].most:
            assert turn.at == pytest.approx(at, rel=1e-6, abs=1e-9)
            assert turn.above == ("cloud" if name in {"network_price", "cloud_utilisation"} else "network")
        elif not KNOWN[name].least * (1 - 1e-9) <= at <= KNOWN[name].most * (1 + 1e-9):
            assert turn.at is None


def test_the_size_turns_where_set_up_outweighs_the_price():
    # The cloud takes 2 h for 8 GPUs to set up, the network none, which computes for 1.25 times the price.
    values = RUN_VALUES | dict.fromkeys(
        RUN_VALUES.keys() & {"cloud_extra", "cloud_interruptions", "network_setup_hours"}, 0.0
    )
    values |= {
        "cloud_setup_hours": 2.0,
        "network_audits": 0.0,
        "network_extra_tokens": 0.0,
        "network_interruptions": 0.0,
    }
    values |= {
        "network_race": 0.0,
        "network_fund": 0.0,
        "subsidy": 0.0,
        "network_link_mbits": 1e7,
        "network_price": 2.0,
    }
    values |= {"cloud_billing_seconds": 1e-9}
    turn = find_turn(RUN, values, "tokens")
    gpu_hours = 8 * 2.0 / 0.25
    assert turn.at == pytest.approx(gpu_hours * 3600 * 1000, rel=1e-3) and turn.above == "cloud"


def test_swings_are_ratios_with_one_input_at_its_ends_widest_first():
    found = compare(ANSWERS, make_inputs(TOKEN_VALUES, cloud_price=(1.0, 4.0), network_retries=(0.0, 0.1)))
    ratio = 0.390625 / 5.0
    assert [swing.name for swing in found.swings] == ["cloud_price", "network_retries"]
    assert found.swings[0].at_low == pytest.approx(2 * ratio) and found.swings[0].at_high == pytest.approx(ratio / 2)


def test_a_cloud_whose_run_never_ends_loses_without_a_nan():
    never = RUN_VALUES | {"cloud_interruptions": 0.9}
    found = compare(RUN, make_inputs(never, cloud_price=(1.0, 3.0)))
    assert found.winner == "network" and found.swings[0].at_low == 0.0
    both = compare(RUN, make_inputs(never | {"network_interruptions": 0.9}, cloud_price=(1.0, 3.0)))
    assert both.winner == "cloud" and both.swings[0].at_low == 1.0


def test_a_month_of_one_gpu():
    assert compute_monthly_tokens({"cloud_speed": 1000.0}, 0.5) == 1000 * 0.5 * 730 * 3600


def test_the_shipped_figures_compare_and_say_where_every_number_comes_from():
    for found in (
        ask(),
        ask("train", params=1e9, tokens=2e10, machines=8),
        ask("fine-tune", params=8e9, machines=2, gpus=2),
    ):
        inputs = found.comparison.inputs
        assert all(entry.range.source for entry in inputs)
        assert {entry.range.origin for entry in inputs} <= {
            "given", "measured", "published", "rule", "assumption", "example row",
        }  # fmt: skip
        told = " ".join(list_sentences(found))
        assumed = [entry.name for entry in inputs if entry.range.origin == "assumption"]
        assert f"Measured by nobody: {', '.join(assumed)}." in told and "The answer" not in told.split("Each alone")[0]
        assert "the answer turns at" in told


def test_given_settings_stand_before_files_and_prices():
    found = ask(settings=("cloud_price=2", "cloud_utilisation=0.1:0.2:0.3"), throughput="5000")
    ranges = {entry.name: entry.range for entry in found.comparison.inputs}
    assert ranges["cloud_price"].origin == ranges["cloud_utilisation"].origin == ranges["speed"].origin == "given"
    assert (ranges["cloud_price"].low, ranges["cloud_utilisation"].high) == (2.0, 0.3)


def test_two_cards_have_two_speeds_and_equal_ones_share_one():
    both = {entry.name for entry in ask("train", params=1e9, tokens=1e9, cloud_gpu="H200").comparison.inputs}
    assert {"cloud_speed", "network_speed"} <= both and "speed" not in both
    assert "speed" in {entry.name for entry in ask().comparison.inputs}


def test_the_speed_of_training_is_a_share_of_the_peak_over_the_products_of_a_token():
    found = ask("train", params=1e9, tokens=1e9)
    speed = next(entry.range for entry in found.comparison.inputs if entry.name == "speed")
    assert speed.low == pytest.approx(0.36 * 989.4e12 / 6e9) and speed.origin == "published"


def test_a_model_that_no_machine_holds_is_said_and_not_priced():
    found = ask("train", params=70e9, tokens=1e9, machines=16, gpus=8)
    told = " ".join(list_sentences(found))
    assert "this network cannot do it, because it takes 1,120 GB of memory, a machine here has 640" in told
    assert make_json(found)["costs"].keys() == {"cloud"}
    assert "was not checked" in " ".join(ask(throughput="100").notes)


def test_audits_follow_the_rules_of_the_network():
    assert compute_audits(TINY, 500) == pytest.approx(2 * 2 * 10 / 500)
    assert compute_audits(TINY, 10) == 2.0


def test_audits_replay_segments_as_long_as_a_run_has_them():
    steps = next(field for field in msgspec.structs.fields(TrainingPlan) if field.name == "segment_steps")
    assert steps.default == SEGMENT_STEPS


@pytest.mark.parametrize(
    ("work", "name", "values", "text"),
    [
        ("tokens", "network_checking", (0.0036, 0.0079, 0.089), ("0.36, 0.79, 2.8 %", "| 100 % | 8.9 % |")),
        ("tokens", "network_efficiency", (0.6, 0.83, 0.95), ("pair by pair: 0.83 (0.60 to 0.95",)),
        (
            "train",
            "network_efficiency",
            (0.69, 0.82, 1.0),
            ("| 0.82 (38,400 against 47,000 tokens/s)", "0.69 and 1.07"),
        ),
    ],
)
def test_measured_figures_are_those_of_the_bench(work, name, values, text):
    found = load_figures(FOLDER / "cost.toml").inputs[work][name]
    assert (found.low, found.median, found.high) == values and found.origin == "measured"
    measured = Path("bench/README.md").read_text("utf-8")
    assert all(words in measured for words in text)


def test_subsidies_are_those_of_the_batches():
    for batch in range(1, BATCHES + 1):
        assert compute_subsidy(batch) * 1e6 == pytest.approx(compute_batch(batch, 200_000).subsidy_ppm, abs=0.5)
    paid = [ask(batch=batch).comparison.network.median.dollars for batch in (1, 2, 12)]
    full = ask().comparison.network.median.dollars
    assert paid == pytest.approx([full * 0.1, full * 0.28, full * (1 - 0.9 * 0.8**11)])


def test_a_subsidy_that_turns_the_answer_names_the_batches():
    # Without coins 0.199 $ against 0.129 $: they must pay 35 %, and batch 5 pays 36.9 %.
    told = " ".join(list_sentences(ask(settings=("network_price=2.9", "cloud_utilisation=0.67"), batch=12)))
    assert "New coins pay so much in batches 1 to 5." in told and "only while hosts value a coin" in told
    told = " ".join(list_sentences(ask(settings=("network_price=60",))))
    assert "No batch pays so much." in told


def test_equal_costs_are_called_equal_and_go_to_the_cloud():
    same = dict.fromkeys(TOKEN_VALUES, 1.0) | {"cloud_extra": 0.0, "network_retries": 0.0, "network_checking": 0.0}
    found = compare(ANSWERS, make_inputs(same | {"network_fund": 0.0, "network_race": 0.0, "subsidy": 0.0}))
    asked = Request(kind=TOKENS, tokens=1.0, gpu="H100", today=TODAY)
    told = list_sentences(Answer(request=asked, comparison=found, notes=()))
    assert "By the medians both cost the same." in told and found.winner == "cloud"


def test_json_and_csv_hold_every_input_and_no_infinity():
    found = ask("train", params=1e9, tokens=1e9, machines=8, settings=("cloud_interruptions=1",))
    data = make_json(found)
    assert data["costs"]["cloud"]["median"]["dollars"] is None and data["winner"] == "network"
    assert data["costs"]["network"]["median"]["dollars"] == pytest.approx(
        sum(data["costs"]["network"]["median"]["parts"].values())
    )
    lines = write_csv(found).splitlines()
    assert len(lines) == 1 + 3 + len(found.comparison.inputs) and "inf" in lines[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1.973e-5, "1.97e-05"),
        (0.25, "0.25"),
        (12_500, "12,500"),
        (8e9, "8B"),
        (1.5e12, "1.5T"),
        (2e6, "2M"),
        (3e16, "3e+16"),
    ],
)
def test_numbers_are_short(value, shown):
    assert show_number(value) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(math.inf, "never ends"), (1234.5, "1,234"), (12.345, "12.35"), (0.12345, "0.1235"), (-3.0, "-3.00")],
)
def test_dollars_are_short(amount, shown):
    assert show_dollars(amount) == shown
