"""The simulator agrees with the ledger's own arithmetic, conserves coins, repeats itself, and shows that cheating loses."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.base.integers import PPM
from paceline.cli.main import app
from paceline.economy.pay import compute_pay
from paceline.economy.supply import DAILY_FLOOR
from paceline.lab.check_costs import MEAN_CHECK_COST
from paceline.lab.economy import HONEST, _compute_earned, compute_check_rates, compute_gini, make_hosts, simulate
from paceline.lab.economy_page import RATES, write_page
from paceline.lab.economy_report import Stakes, summarise, write_csv
from paceline.lab.scenario import Rules, Scenario, load_scenario, parse_scenario
from paceline.ledger.check_rates import compute_reputation_rate_ppm
from paceline.protocol.params import NICOIN_PER_COIN, TINY

EXAMPLE = Path("examples/econ/first-years.toml")


def small(**changes):
    data = tomllib.loads(EXAMPLE.read_text("utf-8"))
    data |= {"hosts": 300, "epochs": 200, "start_share": 1.0}
    return parse_scenario(data | changes, "test")


def test_the_same_scenario_gives_the_same_bits_and_another_seed_others():
    first, again, other = simulate(small()), simulate(small()), simulate(small(seed=2))
    assert write_csv(first) == write_csv(again) != write_csv(other)
    assert summarise(first) == summarise(again)


def test_coins_are_conserved():
    economy = simulate(small())
    come = sum(day.fees + day.issued for day in economy.days)
    gone = sum(day.to_fund + day.paid + day.forfeited for day in economy.days) + economy.hosts.vesting.sum()
    assert gone == pytest.approx(come, rel=1e-9)
    assert economy.hosts.paid.sum() == pytest.approx(sum(day.paid for day in economy.days))


def test_every_cheat_of_the_example_loses_at_the_usual_rules():
    summary = summarise(simulate(load_scenario(EXAMPLE)))
    assert len(summary.cheats) == 3
    for line in summary.cheats:
        assert line.low <= line.gain <= line.high < 0 and not line.pays
        assert line.caught > line.hosts
        assert line.break_even_rate < 0.01


def test_without_checks_every_cheat_pays():
    unchecked = small(rules={"check_floor": 0.0, "check_halving_epochs": 1}, epochs=400)
    free = msgspec.structs.replace(
        unchecked, cheats=tuple(msgspec.structs.replace(c, detection=0.0) for c in unchecked.cheats)
    )
    lines = summarise(simulate(free)).cheats
    assert lines[0].low > 0 and lines[0].pays and lines[0].caught == 0 and lines[0].break_even_rate == 1.0


def test_check_rates_are_those_of_the_ledger():
    reputations = np.arange(0, 200)
    ours = compute_check_rates(reputations, TINY.check_floor_ppm / PPM, TINY.check_halving_epochs)
    theirs = [compute_reputation_rate_ppm(int(r), TINY) / PPM for r in reputations]
    assert np.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("checkers", [0, 1])
def test_pay_is_that_of_the_ledger(checkers):
    fee = 10 * NICOIN_PER_COIN
    pay = compute_pay(fee, [b"c"] * checkers, 200_000)
    tasks, checks = np.array([1.0, 0.0]), np.array([float(checkers), 0.0])
    earned = _compute_earned(np.array([0.0, 1.0]), tasks, checks, fee, 0.0, 0.2)
    assert earned[0] == pytest.approx(pay.worker) and earned[1] == pytest.approx(sum(a for _, a in pay.checkers))


def test_a_quiet_network_issues_the_floor_and_an_idle_one_nothing():
    quiet = small(epochs=3)
    quiet = msgspec.structs.replace(quiet, demand=msgspec.structs.replace(quiet.demand, start_units=50.0))
    assert simulate(quiet).days[0].issued * NICOIN_PER_COIN == pytest.approx(DAILY_FLOOR)
    idle = msgspec.structs.replace(quiet, demand=msgspec.structs.replace(quiet.demand, start_units=0.0))
    assert [day.issued for day in simulate(idle).days] == [0.0] * 3


def test_a_cartel_below_half_does_not_move_the_price_and_one_above_does():
    def price(share):
        return simulate(small(cartel={"share": share, "multiple": 10.0}, epochs=5)).days[-1].price

    assert price(0.3) < 2 * price(0.0)
    assert price(0.6) > 1_000 * price(0.0)


def test_hosts_follow_their_shares():
    scenario = small(hosts=1000)
    hosts = make_hosts(scenario, np.random.default_rng(1))
    assert np.bincount(hosts.kind).tolist() == [600, 300, 100]
    assert (hosts.cheat == HONEST).sum() == 920


def test_gini():
    assert compute_gini(np.ones(10)) == pytest.approx(0.0)
    assert compute_gini(np.array([0.0] * 99 + [1.0])) == pytest.approx(0.99)
    assert compute_gini(np.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hosts": 0}, "hosts"),
        ({"surprise": 1}, "surprise"),
        ({"cartel": {"share": 1.5}}, "cartel.share"),
        ({"classes": []}, "classes"),
        ({"classes": [{"name": "a", "share": 0.5, "units_per_day": 1.0, "dollars_per_day": 1.0}]}, "classes"),
        (
            {"cheats": [{"name": c, "share": 0.6, "cheated": 1.0, "saving": 1.0, "detection": 1.0} for c in "ab"]},
            "cheats",
        ),
        ({"rules": {"vesting_epochs": 0}}, "vesting_epochs"),
    ],
)
def test_invalid_scenarios_name_the_key(change, named):
    with pytest.raises(ConfigError, match=named):
        small(**change)


def test_the_command_writes_page_and_table(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(EXAMPLE.read_text("utf-8").replace("epochs = 1460", "epochs = 40"), "utf-8")
    page, table = tmp_path / "page.html", tmp_path / "days.csv"
    done = CliRunner().invoke(app, ["econ", "simulate", str(file), "--html", str(page), "--csv", str(table), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["hosts"] == 2000
    assert len(list(csv.DictReader(io.StringIO(table.read_text())))) == 40
    assert "What cheating brings" in page.read_text() and "https://cdn" not in page.read_text().split("</script>")[-1]
    for words in (
        "asked for and not done",
        "pays a host that holds nothing below",
        "Expected value of one cheated task",
    ):
        assert words in page.read_text(), words
    shown = CliRunner().invoke(app, ["econ", "simulate", str(file)], env={"COLUMNS": "80"}).stdout
    for words in (
        "8-bit model",
        "To the training fund",
        "Price of a unit",
        "Gini of votes",
        "was not done",
        "New coins are",
    ):
        assert words.lower() in shown.lower(), words
    assert "…" not in shown


def get_fields(kind, path=()):
    """Every number of the scenario with its bounds, by the keys that lead to it."""
    for field in msgspec.inspect.type_info(kind).fields:
        found = field.type
        while isinstance(found, msgspec.inspect.Metadata):
            found = found.type
        if isinstance(found, msgspec.inspect.VarTupleType):
            found = found.item_type
        if isinstance(found, msgspec.inspect.StructType):
            yield from get_fields(found.cls, (*path, field.encode_name))
        elif isinstance(found, (msgspec.inspect.IntType, msgspec.inspect.FloatType)):
            yield (*path, field.encode_name), found


FIELDS = dict(get_fields(Scenario))
SLOW = {("hosts",): 50, ("epochs",): 12}


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_every_number_is_bounded_and_both_bounds_are_played_to_finite_figures(path):
    kind = FIELDS[path]
    assert kind.ge is not None and kind.le is not None, path
    for value in (kind.ge, SLOW.get(path, kind.le)):
        data = change_at(path, value)
        if path in {("classes", "share"), ("cheats", "share")}:
            # The others have the rest: shares of classes add up to one.
            rest = (1.0 - value) / (len(data[path[0]]) - 1)
            data[path[0]] = [entry | {"share": rest if place else value} for place, entry in enumerate(data[path[0]])]
        scenario = small(**data)
        with np.errstate(all="raise", under="ignore"):
            economy = simulate(scenario)
            summary = summarise(economy)
        numbers = [value for day in economy.days for value in vars(day).values()]
        assert np.isfinite(numbers).all() and np.isfinite(summary.gini_coins)
        write_page(economy, summary)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300, -1])
@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_invalid_numbers_are_refused_by_name(path, value):
    with pytest.raises(ConfigError, match=path[-1]):
        small(**change_at(path, value))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"coin_yearly_growth": 0.0}, "coin_yearly_growth: 0.0 must be a number, at least 0.01 and at most 100"),
        (
            {"coin_yearly_growth": 100.0, "epochs": 20_000},
            "coin_yearly_growth 100: after 20000 epochs a coin would cost",
        ),
        ({"spread": 1000.0}, "spread: 1000.0 must be"),
    ],
)
def test_invalid_scales_say_what_is_allowed(changes, named):
    with pytest.raises(ConfigError, match=named):
        small(**changes)


def change_at(path, value):
    """The example with 50 hosts and 12 days, and one number of it changed; of a list's entries in the first."""
    data = tomllib.loads(EXAMPLE.read_text("utf-8")) | {
        "hosts": 50,
        "epochs": 12,
        "start_share": 1.0,
        "rules": {},
        "coin_yearly_growth": 1.0,
    }
    place = data
    for name in path[:-1]:
        place = place.setdefault(name, {})
        place = place[0] if isinstance(place, list) else place
    place[path[-1]] = value
    return data


