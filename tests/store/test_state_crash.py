"""A process that commits without pause is killed at random moments; what it leaves must be one whole height."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.store.state import MemoryStateStore, SqliteStateStore

COMMITTER = """
import sys
from pathlib import Path
from paceline.store.state import SqliteStateStore
sys.path.insert(0, sys.argv[2])
from test_state_crash import derive_block, derive_changes
store = SqliteStateStore(Path(sys.argv[1]), durable=False)
while True:
    height = store.height + 1
    store.stage(derive_changes(height))
    store.commit(height, derive_block(height))
    print(height, flush=True)
"""


def derive_changes(height: int) -> dict[bytes, bytes | None]:
    chance = random.Random(height)
    keys = [b"k/%d" % chance.randrange(400) for _ in range(60)]
    return {key: None if chance.random() < 0.3 else chance.randbytes(50) for key in keys}


def derive_block(height: int) -> bytes:
    return random.Random(-height).randbytes(5000)


def kill_after(path: Path, lines: int, seconds: float) -> int:
    """Kill the committer that long after it reported its `lines`-th height; returns the last height it reported."""
    command = [sys.executable, "-c", COMMITTER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(lines)]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        reported += process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    return int(reported[-1])


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_leaves_one_whole_height(tmp_path, seed):
    path = tmp_path / "s.db"
    chance = random.Random(seed)
    twin = MemoryStateStore()
    for _ in range(3):
        reported = kill_after(path, chance.randrange(1, 20), chance.uniform(0, 0.03))
        store = SqliteStateStore(path, durable=False)
        assert store.height >= reported
        while twin.height < store.height:
            height = twin.height + 1
            twin.stage(derive_changes(height))
            twin.commit(height, derive_block(height))
        assert store.app_hash == twin.app_hash
        assert list(store.iterate(b"")) == list(twin.iterate(b""))
        assert store.get_blocks(1, 10**6, 10**9) == twin.get_blocks(1, 10**6, 10**9)
        store.close()
