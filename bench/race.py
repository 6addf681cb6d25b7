"""Speed of the Race on a device, its agreement with plain twin and known answers, and the spread of its hit rate.

Run: OMP_NUM_THREADS=1 python bench/race.py [--preset tiny] [--device cpu] [--seconds 5] [--threads 1] [--seeds 0] [--outputs 0] [--json]
On a machine with a GPU, `python bench/race.py --device cuda --preset paper --json` checks and times everything there.
`--seeds 100` counts the hits of 100 seeds; `--outputs 1024` counts hits of that many outputs of one seed under the
permutations of all of them, which tells the rate of a preset that is too large to count hits one by one. The variable keeps
NumPy, which the plain twin uses, from spending time in a second thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from paceline.base.hashing import hash_parts
from paceline.cli.race import format_figure, get_clock
from paceline.models.counter_rng import build_streams
from paceline.race.plan import PRESETS, RaceChallenge, RacePreset, derive_entry, derive_target, draw_permutations
from paceline.race.run import Searcher, search
from paceline.race.speed import SpeedOptions, get_device, measure_race

KEY = hash_parts("bench-node")
PPM = 1_000_000
SPREAD_NONCES = 2048
VECTORS = Path(__file__).parents[1] / "tests" / "vectors" / "race"

Figures = dict[str, str | int | float]


def main() -> int:
    """Measure and print; 1 when the device disagrees with a known answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--outputs", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, preset = get_device(options.device), PRESETS[options.preset]
    figures: Figures = {"torch": torch.__version__, "known_answers_missed": count_missed_answers(device)}
    speed = SpeedOptions(preset=options.preset, device=options.device, seconds=options.seconds)
    figures |= measure_race(speed, get_clock(options.device))
    if options.seeds:
        figures |= measure_spread(preset, options.seeds, device)
    if options.outputs:
        figures |= measure_rate(preset, options.outputs, device)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<36}{format_figure(value):>28}")
    return 1 if figures["known_answers_missed"] else 0


def count_missed_answers(device: torch.device) -> int:
    """Stored cases that the device does not reproduce."""
    missed = 0
    for path in sorted(VECTORS.glob("*.json")):
        for case in json.loads(path.read_text()):
            challenge = RaceChallenge(PRESETS[path.stem], bytes.fromhex(case["race_seed"]))
            searcher = Searcher(challenge, bytes.fromhex(case["public_key"]), device)
            nonces = case["race_nonces"]
            hits = [nonce for nonce, hit in zip(nonces, searcher.test_batch(nonces), strict=True) if hit]
            missed += hits != case["hits"]
    return missed


def measure_spread(preset: RacePreset, seeds: int, device: torch.device) -> Figures:
    """Hit counts of many seeds against counting noise: a dispersion of 1 means that seeds differ by chance only."""
    batches = -(-SPREAD_NONCES // preset.batch)
    counts = []
    for number in range(seeds):
        seed, key = (hash_parts(purpose, number.to_bytes(4, "little")) for purpose in ("spread-seed", "spread-key"))
        challenge = RaceChallenge(preset, seed)
        counts.append(len(search(challenge, key, stop=stop_after_batches(batches), device=device).hits))
    mean, nonces = sum(counts) / len(counts), batches * preset.batch
    rate = mean / nonces
    return {
        "seeds": seeds,
        "nonces_per_seed": nonces,
        "one_hit_in": 1 / rate,
        "one_hit_in_least": nonces / max(counts),
        "one_hit_in_most": nonces / max(1, min(counts)),
        "dispersion": sum((count - mean) ** 2 for count in counts) / max(1, seeds - 1) / (mean * (1 - rate)),
    }


@torch.inference_mode()
def measure_rate(preset: RacePreset, outputs: int, device: torch.device) -> Figures:
    """Hits among outputs under the permutations of all of them: each pair of output and permutation counts as a nonce."""
    challenge = RaceChallenge(preset, hash_parts("rate-race"))
    searcher, entry = Searcher(challenge, KEY, device, fuse=False), derive_entry(challenge, KEY)
    made = [searcher.compute_outputs(range(first, min(first + 64, outputs))) for first in range(0, outputs, 64)]
    vectors = torch.cat(made).float()
    permutations = draw_permutations(entry, build_streams(range(outputs), device))
    signs = torch.empty(outputs, preset.width, device=device)
    signs.scatter_(1, permutations, derive_target(challenge).to(device).float().expand(outputs, -1))
    scores = vectors @ signs.T / vectors.norm(dim=1, keepdim=True)
    hits = int((scores > (preset.threshold_ppm / PPM) ** 0.5).sum())
    return {"outputs": outputs, "one_hit_in_of_pairs": outputs**2 / max(1, hits), "hits_of_pairs": hits}


def stop_after_batches(batches: int) -> Callable[[], bool]:
    left = iter([False] * batches)
    return lambda: next(left, True)


if __name__ == "__main__":
    sys.exit(main())
