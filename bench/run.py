"""Runs every measurement of this folder, one after another, and prints their tables.

Run: make bench, or python bench/run.py [NAME ...] with names of files in this folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ALL = (
    "ledger",
    "channels",
    "ceremony",
    "beacon_withholding",
    "store",
    "light",
    "snapshots",
    "state_sync",
    "comet",
    "race",
    "race_surrogates",
    "race_checking",
    "training_engine",
    "training_network",
    "training_overhead",
    "training_memory",
    "chat",
    "chat_race",
    "gateway",
    "vllm_serving",
    "demo",
)


def main() -> int:
    names = sys.argv[1:] or ALL
    failed = 0
    for name in names:
        path = FOLDER / f"{name}.py"
        if not path.is_file():
            print(f"no {path.name} in {FOLDER.name}/; there are {', '.join(ALL)}")
            return 2
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, str(path)], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
