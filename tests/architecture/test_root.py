"""What lies at the root of the tree is meant to lie there: results of runs do not get in unseen."""

from __future__ import annotations

import subprocess

MEANT = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "bench",
    "decisions", "docs", "examples", "paceline", "pyproject.toml", "requirements.lock", "scripts", "tests", "tools",
}  # fmt: skip
MOST_BYTES = 400_000


def test_the_root_holds_what_is_meant_to_be_there(root):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    files = [name for name in listed.split("\0") if name]
    assert {name.split("/")[0] for name in files} == MEANT
    present = [root / name for name in files if (root / name).is_file()]
    assert [str(path) for path in present if path.stat().st_size > MOST_BYTES] == []
