"""How long four years of 100,000 hosts take the simulator, on one core, and how much memory.

python bench/economy.py [--hosts N] [--epochs N]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import msgspec

from paceline.lab.economy import simulate
from paceline.lab.economy_report import summarise
from paceline.lab.scenario import load_scenario


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=1_460)
    options = parser.parse_args()
    scenario = load_scenario(Path(__file__).parent.parent / "examples" / "econ" / "first-years.toml")
    # As much work for each host as in the example: idle hosts lose money, and then being thrown out is a gain.
    demand = msgspec.structs.replace(
        scenario.demand, start_units=scenario.demand.start_units * options.hosts / scenario.hosts
    )
    started = time.process_time()
    economy = simulate(msgspec.structs.replace(scenario, hosts=options.hosts, epochs=options.epochs, demand=demand))
    summary = summarise(economy)
    figures = {
        "hosts": options.hosts,
        "epochs": options.epochs,
        "cpu_seconds": round(time.process_time() - started, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "gains": {cheat.name: round(cheat.gain, 3) for cheat in summary.cheats},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
