"""Files that commands write: what is in the way is told before any work, and nothing is left half written."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.cli.files import require_target, write_target
from paceline.cli.main import app


def test_a_file_is_written_whole_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "out"
    require_target(None)
    require_target(path)
    write_target(path, "one")
    require_target(path)
    write_target(path, "two")
    (tmp_path / "link").symlink_to(path)
    write_target(tmp_path / "link", b"three")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "link").unlink()
    assert path.read_text() == "three" and list(tmp_path.iterdir()) == [path]


def test_invalid_places_are_told_apart(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out", "its folder does not exist"),
        (tmp_path / "pipe", "no plain file"),
    ):
        with pytest.raises(ConfigError, match=told):
            require_target(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="nothing can be written into"):
        require_target(tmp_path / "out")


def test_invalid_writes_become_one_line(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_target(tmp_path / "out", "text")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("econ", "simulate", "tests"), "tests cannot be read: Is a directory"),
        (("econ", "simulate", "pyproject.none"), "pyproject.none cannot be read: No such file"),
        (("econ", "simulate", "README.md"), "README.md is no TOML file"),
        (("cost", "tokens", "--figures", "tests"), "tests cannot be read"),
        (("cost", "tokens", "--prices", "tests"), "tests cannot be read"),
        (("receipt", "get", "00" * 32, "--out", "tests"), "tests is a folder"),
    ],
)
def test_invalid_files_are_told_in_one_line(words, told):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2 and told in done.stderr and "Errno" not in done.stderr and done.stderr.count("\n") == 1


def test_invalid_page_of_an_audit_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("paceline.models.language.prepare_model", lambda *_, **__: pytest.fail("it began"))
    done = CliRunner().invoke(app, ["audit", "inference", "--attack", "x", "--html", str(tmp_path)])
    assert done.exit_code == 2 and f"{tmp_path} is a folder" in done.stderr
