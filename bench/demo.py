"""The whole demo as a newcomer runs it: seconds, memory, and whether every cheater and nobody else was caught.

Run: python bench/demo.py [SEED ...] (default: 1 2 3 4 5).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CAUGHT = {"race": ["node-5"], "inference": ["node-4"], "training": ["node-3"]}


def play(seed: int, folder: Path) -> dict[str, Any]:
    out = folder / f"{seed}.json"
    home = folder / f"home-{seed}"
    command = [sys.executable, "-m", "paceline", "demo", "--seed", str(seed), "--json", str(out), "--home", str(home)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def main() -> None:
    seeds = [int(text) for text in sys.argv[1:]] or [1, 2, 3, 4, 5]
    print(f"  {'seed':>4}{'seconds':>9}{'memory GB':>11}{'hits':>8}{'requests':>10}{'loss':>16}  caught")
    with TemporaryDirectory() as folder:
        for seed in seeds:
            found = play(seed, Path(folder))
            caught = {phase: found[phase]["rejected_nodes"] for phase in CAUGHT}
            training = found["training"]
            verdict = "all three, nobody else" if caught == CAUGHT else f"WRONG: {caught}"
            losses = f"{training['loss_first']:.2f} → {training['loss_last']:.2f}"
            print(
                f"  {seed:>4}{found['seconds']:>9.0f}{found['peak_rss_bytes'] / 1e9:>11.1f}"
                f"{found['race']['accepted_hits']:>8}{found['inference']['requests']:>10}{losses:>16}  {verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()
