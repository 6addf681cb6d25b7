"""`--model`, and what `paceline doctor` says about each model."""

from __future__ import annotations

import importlib.util
import io

import pytest
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.cli import models as model_options
from paceline.cli import up
from paceline.cli.doctor import examine_models
from paceline.cli.models import resolve_models
from paceline.models.catalogue import DEFAULT_MODEL, load_catalogue
from paceline.node.home import Home
from paceline.node.settings import load_settings

GEMMA = "gemma-3-270m"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Homes that `up` would have run."""
    homes = []
    monkeypatch.setattr(up, "run_home", lambda home, options, console: homes.append(home))
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    return homes


def run_up(path, *models, nodes=None):
    options = up.UpOptions(
        nodes=nodes,
        port=0,
        host="127.0.0.1",
        api_keys=(),
        home=path,
        engine=None,
        models=models,
        advertise=None,
        peer_port=8100,
    )
    up.run_up(options, Console(file=io.StringIO()))


def served(home):
    return [load_settings(home.node_path(name) / "node.toml").models for name in home.node_names()]


def test_a_new_network_serves_what_was_asked(started, tmp_path):
    run_up(tmp_path / "home", GEMMA, DEFAULT_MODEL, GEMMA, nodes=2)
    assert served(started[0]) == [(GEMMA, DEFAULT_MODEL)] * 2
    assert [node.serves for node in started[0].load_genesis().nodes] == [(GEMMA, DEFAULT_MODEL)] * 2


def test_a_continued_network_changes_its_models_only_when_asked(started, tmp_path):
    run_up(tmp_path / "home", nodes=2)
    assert served(started[0]) == [(DEFAULT_MODEL,)] * 2
    run_up(tmp_path / "home", GEMMA)
    run_up(tmp_path / "home")
    assert served(started[-1]) == [(GEMMA,)] * 2


def test_invalid_model_makes_no_home(started, tmp_path):
    with pytest.raises(ConfigError, match=DEFAULT_MODEL):
        run_up(tmp_path / "home", "gpt-5")
    with pytest.raises(ConfigError, match="no such folder"):
        run_up(tmp_path / "home", str(tmp_path / "missing" / "model"))
    assert not Home(tmp_path / "home").exists and not started


def test_a_folder_is_imported_and_an_imported_one_has_a_name(monkeypatch, tmp_path):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("paceline.models.local.import_folder", lambda folder, cache, progress: "folder-0123456789ab")
    assert resolve_models((str(tmp_path / "folder"),), tmp_path, print) == ("folder-0123456789ab",)
    with pytest.raises(ConfigError):
        resolve_models(("folder-0123456789ab",), tmp_path, print)
    (tmp_path / "folder-0123456789ab").mkdir()
    (tmp_path / "folder-0123456789ab" / model_options.ENTRY_FILE).write_text("{}")
    assert resolve_models(("folder-0123456789ab",), tmp_path, print) == ("folder-0123456789ab",)


def test_a_pretrained_model_is_called_one_and_its_terms_are_named(tmp_path):
    told = []
    resolve_models((GEMMA, DEFAULT_MODEL), tmp_path, told.append)
    assert len(told) == 1 and "pretrained" in told[0] and "Gemma Terms of Use" in told[0]


def test_doctor_says_which_models_fit():
    entries = load_catalogue()
    needed = {name: entry.memory_bytes["bf16"] for name, entry in entries.items()}
    assert needed[DEFAULT_MODEL] < needed[GEMMA]
    exact = {finding.what: finding for finding in examine_models(needed[GEMMA])}
    assert {finding.remedy for finding in exact.values()} == {""}
    less = {finding.what: finding for finding in examine_models(needed[GEMMA] - 1)}
    assert "does not fit" in less[f"model {GEMMA}"].remedy and not less[f"model {DEFAULT_MODEL}"].remedy
    assert not any(finding.fatal for finding in less.values())


def test_doctor_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert all("install" in finding.remedy for finding in examine_models(10**12))
