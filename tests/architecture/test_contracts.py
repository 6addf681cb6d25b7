"""The import contracts of pyproject.toml bite: each planted import, in a tree of empty rooms, breaks its contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = (
    *("base", "protocol", "economy", "models", "network", "store", "ledger", "engine"),
    *("race", "inference", "training", "verification", "lab", "node", "web", "cli"),
)


@pytest.fixture
def tree(root, tmp_path):
    (tmp_path / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    for room in ["", *ROOMS]:
        folder = tmp_path / "paceline" / room
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    return tmp_path


def run_contracts(tree):
    program = Path(sys.executable).with_name("lint-imports")
    command = [program, "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_empty_rooms_keep_every_contract(tree):
    result = run_contracts(tree)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_the_rooms_here_are_the_rooms_of_the_package(root):
    found = {path.name for path in (root / "paceline").iterdir() if (path / "__init__.py").exists()}
    assert found == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("base", "import paceline.ledger", "a room imports only rooms on lower floors"),
        ("network", "import paceline.store", "rooms on one floor are strangers"),
        ("race", "import paceline.training", "rooms on one floor are strangers"),
        ("training", "def f():\n    import paceline.engine", "the kinds of work never reach"),
        ("inference", "import socket", "the kinds of work never reach"),
        ("ledger", "import time", "are arithmetic"),
        ("economy", "from random import random", "are arithmetic"),
        ("store", "import torch", "no tensor below or beside models"),
        ("node", "import torch.nn", "hand tensors on without touching them"),
        ("web", "import paceline.network", "web speaks to its own node only"),
    ],
)
def test_invalid_imports_break_their_contract(tree, module, line, contract):
    (tree / "paceline" / module / "planted.py").write_text(line + "\n")
    result = run_contracts(tree)
    assert result.returncode == 1
    assert any(contract in text and text.rstrip().endswith("BROKEN") for text in result.stdout.splitlines())


def test_invalid_import_through_others_is_caught(tree):
    (tree / "paceline" / "base" / "clock.py").write_text("import time\n")
    (tree / "paceline" / "ledger" / "rules.py").write_text("import paceline.base.clock\n")
    result = run_contracts(tree)
    assert result.returncode == 1
    assert "paceline.ledger is not allowed to import time" in result.stdout


def test_invalid_room_without_a_floor_is_caught(tree):
    (tree / "paceline" / "attic").mkdir()
    (tree / "paceline" / "attic" / "__init__.py").write_text("")
    assert run_contracts(tree).returncode == 1


def test_lab_is_for_cli_only(tree):
    (tree / "paceline" / "cli" / "simulate.py").write_text("import paceline.lab\n")
    assert run_contracts(tree).returncode == 0
    (tree / "paceline" / "node" / "planted.py").write_text("import paceline.lab\n")
    assert run_contracts(tree).returncode == 1
