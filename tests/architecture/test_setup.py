"""Set-up: the lock fits pyproject.toml, holds hashes and no address, and failures say what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

ENTRY = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))? \\$", re.MULTILINE)


@pytest.fixture(scope="session")
def lock_text(root):
    return (root / "requirements.lock").read_text()


@pytest.fixture(scope="session")
def declared(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]


@pytest.fixture
def copy_of_setup(root, tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("setup", "uv-pin.txt"):
        shutil.copy(root / "scripts" / name, tmp_path / "scripts" / name)
    return tmp_path


def run_setup(folder, **settings):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))} | settings
    return subprocess.run([folder / "scripts" / "setup"], env=environment, capture_output=True, text=True, check=False)


def test_every_declared_dependency_is_locked_at_a_version_that_fits(lock_text, declared):
    locked = {}
    for match in ENTRY.finditer(lock_text):
        locked.setdefault(match["name"], []).append(match["version"])
    for requirement in declared:
        versions = locked.get(requirement.name.lower(), [])
        assert versions, f"{requirement.name} is not in requirements.lock; run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: run `make lock`"


def test_every_locked_version_has_a_hash(lock_text):
    entries = re.split(r"^(?=[a-z0-9])", lock_text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(ENTRY.findall(lock_text)) > 50
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_names_no_address_and_no_folder(lock_text):
    for forbidden in ("://", "file:", "--index", "--find-links", "-e ", " @ "):
        assert forbidden not in lock_text


def test_every_dependency_has_its_reason(root, declared):
    reasons = (root / "decisions" / "001-dependencies.md").read_text()
    missing = [requirement.name for requirement in declared if f"`{requirement.name}`" not in reasons]
    assert missing == []


def test_invalid_python_is_told_with_what_to_do(copy_of_setup):
    result = run_setup(copy_of_setup, PYTHON="no-such-python")
    assert result.returncode == 1
    assert "no Python 3.11 or newer (tried: no-such-python)" in result.stderr
    assert not (copy_of_setup / ".venv").exists()


def test_python_310_is_refused(copy_of_setup):
    old = copy_of_setup / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "no Python 3.11 or newer" in run_setup(copy_of_setup, PYTHON=str(old)).stderr


def test_invalid_registry_is_told_with_what_to_do(copy_of_setup):
    result = run_setup(copy_of_setup, PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_NO_CACHE_DIR="1")
    assert result.returncode == 1
    assert "No answer from the package registry" in result.stderr


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/lock", "scripts/check", "scripts/test_long", ".ci/run"])
def test_shell_scripts_parse_and_are_executable(root, script):
    path = root / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_make_alone_prints_the_commands(root):
    result = subprocess.run(["make", "--no-print-directory"], cwd=root, capture_output=True, text=True, check=True)
    for target in ("demo", "up", "test", "test-long", "lint", "bench", "lock", "clean"):
        assert f"make {target} " in result.stdout
