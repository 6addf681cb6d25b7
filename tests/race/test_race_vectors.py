"""Known answers: search and plain twin give the stored outputs and hits, so no change of either passes unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.base.hashing import hash_parts
from paceline.race.check import PlainTwin
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import Searcher

FOLDER = Path(__file__).parents[1] / "vectors" / "race"
CASES = [(path.stem, case) for path in sorted(FOLDER.glob("*.json")) for case in json.loads(path.read_text())]


@pytest.mark.parametrize("path", [Searcher, PlainTwin])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_path_gives_the_known_answers(name, case, path):
    challenge = RaceChallenge(PRESETS[name], bytes.fromhex(case["race_seed"]))
    tested = path(challenge, bytes.fromhex(case["public_key"]))
    nonces = case["race_nonces"]
    outputs = bytes(value & 255 for row in tested.compute_outputs(nonces).tolist() for value in row)
    assert hash_parts("race-outputs", outputs).hex() == case["outputs_hash"]
    assert [nonce for nonce, hit in zip(nonces, tested.test_batch(nonces), strict=True) if hit] == case["hits"]


def test_vectors_cover_both_small_presets_with_hits_and_without():
    assert {name for name, _ in CASES} == {"micro", "tiny"}
    for preset in ("micro", "tiny"):
        hits = sum(len(case["hits"]) for name, case in CASES if name == preset)
        assert 0 < hits < sum(len(case["race_nonces"]) for name, case in CASES if name == preset)
