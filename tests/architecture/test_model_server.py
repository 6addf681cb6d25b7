"""What runs inside another process, with an environment of its own, needs nothing that is not installed there."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "tools" / "vllm.lock"
LIST_MODULES = """
import sys
before = set(sys.modules)
import paceline.inference.vllm_sampler
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""


def test_our_sampler_imports_only_packages_of_the_model_servers_lock():
    done = subprocess.run([sys.executable, "-c", LIST_MODULES], capture_output=True, text=True, check=True)
    locked = {line.partition("==")[0] for line in LOCK.read_text().splitlines() if "==" in line}
    owners = packages_distributions()
    used = {
        name: owners.get(name, []) for name in done.stdout.split() if name != "paceline" and not name.startswith("_")
    }
    assert "msgspec" in used
    missing = {
        name for name, found in used.items() if found and not locked & {one.lower().replace("_", "-") for one in found}
    }
    assert missing == set()
