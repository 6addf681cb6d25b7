"""The method that docs/TRAINING.md adds, exactly as written there: one file, a simulation, the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import test_training_presets as shared

from paceline.training.methods import presets
from paceline.training.methods.presets import registry

PAGE = Path(__file__).parents[2] / "docs" / "TRAINING.md"
MODULE = "sign_diloco"


def read_blocks():
    section = PAGE.read_text().split("## Add a method\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(name="blocks")
def make_blocks(tmp_path, monkeypatch):
    blocks = read_blocks()
    (tmp_path / f"{MODULE}.py").write_text(blocks[0])
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])
    found = registry.find_presets()
    monkeypatch.setitem(registry.PRESETS, "sign-diloco", found["sign-diloco"])
    yield blocks
    sys.modules.pop(f"{presets.__name__}.{MODULE}", None)
    vars(presets).pop(MODULE, None)


def test_the_method_is_one_file_of_at_most_60_lines(blocks):
    assert len(blocks) == 3
    assert len(blocks[0].splitlines()) <= 60
    described = next(entry for entry in registry.describe_presets() if entry.name == "sign-diloco")
    assert described.defaults == {"inner_steps": 30, "outer_rate": 0.01, "chunk": 4096}


def test_the_simulation_trains_and_counts_every_byte(blocks, capsys):
    space: dict = {}
    exec(compile(blocks[1], str(PAGE), "exec"), space)
    told = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in told[:-1]]
    assert len(losses) == 10 and losses[-1] < losses[0] / 2
    message = 2 + 4
    assert f"{10 * 3 * message} bytes received by trainer 0" in told[-1]
    assert f"{4 * 10 * 3 * message} bytes sent" in told[-2]


def test_the_tests_of_the_method_and_those_of_every_method_pass(blocks):
    space: dict = {}
    exec(compile(blocks[2], str(PAGE), "exec"), space)
    written = [value for name, value in space.items() if name.startswith("test_")]
    assert len(written) == 2
    for test in written:
        test()
    shared.test_the_same_seed_gives_the_same_run_bit_for_bit("sign-diloco")
    shared.test_one_trainer_alone_trains("sign-diloco")
    shared.test_a_crash_a_leaver_and_a_joiner_do_not_stop_it("sign-diloco")


def test_invalid_a_second_method_of_one_name_is_refused(blocks, tmp_path):
    (tmp_path / "twice.py").write_text(blocks[0])
    with pytest.raises(
        registry.ConfigError, match=r"two methods are called 'sign-diloco'; rename the one in twice\.py"
    ):
        registry.find_presets()
    sys.modules.pop(f"{presets.__name__}.twice", None)
    vars(presets).pop("twice", None)