def test_a_fresh_host_has_only_the_pay_of_its_task_at_stake():
    stakes = Stakes(saving=0.3, detection=0.9, held=99.0)
    assert stakes.break_even(99.0) == pytest.approx(0.3 / 90) and stakes.break_even(0.0) == pytest.approx(1 / 3)
    for held in (0.0, 99.0):
        assert stakes.expect(stakes.break_even(held), held) == pytest.approx(0.0)
        assert stakes.expect(RATES[0], held) > 0 > stakes.expect(1.0, held)
    assert Stakes(saving=0.3, detection=0.0, held=9.0).break_even(9.0) == 1.0
    line = summarise(simulate(small(epochs=30))).cheats[0]
    assert line.fresh_break_even_rate == pytest.approx(line.stakes.saving / 0.97)
    assert line.fresh_break_even_rate > 10 * line.break_even_rate


def test_what_hosts_cannot_do_shows_as_unmet():
    busy = small(epochs=3)
    busy = msgspec.structs.replace(busy, demand=msgspec.structs.replace(busy.demand, start_units=1e9))
    economy = simulate(busy)
    assert all(day.demand == day.capacity < day.asked for day in economy.days)
    assert summarise(economy).unmet_share > 0.99
    assert summarise(simulate(small(epochs=3))).unmet_share == 0.0


