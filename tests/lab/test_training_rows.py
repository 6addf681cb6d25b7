from __future__ import annotations

from pathlib import Path

import pytest
from comparison_groups import fake_record

from paceline.base.errors import ConfigError
from paceline.lab.training.config import make_strategy
from paceline.lab.training.rows import MAX_CANDIDATES, QUICK_STEPS, get_baseline, load_rows, show_value
from paceline.lab.training.tuning import choose, choose_all, name_trial, plan_trials

RUN = '[run]\nsteps = 100\n[strategy]\nname = "diloco"\ninner_steps = 10\n'
EXAMPLES = Path(__file__).parents[2] / "examples" / "train"


def write(folder: Path, text: str, name: str = "run") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(RUN + text)
    return path


def test_a_sweep_makes_a_row_of_every_combination(tmp_path: Path) -> None:
    sweep = '[compare]\nlabel = "D"\nseeds = 2\n[compare.sweep]\n"strategy.inner_steps" = [5, 10]\n'
    rows = load_rows([write(tmp_path, sweep + '"fleet.jitter" = [0.0, 0.1]\n')])
    assert [row.label for row in rows] == [
        f"D, inner_steps {steps}, jitter {jitter}" for steps in (5, 10) for jitter in ("0", "0.1")
    ]
    assert rows[2].config.strategy["inner_steps"] == 10
    assert rows[3].config.fleet.jitter == 0.1
    assert rows[0].seeds == (1, 2)
    assert get_baseline(rows) is rows[0]


def test_trials_are_shorter_runs_of_the_first_seed(tmp_path: Path) -> None:
    grid = '[tune]\nsteps = 20\n[tune.grid]\n"optimizer.rate" = [1e-3, 2e-3]\n"strategy.outer_momentum" = [0.3, 0.6]\n'
    [row] = load_rows([write(tmp_path, grid + "[compare]\nseeds = 3\n")])
    trials = plan_trials([row])
    assert len(trials) == 4
    assert {(config.run.steps, config.run.seed) for config in trials.values()} == {(20, 1)}
    losses = [2.0, 1.5, None, 1.5]
    records = {name_trial(0, number): fake_record([loss]) for number, loss in enumerate(losses)}
    choice = choose(0, row, records)
    assert choice.settings == {"optimizer.rate": 1e-3, "strategy.outer_momentum": 0.6}
    config = row.get_config(choice.settings, seed=3)
    assert (config.run.steps, config.run.seed) == (100, 3)
    strategy = make_strategy(config)
    assert (strategy.local.rate, strategy.rules[0].outer.momentum) == (1e-3, 0.6)  # type: ignore[union-attr]  # DiLoCo's


def test_a_row_takes_the_choice_of_the_row_it_is_like(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "[compare]\nlabel = 'a'\n[tune]\nlike = 'b'\n", "a"),
        write(
            tmp_path, "[compare]\nlabel = 'b'\n[tune]\nsteps = 10\n[tune.grid]\n'optimizer.rate' = [1e-3, 2e-3]\n", "b"
        ),
    ]
    rows = load_rows(paths)
    assert len(plan_trials(rows)) == 2
    records = {name_trial(1, number): fake_record([loss]) for number, loss in enumerate([2.0, 1.5])}
    assert [choice.settings for choice in choose_all(rows, records)] == [{"optimizer.rate": 2e-3}] * 2
    with pytest.raises(ConfigError, match=r"tune\.like 'b': no row of group 'methods'"):
        load_rows(paths[:1])
    paths[0].write_text(paths[0].read_text().replace("like = 'b'", "like = 'a'"))
    with pytest.raises(ConfigError, match=r"tune\.like 'a': no row"):
        load_rows(paths)


def test_the_first_candidate_stands_when_all_diverge(tmp_path: Path) -> None:
    [row] = load_rows([write(tmp_path, '[tune.grid]\n"optimizer.rate" = [1e-3, 2e-3]\n[tune]\nsteps = 10\n')])
    records = {name_trial(0, number): fake_record([None]) for number in range(2)}
    assert choose(0, row, records).settings == {"optimizer.rate": 1e-3}


