"""One small Race that the tests of this room share."""

from __future__ import annotations

import pytest

from paceline.base.hashing import hash_parts
from paceline.race.plan import PRESETS, RaceChallenge


@pytest.fixture(scope="session")
def challenge():
    return RaceChallenge(PRESETS["micro"], hash_parts("test-race"))


@pytest.fixture(scope="session")
def public_key():
    return hash_parts("test-node")