def test_years_add_up_and_name_the_share_of_new_coins():
    economy = simulate(small(epochs=400))
    summary = summarise(economy)
    assert [line.year for line in summary.years] == [1, 2]
    assert sum(line.fees for line in summary.years) == pytest.approx(summary.fees)
    assert sum(line.issued for line in summary.years) == pytest.approx(summary.issued)
    first = summary.years[0]
    assert first.subsidy_share == pytest.approx(first.issued / (first.issued + first.fees))
    assert summary.gini_coins == economy.days[-1].gini_coins == compute_gini(economy.hosts.paid)


def test_a_check_costs_what_was_measured():
    assert Rules().check_cost == MEAN_CHECK_COST == pytest.approx(1 / 12, rel=0.01)


@pytest.mark.parametrize("option", ["--html", "--csv"])
def test_invalid_a_folder_as_a_file_is_refused_before_the_simulation(option, tmp_path, monkeypatch):
    monkeypatch.setattr("paceline.lab.economy.simulate", lambda *_: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["econ", "simulate", str(EXAMPLE), option, str(tmp_path)])
    assert done.exit_code == 2 and f"{tmp_path} is a folder" in done.stderr


def test_invalid_files_are_refused_before_anything_runs(tmp_path):
    assert CliRunner().invoke(app, ["econ", "simulate", str(tmp_path / "none.toml")]).exit_code == 2
    broken = tmp_path / "broken.toml"
    broken.write_text("hosts = ", "utf-8")
    assert CliRunner().invoke(app, ["econ", "simulate", str(broken)]).exit_code == 2
    away = ["econ", "simulate", str(EXAMPLE), "--html", str(tmp_path / "no" / "page.html")]
    assert CliRunner().invoke(app, away).exit_code == 2


def test_a_page_has_no_empty_table():
    economy = simulate(small(cheats=[], epochs=3))
    assert "What cheating brings" not in write_page(economy, summarise(economy))
