"""Time to take, carry over and restore a whole state, and how long its owner must wait meanwhile.

python bench/snapshots.py [--keys 100000] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from paceline.store.snapshots import SnapshotFolder, SnapshotRestorer
from paceline.store.state import MemoryStateStore, SqliteStateStore

VALUE_BYTES = 100


def make_store(keys: int) -> MemoryStateStore:
    """`keys` pairs of 24 + 100 bytes."""
    store = MemoryStateStore()
    store.stage(
        {sha256(number.to_bytes(8, "big")).digest()[:24]: bytes([number % 251]) * VALUE_BYTES for number in range(keys)}
    )
    store.commit(1, b"")
    return store


def measure(store: MemoryStateStore, folder: Path) -> dict[str, float]:
    """Seconds of each step, and the bytes that travel."""
    begin = time.perf_counter()
    pairs = list(store.iterate(b""))
    copied = time.perf_counter()
    kept = SnapshotFolder(folder / "kept")
    info = kept.take(store.height, store.app_hash, pairs)
    taken = time.perf_counter()
    target = SqliteStateStore(folder / "restored.sqlite", durable=False)
    restorer = SnapshotRestorer(info, store.app_hash, folder / "incoming")
    size = 0
    for index in range(len(info.chunks)):
        chunk = kept.load_chunk(info.height, index)
        size += len(chunk)
        restorer.add_chunk(index, chunk)
    restorer.install(target)
    restored = time.perf_counter()
    assert target.app_hash == store.app_hash
    target.close()
    return {
        "pause_seconds": copied - begin,
        "take_seconds": taken - copied,
        "restore_seconds": restored - taken,
        "megabytes": size / 1e6,
    }


def main() -> int:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store = make_store(options.keys)
    runs = []
    for _ in range(options.repeats):
        with TemporaryDirectory() as folder:
            runs.append(measure(store, Path(folder)))
    figures = {name: round(median(run[name] for run in runs), 3) for name in runs[0]}
    print(json.dumps(figures) if options.json else "\n".join(f"{name:16} {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
