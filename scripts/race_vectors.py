"""Writes the Race's known answers to tests/vectors/race/, one file per preset, from the plain twin.

Run: python scripts/race_vectors.py. A change of these files is a change of the Race: chains that run would disagree with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from paceline.base.hashing import hash_parts
from paceline.race.check import PlainTwin
from paceline.race.plan import PRESETS, RaceChallenge

FOLDER = Path(__file__).parents[1] / "tests" / "vectors" / "race"
NAMES = ("micro", "tiny")
NONCES = (*range(40), 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def main() -> None:
    """Write one file per preset."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        cases = [build_case(name, number) for number in range(3)]
        (FOLDER / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")


def build_case(name: str, number: int) -> dict[str, object]:
    """One seed and key: the hash of all output vectors, byte by byte, and which nonces are hits."""
    seed, key = (hash_parts(purpose, name.encode(), bytes([number])) for purpose in ("vector-seed", "vector-key"))
    twin = PlainTwin(RaceChallenge(PRESETS[name], seed), key)
    outputs = bytes(value & 255 for value in twin.compute_outputs(NONCES).ravel().tolist())
    hits = [nonce for nonce, hit in zip(NONCES, twin.test_batch(NONCES), strict=True) if hit]
    return {
        "race_seed": seed.hex(),
        "public_key": key.hex(),
        "race_nonces": list(NONCES),
        "outputs_hash": hash_parts("race-outputs", outputs).hex(),
        "hits": hits,
    }


if __name__ == "__main__":
    main()
