"""Speed of the Race on this machine: search against plain twin, share of matrix products, and spread of the hit rate.

Run: OMP_NUM_THREADS=1 python bench/race.py [--preset tiny] [--device cpu] [--threads 1] [--seconds 3] [--seeds 0]
Rates are per second of CPU time of this process, so that other work on the machine disturbs little; on another device
they are per second of the clock. The variable keeps NumPy, which the plain twin uses, from spending time in a second thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from paceline.base.hashing import hash_parts
from paceline.race.check import check_nonces
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import search

PRODUCTS = ("aten::_int_mm", "aten::mm", "aten::bmm")
KEY = hash_parts("bench-node")
PPM = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run measures."""

    preset: str
    device: str
    threads: int
    seconds: float
    seeds: int


def main() -> None:
    """Measure and print."""
    settings = parse_settings()
    torch.set_num_threads(settings.threads)
    challenge = RaceChallenge(PRESETS[settings.preset], hash_parts("bench-race"))
    rows = dict(measure_speed(settings, challenge))
    if settings.device == "cpu":
        rows["share of the search in matrix products"] = f"{measure_product_share(challenge):.0%}"
    if settings.seeds:
        rows |= measure_spread(settings)
    print(f"preset {settings.preset} on {settings.device}, {settings.threads} thread(s), torch {torch.__version__}")
    for name, value in rows.items():
        print(f"  {name:<44}{value:>16}")


def parse_settings() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=0, help="measure the spread of the hit rate over this many seeds")
    return Settings(**vars(parser.parse_args()))


def measure_speed(settings: Settings, challenge: RaceChallenge) -> Iterator[tuple[str, str]]:
    clock = time.process_time if settings.device == "cpu" else time.perf_counter
    search(challenge, KEY, stop=stop_after_batches(2), device=settings.device)
    start = clock()
    search(challenge, KEY, stop=lambda: True, device=settings.device)
    built = clock()
    found = search(challenge, KEY, stop=lambda: clock() - built > settings.seconds, device=settings.device)
    rate = found.nonces_tried / (clock() - built)
    yield "building network and target, ms", f"{1000 * (built - start):,.0f}"
    yield "search, nonces/s", f"{rate:,.0f}"
    yield f"hits in {settings.seconds:g} s", f"{len(found.hits):,}"
    yield "one hit in", f"{found.nonces_tried / max(1, len(found.hits)):,.1f}"
    start = time.process_time()
    check_nonces(challenge, KEY, found.hits[:256])
    checked = len(found.hits[:256]) / (time.process_time() - start)
    yield "plain twin, nonces/s", f"{checked:,.0f}"
    yield "search over plain twin", f"{rate / checked:,.1f}x"


def measure_product_share(challenge: RaceChallenge) -> float:
    """Time in matrix products over time in all tensor operations."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        search(challenge, KEY, stop=stop_after_batches(30))
    times = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    return sum(times.get(name, 0) for name in PRODUCTS) / sum(times.values())


def measure_spread(settings: Settings) -> dict[str, str]:
    """Hit counts of many seeds against counting noise: a dispersion of 1 means that seeds differ by chance only."""
    preset = PRESETS[settings.preset]
    batches = -(-2048 // preset.batch)
    counts = []
    for number in range(settings.seeds):
        seed, key = (hash_parts(purpose, number.to_bytes(4, "little")) for purpose in ("spread-seed", "spread-key"))
        counts.append(len(search(RaceChallenge(preset, seed), key, stop=stop_after_batches(batches)).hits))
    mean, nonces = sum(counts) / len(counts), batches * preset.batch
    rate = mean / nonces
    dispersion = sum((count - mean) ** 2 for count in counts) / max(1, len(counts) - 1) / (mean * (1 - rate))
    return {
        f"one hit in, mean of {len(counts)} seeds x {nonces} nonces": f"{1 / rate:.2f}",
        "one hit in, by the threshold": f"{2 / math.erfc(math.sqrt(preset.threshold_ppm / PPM / 2)):.2f}",
        "one hit in, least and most over the seeds": f"{nonces / max(counts):.1f} to {nonces / max(1, min(counts)):.1f}",
        "dispersion (1 = counting noise only)": f"{dispersion:.2f}",
    }


def stop_after_batches(batches: int) -> Callable[[], bool]:
    left = iter([False] * batches)
    return lambda: next(left, True)


if __name__ == "__main__":
    main()
