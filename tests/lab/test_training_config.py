from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from paceline.base.errors import ConfigError
from paceline.lab.training.config import (
    hash_config,
    make_machines,
    make_strategy,
    parse_bandwidth,
    parse_config,
    read_tables,
)


def parse(**tables: Any) -> Any:
    return parse_config({"run": {"steps": 100}, "strategy": {"name": "diloco", "inner_steps": 10}} | tables, "file")


def test_a_short_file_is_a_whole_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[run]\nsteps = 100\n[strategy]\nname = "ddp"\n')
    config = parse_config(read_tables(path), str(path))
    assert (config.model.name, config.data.source, config.fleet.trainers) == ("byte-gpt-0.5m", "shakespeare", 4)
    assert config.evaluate_every == 5


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"runs": {}}, "runs"),
        ({"run": {"steps": 100, "step": 3}}, "step"),
        ({"run": {"steps": 0}}, "run.steps"),
        ({"run": {}}, "steps"),
        ({"strategy": {}}, "strategy.name"),
        ({"strategy": {"name": "diloko"}}, "strategy.name"),
        ({"strategy": {"name": "diloco", "inner_steps": 10, "inner": 3}}, "strategy.inner"),
        ({"strategy": {"name": "diloco", "inner_steps": 101}}, "run.steps 100"),
        ({"strategy": {"name": "streaming-diloco", "inner_steps": 10, "fragments": 4}}, "fragments 4"),
        ({"data": {"heterogeneity": 1.01}}, "data.heterogeneity"),
        ({"optimizer": {"rate": 0}}, "optimizer.rate"),
        ({"optimizer": {"name": "adamv"}}, "optimizer.name"),
        ({"optimizer": {"settings": {"beta": 1}}}, "optimizer.settings.beta"),
        ({"optimizer": {"schedule": {"kind": "step"}}}, "schedule.kind"),
        ({"fleet": {"trainers": 0}}, "fleet.trainers"),
        ({"fleet": {"trainers": 1001}}, "fleet.trainers"),
        ({"fleet": {"speed_skew": 0.5}}, "fleet.speed_skew"),
        ({"fleet": {"bandwidth": "fast"}}, "fleet.bandwidth"),
        ({"fleet": {"liars": 0.5}}, "fleet.lie"),
        ({"fleet": {"lie": "flip"}}, "fleet.lie"),
        ({"fleet": {"liars": 0.01, "lie": "flip"}}, "fleet.liars"),
        ({"fleet": {"liars": 0.5, "lie": "boast"}}, "fleet.lie"),
        ({"fleet": {"lie_scale": 2.0}}, "fleet.lie_scale"),
        ({"fleet": {"pretend_params": 9}}, "fleet.pretend_params"),
        ({"fleet": {"events": [{"kind": "crash", "trainer": 4, "seconds": 1.0}]}}, "trainer 4 of 4"),
        ({"fleet": {"events": [{"kind": "crash", "trainer": 0, "seconds": 1.0}] * 2}}, "two events"),
        ({"fleet": {"events": [{"kind": "explode", "trainer": 0, "seconds": 1.0}]}}, "events"),
    ],
)
def test_invalid_settings_are_refused_by_name(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=r"^file: ") as caught:
        parse(**tables)
    assert named in str(caught.value)


def test_invalid_file_names_itself(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[run")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_tables(tmp_path / "bad.toml")


def test_invalid_departure_before_the_arrival() -> None:
    both = [{"kind": "join", "trainer": 1, "seconds": 5.0}, {"kind": "leave", "trainer": 1, "seconds": 5.0}]
    with pytest.raises(ConfigError, match="trainer 1 goes before"):
        parse(fleet={"events": both})
    both[1]["seconds"] = 5.1
    assert parse(fleet={"events": both}).fleet.events[1].seconds == 5.1


@pytest.mark.parametrize(
    ("text", "bits"), [("200M", 2e8), ("5G", 5e9), ("64k", 64e3), ("10", 10.0), (7, 7.0), (0.5, 0.5)]
)
def test_bandwidths(text: str | float, bits: float) -> None:
    assert parse_bandwidth(text) == bits


@pytest.mark.parametrize("text", ["", "M", "-1M", 0, -3, "1T", math.inf, math.nan])
def test_invalid_bandwidths(text: str | float) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.bandwidth"):
        parse_bandwidth(text)


def test_the_fleet_is_what_the_table_says() -> None:
    table = {
        "trainers": 5,
        "step_seconds": 2.0,
        "speed_skew": 4.0,
        "bandwidth": "1M",
        "liars": 0.2,
        "lie": "flip",
        "lie_scale": 3.0,
        "events": [{"kind": "join", "trainer": 1, "seconds": 7.0}],
    }
    machines = make_machines(parse(fleet=table).fleet).machines
    assert [machine.step_seconds for machine in machines] == [2.0, 3.5, 5.0, 6.5, 8.0]
    assert [machine.lie for machine in machines] == ["", "", "", "", "flip"]
    assert (machines[1].joins_at, machines[0].up_bits, machines[4].lie_scale) == (7.0, 1e6, 3.0)


def test_the_hash_follows_meaning_not_spelling() -> None:
    plain = parse()
    spelled = parse_config(
        {
            "strategy": {"inner_steps": 10, "name": "diloco"},
            "fleet": {"trainers": 4, "step_seconds": 1},
            "run": {"seed": 1, "steps": 100},
        },
        "other file",
    )
    assert hash_config(plain) == hash_config(spelled)
    others = [parse(run={"steps": 101}), parse(data={"heterogeneity": 0.5}), parse(optimizer={"rate": 1e-3})]
    assert len({hash_config(config) for config in [plain, *others]}) == 4


def test_the_optimiser_differs_from_the_presets_own_where_the_file_says_so() -> None:
    usual = make_strategy(parse()).local
    assert (usual.name, usual.rate, usual.clip) == ("adamw", 4e-4, 1.0)
    changed = make_strategy(parse(optimizer={"rate": 2e-3, "clip": 0})).local
    assert (changed.rate, changed.clip, changed.settings) == (2e-3, None, usual.settings)
    other = make_strategy(parse(optimizer={"name": "sgd"})).local
    assert (other.name, other.settings) == ("sgd", {})


def test_a_papers_warm_up_takes_a_tenth_of_the_run_at_most() -> None:
    assert make_strategy(parse()).local.schedule.warmup_steps == 10
    own = parse(optimizer={"schedule": {"warmup_steps": 50}})
    assert make_strategy(own).local.schedule.warmup_steps == 50
