"""Appendix C's comparison: shares by hand, sums of one, given inputs, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.cli.main import app
from paceline.economy.pay import compute_pay
from paceline.lab.usefulness import CHECKERS_SHARE, INPUTS, compare_usefulness


def run(*words):
    return CliRunner().invoke(app, ["econ", "usefulness", *words], env={"COLUMNS": "160"})


def test_bitcoin_and_a_60_40_staking_network():
    found = compare_usefulness()
    bitcoin, staking = found.networks[:2]
    assert (bitcoin.compute.useful, bitcoin.compute.race, bitcoin.rewards.race) == (0.0, 1.0, 1.0)
    assert (staking.rewards.useful, staking.rewards.capital) == (pytest.approx(0.4), 0.6)
    assert found.capital_per_useful == pytest.approx(1.5)
    assert found.locked == pytest.approx(0.6 / 0.18)


def test_repeated_tasks_are_checks():
    staking = compare_usefulness({"staking_repeats": 4}).networks[1]
    assert (staking.compute.useful, staking.compute.checking) == (0.25, 0.75)
    assert (staking.rewards.useful, staking.rewards.checking) == (pytest.approx(0.1), pytest.approx(0.3))


def test_this_network_by_hand():
    given_values = {"race_minutes": 144, "race_checking": 0.5, "checking": 0.1, "checked": 0.5, "dummies": 0.2}
    found = compare_usefulness(given_values | {"fund": 0.2, "new_coins": 0.5}).networks
    assert [network.name for network in found[2:]] == ["this network"]
    compute, rewards = found[2].compute, found[2].rewards
    # A tenth races, half of that checks it; of the 0.85 left a tenth checks answers, of the 0.765 then a fifth are dummies.
    assert (compute.race, compute.checking) == (pytest.approx(0.1), pytest.approx(0.05 + 0.085))
    assert (compute.dummies, compute.useful) == (pytest.approx(0.153), pytest.approx(0.612))
    # Fees 0.4: a quarter to checkers, a fifth of the rest for dummies; coins 0.4 by the compute of 0.9.
    assert rewards.checking == pytest.approx(0.1 + 0.4 * 0.135 / 0.9)
    assert rewards.dummies == pytest.approx(0.06 + 0.4 * 0.153 / 0.9)
    assert rewards.useful == pytest.approx(0.2 + 0.24 + 0.4 * 0.612 / 0.9)
    assert rewards.race == rewards.capital == 0.0


def test_the_stated_race_keeps_its_goal_and_checking_is_said_to_miss_its_own():
    found = compare_usefulness()
    assert [network.compute.race for network in found.networks[2:]] == [pytest.approx(600 / 86_400)] * 3
    told = found.sentences
    assert "Race 0.69% (within the goal" in told[0] and "checking 0.80% (below the goal" in told[0]
    assert "checking 8.85% (within the goal" in told[1]
    often = compare_usefulness({"races_a_day": 2, "checking": 0.2}).sentences[0]
    assert "Race 1.39% (above the goal" in often and "(above the goal of 1 to 10 %)" in often


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.floats(entry.least, min(entry.most, 20)) for name, entry in INPUTS.items()}
    )
)
def test_shares_add_up_to_one(values):
    minutes = values.get("race_minutes", 10.0) * values.get("races_a_day", 1.0)
    if minutes * (1 + values.get("race_checking", 0.0196)) >= 1440:
        with pytest.raises(ConfigError, match="whole day"):
            compare_usefulness(values)
        return
    found = compare_usefulness(values)
    for network in found.networks:
        for shares in (network.compute, network.rewards):
            assert sum(asdict(shares).values()) == pytest.approx(1.0)
            assert all(-1e-9 <= share <= 1 + 1e-9 for share in asdict(shares).values())


def test_measured_inputs_and_rules_are_those_of_bench_and_ledger():
    measured = Path("bench/README.md").read_text("utf-8")
    for words in ("at most 1.96 %", "3.3, 7.8, 30 % | 0.36, 0.79, 2.8 %", "| 100 % | 8.9 % |"):
        assert words in measured
    pay = compute_pay(1000, [b"a", b"b"], 0)
    assert sum(amount for _, amount in pay.checkers) == CHECKERS_SHARE * 1000


@pytest.mark.parametrize("name", ["checking", "checked", "race_minutes", "dummies"])
def test_more_overhead_never_makes_the_network_more_useful(name):
    own = [compare_usefulness({name: value}).networks[2] for value in (0.0, 0.3, 0.6, 0.9)]
    for which in ("compute", "rewards"):
        useful = [getattr(network, which).useful for network in own]
        assert useful == sorted(useful, reverse=True)


def test_a_network_that_pays_capital_alone_has_no_ratio():
    found = compare_usefulness({"staking": 1.0})
    assert found.capital_per_useful == float("inf") and "no useful work is paid" in found.sentences[-3]
    data = json.loads(run("--set", "staking=1", "--json").stdout)
    assert data["capital_per_useful"] is None


def test_given_inputs_say_so_and_the_others_say_whose_they_are():
    done = run("--set", "checking=0.05", "--json")
    inputs = json.loads(done.stdout)["inputs"]
    assert inputs["checking"] == {
        "value": 0.05, "least": 0.0, "most": 0.99, "origin": "given", "source": "--set checking",
    }  # fmt: skip
    assert {entry["origin"] for entry in inputs.values()} == {"paper", "rule", "measured", "given"}
    shown = run().stdout
    assert "staking network, 60% to stake" in shown and "bench/README.md" in shown


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--set", "surprise=1"), "--set surprise: unknown"),
        (("--set", "staking=1.5"), "--set staking"),
        (("--set", "staking_return=0"), "--set staking_return"),
        (("--set", "staking_repeats=0.5"), "--set staking_repeats"),
        (("--set", "checking=nan"), "--set 'checking=nan'"),
        (("--set", "checking"), "--set 'checking'"),
        (("--set", "checking=inf"), "--set checking"),
        (("--set", "fund=0.1", "--set", "fund=0.2"), "given twice"),
        (("--set", "race_minutes=1440"), "whole day"),
    ],
)
def test_invalid_settings_end_with_one_line_and_code_2(words, named):
    done = run(*words)
    assert done.exit_code == 2 and named in done.stderr and done.stderr.count("\n") == 1
