"""The pages: short where they must be, every file they name exists, and nothing tells of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "decisions/*.md", "bench/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
SKIPPED_FOLDERS = {".git", ".venv", ".tools", "__pycache__", "node_modules"}
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"^\.?[\w-]+(?:[./][\w.-]+)*/?$")
NAMED_BY_SUFFIX = {".py", ".md", ".lock", ".sh", ".yaml"}
# Written in two parts, so that this file does not find itself.
FORBIDDEN = ["/ro" + "ot/", "/wo" + "rk/", "py" + "pi.org", "python" + "hosted", "/tmp/pr" + "obe"]


def find_missing_paths(text, page):
    return [name for name in CODE_SPAN.findall(text) + LINK.findall(text) if _names_missing_file(name, page)]


def _names_missing_file(name, page):
    name = name.partition("#")[0]
    if not PATH.match(name):
        return False
    if any((base / name).exists() for base in (ROOT, page.parent, ROOT / "paceline")):
        return False
    if "/" in name.rstrip("/"):
        return (ROOT / name.split("/")[0]).is_dir() or Path(name).suffix in NAMED_BY_SUFFIX
    return Path(name).suffix in NAMED_BY_SUFFIX and not any(ROOT.glob(f"paceline/**/{name}"))


def files_of_the_tree():
    ignored = SKIPPED_FOLDERS | {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(part in ignored or part.endswith(".egg-info") for part in parts):
            yield path


def test_the_readme_fits_its_limit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_a_page_names_exists(page):
    assert find_missing_paths(page.read_text(), page) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see `paceline/base/hashing.py` and `tests/` and [this](LICENSE)", []),
        ("see `errors.py`, `merkle.py` and `base/draws.py`", []),
        ("`GET /v1/models`, `make demo`, `voting_power`, `a/b`, `out.json`", []),
        ("see `paceline/base/gone.py`", ["paceline/base/gone.py"]),
        ("see `gone.py`", ["gone.py"]),
        ("see [this](docs/GONE.md#part)", ["docs/GONE.md#part"]),
        ("see `paceline/gone/`", ["paceline/gone/"]),
    ],
)
def test_invalid_paths_in_pages_are_found(text, missing):
    assert find_missing_paths(text, ROOT / "README.md") == missing


def test_no_file_tells_of_one_machine_or_one_registry():
    found = []
    for path in files_of_the_tree():
        text = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word.encode() in text]
    assert found == []


def test_decisions_are_short_numbered_and_listed():
    decisions = [path for path in sorted((ROOT / "decisions").glob("*.md")) if path.name != "README.md"]
    index = (ROOT / "decisions" / "README.md").read_text()
    numbers = [path.name[:4] for path in decisions]
    assert all(re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", path.name) for path in decisions)
    assert len(set(numbers)) == len(numbers)
    assert [path.name for path in decisions if len(path.read_text().splitlines()) > 40] == []
    assert [path.name for path in decisions if f"({path.name})" not in index] == []