def test_a_number_at_the_edge_of_its_grid_is_told(tmp_path: Path) -> None:
    [row] = load_rows([write(tmp_path, '[tune]\nsteps = 10\n[tune.grid]\n"optimizer.rate" = [1e-3, 2e-3, 4e-3]\n')])
    for best, edges in ((0, ["optimizer.rate"]), (1, []), (2, ["optimizer.rate"])):
        records = {name_trial(0, number): fake_record([1.0 if number == best else 2.0]) for number in range(3)}
        assert choose(0, row, records).on_edge == edges


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[compare]\nlabels = 'x'\n", "labels"),
        ("[compare]\nseeds = 0\n", "seeds"),
        ("[compare]\nagainst = ['other']\n", "compare.against 'other'"),
        ("[compare]\nsweep = { steps = [1] }\n", "table.key"),
        ("[compare]\nsweep = { 'fleet.jitter' = [] }\n", "lists no value"),
        ("[compare]\nsweep = { 'fleet.jitter' = [0.1] }\npublished = { '0.2' = 0.5 }\n", "compare.published.0.2"),
        ("[tune.grid]\n'run.steps' = [1]\n", "tune.grid.run.steps"),
        ("[tune.grid]\n'optimizer.rate' = []\n", "lists no value"),
        ("[tune.grid]\n'strategy.outer_rat' = [1]\n", "strategy.outer_rat"),
        ("[tune]\nsteps = 9\n[tune.grid]\n'optimizer.rate' = [1e-3]\n", "run.steps 9"),
        ("[tune]\nlike = 'x'\n[tune.grid]\n'optimizer.rate' = [1e-3]\n", "tune.like"),
        ("[tune]\nlike = 'x'\nsteps = 50\n", "tune.like"),
        ("[quick]\nrun.stepz = 9\n", "stepz"),
    ],
)
def test_invalid_comparisons_are_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rows([write(tmp_path, text)], quick="quick" in text)
    assert named in str(caught.value)


def test_invalid_labels_and_baselines_of_two_files(tmp_path: Path) -> None:
    one, other = (write(tmp_path, "[compare]\nbaseline = true\n", name) for name in ("a", "b"))
    with pytest.raises(ConfigError, match="two rows of group 'methods' have it"):
        load_rows([one, other])
    other.write_text(other.read_text().replace("[compare]", '[compare]\nlabel = "x"'))
    with pytest.raises(ConfigError, match=r"compare\.baseline"):
        load_rows([one, other])
    with pytest.raises(ConfigError, match="no run file"):
        load_rows([])


def test_a_grid_holds_so_many_combinations_and_no_more(tmp_path: Path) -> None:
    rates = [1e-4 * (number + 1) for number in range(MAX_CANDIDATES + 1)]
    text = "[tune]\nsteps = 10\n[tune.grid]\n'optimizer.rate' = "
    [row] = load_rows([write(tmp_path, f"{text}{rates[:-1]}\n")])
    assert len(row.list_candidates()) == MAX_CANDIDATES
    with pytest.raises(ConfigError, match="more than 64 combinations"):
        load_rows([write(tmp_path, f"{text}{rates}\n")])


def test_quick_takes_few_steps_one_seed_and_two_candidates(tmp_path: Path) -> None:
    text = "[compare]\nseeds = 3\n[tune]\nsteps = 50\n[tune.grid]\n'optimizer.rate' = [1e-3, 2e-3, 4e-3]\n"
    text += "'strategy.outer_rate' = [0.5, 0.7]\n[quick]\nstrategy.inner_steps = 4\n"
    [row] = load_rows([write(tmp_path, text)], quick=True)
    assert (row.config.run.steps, row.seeds, len(row.list_candidates())) == (QUICK_STEPS, (1,), 2)
    assert row.config.strategy["inner_steps"] == 4


@pytest.mark.parametrize("quick", [False, True])
def test_every_example_is_a_row(quick: bool) -> None:
    rows = load_rows(sorted(EXAMPLES.rglob("*.toml")), quick=quick)
    assert {row.group for row in rows} == {
        "methods",
        "DiLoCo by H",
        "Utilisation by bandwidth",
        "Churn",
        "Speed skew of 4",
        "Liars",
    }
    assert sum(row.group == "methods" for row in rows) == 21


def test_values_as_labels_show_them() -> None:
    assert show_value({"name": "krum", "liars": 3}) == "krum liars 3"
    assert [show_value(value) for value in (0.5, 3, "50M", True)] == ["0.5", "3", "50M", "True"]
