"""Snapshots: equal states give equal bytes, nothing wrong is ever installed, and a kill leaves the old state or the new."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_blob
from paceline.protocol.codec import encode
from paceline.store import snapshots
from paceline.store.snapshots import (
    ASKED_SECONDS,
    FORMAT,
    InvalidSnapshot,
    SnapshotFolder,
    SnapshotInfo,
    SnapshotRestorer,
    cut_chunks,
    decode_info,
    diff_exports,
    export_state,
    import_state,
)
from paceline.store.state import MemoryStateStore, SqliteStateStore


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 200)


def fill(store, pairs, heights=1):
    for height in range(1, heights):
        store.stage({b"history": str(height).encode("ascii")})
        store.commit(height, b"block")
    store.stage({b"history": None, **pairs})
    store.commit(store.height + 1, b"block")
    return store


PAIRS = {f"key {number:03}".encode("ascii"): os.urandom(0) + bytes([number]) * 40 for number in range(60)}


def take(tmp_path, store):
    return SnapshotFolder(tmp_path / "kept").take(store.height, store.app_hash, list(store.iterate(b"")))


def collect(tmp_path, info, order=None):
    folder = SnapshotFolder(tmp_path / "kept")
    restorer = SnapshotRestorer(info, info.app_hash, tmp_path / "incoming")
    for index in order or range(len(info.chunks)):
        restorer.add_chunk(index, folder.load_chunk(info.height, index))
    return restorer


@given(pairs=st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=60)), history=st.integers(1, 4))
def test_equal_states_give_equal_chunks_whatever_their_history(pairs, history):
    one, other = fill(MemoryStateStore(), pairs), fill(MemoryStateStore(), pairs, history)
    assert list(cut_chunks(one.iterate(b""))) == list(cut_chunks(other.iterate(b"")))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backwards", [False, True])
def test_a_state_comes_back_whole_in_any_order_and_survives_reopening(tmp_path, backwards):
    source = fill(MemoryStateStore(), PAIRS, heights=7)
    info = take(tmp_path, source)
    assert len(info.chunks) > 5
    order = list(range(len(info.chunks)))[:: -1 if backwards else 1]
    target = SqliteStateStore(tmp_path / "s.db", durable=False)
    collect(tmp_path, info, order).install(target)
    assert (target.height, target.app_hash) == (7, source.app_hash)
    target.close()
    again = SqliteStateStore(tmp_path / "s.db", durable=False)
    assert dict(again.iterate(b"")) == PAIRS and again.first_block_height == 8
    again.stage({b"more": b"1"})
    again.commit(8, b"eighth")
    assert again.get_blocks(8, 5, 100) == [b"eighth"] and again.get_blocks(7, 5, 100) == []
    again.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_restore_goes_on_with_the_chunks_it_has(tmp_path):
    info = take(tmp_path, fill(MemoryStateStore(), PAIRS))
    folder = SnapshotFolder(tmp_path / "kept")
    first = SnapshotRestorer(info, info.app_hash, tmp_path / "incoming")
    first.add_chunk(2, folder.load_chunk(1, 2))
    again = SnapshotRestorer(info, info.app_hash, tmp_path / "incoming")
    assert again.list_missing() == [index for index in range(len(info.chunks)) if index != 2]


@pytest.mark.usefixtures("small_chunks")
def test_only_the_newest_two_are_kept(tmp_path):
    store = MemoryStateStore()
    for _ in range(4):
        fill(store, {bytes([store.height]): b"x"})
        take(tmp_path, store)
    assert [info.height for info in SnapshotFolder(tmp_path / "kept").list_infos()] == [3, 4]
    assert SnapshotFolder(tmp_path / "kept").load_chunk(1, 0) == b""


def test_what_a_newcomer_is_fetching_stays_until_it_asks_no_more(tmp_path):
    now = 0.0
    folder = SnapshotFolder(tmp_path / "kept", clock=lambda: now)
    store = fill(MemoryStateStore(), PAIRS)

    def take(first, last):
        for height in range(first, last + 1):
            folder.take(height, store.app_hash, list(store.iterate(b"")))

    def read_heights():
        return sorted(int(path.name) for path in (tmp_path / "kept").iterdir())

    take(1, 2)
    folder.list_infos()
    take(3, 12)
    assert read_heights() == [1, 2, 11, 12]
    now = ASKED_SECONDS - 1
    assert folder.load_chunk(1, 0)
    now += 2
    take(13, 13)
    assert read_heights() == [1, 12, 13], "who reads chunks keeps its snapshot; the other is let go"
    now += ASKED_SECONDS
    take(14, 14)
    assert read_heights() == [13, 14]


def test_who_keeps_asking_cannot_fill_the_disk(tmp_path):
    folder = SnapshotFolder(tmp_path / "kept")
    store = fill(MemoryStateStore(), PAIRS)
    for height in range(1, 30):
        folder.take(height, store.app_hash, list(store.iterate(b"")))
        folder.list_infos()
    assert [info.height for info in folder.list_infos()] == list(range(24, 30))


@pytest.mark.usefixtures("small_chunks")
def test_invalid_chunks_are_refused_and_not_kept(tmp_path):
    info = take(tmp_path, fill(MemoryStateStore(), PAIRS))
    good = SnapshotFolder(tmp_path / "kept").load_chunk(1, 0)
    restorer = SnapshotRestorer(info, info.app_hash, tmp_path / "incoming")
    for index, chunk, code in [
        (0, good[:-1], "wrong-chunk"),
        (0, b"", "wrong-chunk"),
        (1, good, "wrong-chunk"),
        (len(info.chunks), good, "bad-index"),
        (-1, good, "bad-index"),
        (0, bytes(snapshots.MAX_CHUNK_BYTES + 1), "too-large"),
    ]:
        with pytest.raises(InvalidSnapshot, match=code):
            restorer.add_chunk(index, chunk)
    assert len(restorer.list_missing()) == len(info.chunks)


def forge(tmp_path, store, chunks, keys):
    """A snapshot whose description fits its chunks, whatever they hold."""
    info = SnapshotInfo(FORMAT, 5, store.app_hash, keys, tuple(hash_blob(chunk) for chunk in chunks))
    restorer = SnapshotRestorer(info, info.app_hash, tmp_path / "incoming")
    for index, chunk in enumerate(chunks):
        restorer.add_chunk(index, chunk)
    return restorer


@pytest.mark.parametrize(
    ("pairs", "keys", "error"),
    [
        ([(b"b", b"2"), (b"a", b"1")], 2, "unsorted"),
        ([(b"a", b"1"), (b"a", b"1")], 2, "unsorted"),
        ([(b"a", b"1")], 2, "wrong-count"),
        ([(b"a", b"1"), (b"b", b"forged")], 2, "hashes to"),
    ],
)
def test_invalid_states_are_never_installed(tmp_path, pairs, keys, error):
    store = fill(SqliteStateStore(tmp_path / "s.db", durable=False), {b"a": b"1", b"b": b"2"})
    before = store.app_hash
    with pytest.raises((InvalidSnapshot, WorkError), match=error):
        forge(tmp_path, store, [encode(pairs)], keys).install(store)
    assert (store.height, store.app_hash, dict(store.iterate(b""))) == (1, before, {b"a": b"1", b"b": b"2"})
    store.close()


def test_invalid_descriptions_are_refused(tmp_path):
    info = take(tmp_path, fill(MemoryStateStore(), PAIRS))
    with pytest.raises(InvalidSnapshot, match="app-hash"):
        SnapshotRestorer(info, bytes(32), tmp_path / "incoming")
    with pytest.raises(InvalidSnapshot, match="unknown-format"):
        decode_info(encode(SnapshotInfo(FORMAT + 1, 1, bytes(32), 0, ())))
    with pytest.raises(InvalidSnapshot, match="malformed"):
        decode_info(b"nonsense")


def test_export_and_import_give_the_same_app_hash(tmp_path):
    source = fill(MemoryStateStore(), PAIRS, heights=3)
    export_state(tmp_path / "state.bin", source.height, source.app_hash, list(source.iterate(b"")))
    target = SqliteStateStore(tmp_path / "s.db", durable=False)
    import_state(tmp_path / "state.bin", target)
    assert (target.height, target.app_hash) == (3, source.app_hash)
    target.close()


def test_invalid_export_files_name_what_is_wrong(tmp_path):
    source = fill(MemoryStateStore(), PAIRS)
    path = tmp_path / "state.bin"
    export_state(path, 1, source.app_hash, list(source.iterate(b"")))
    whole = path.read_bytes()
    target = MemoryStateStore()
    for data, code in [(whole[:-1], "truncated"), (b"", "malformed"), (whole[:-1] + b"\0", "wrong-chunk")]:
        path.write_bytes(data)
        with pytest.raises(InvalidSnapshot, match=code):
            import_state(path, target)
    with pytest.raises(WorkError, match="cannot be read"):
        import_state(tmp_path / "missing.bin", target)
    assert target.height == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.bin"]


def test_two_exports_show_where_they_differ(tmp_path):
    left, right = fill(MemoryStateStore(), PAIRS), fill(MemoryStateStore(), {**PAIRS, b"key 007": b"?", b"new": b"1"})
    for name, store in (("left", left), ("right", right)):
        export_state(tmp_path / name, 1, store.app_hash, list(store.iterate(b"")))
    assert diff_exports(tmp_path / "left", tmp_path / "right") == [b"key 007", b"new"]


def test_pruning_keeps_the_last_block_and_compacting_gives_space_back(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStateStore(path, durable=False)
    for height in range(1, 31):
        store.stage({b"k": bytes([height])})
        store.commit(height, os.urandom(40_000))
    store.compact()
    before = path.stat().st_size
    store.prune(25)
    assert store.first_block_height == 25 and store.get_block(24) is None
    store.prune(1_000)
    assert store.first_block_height == 30 and store.get_block(30) is not None
    store.compact()
    assert path.stat().st_size < before / 3
    store.close()
    again = SqliteStateStore(path, durable=False)
    assert (again.height, again.first_block_height) == (30, 30)
    again.close()


KILLED = """
import sys, os, signal
from pathlib import Path
import sqlite3
from paceline.store.snapshots import import_state
from paceline.store.state import SqliteStateStore
store = SqliteStateStore(Path(sys.argv[1]), durable=False)
at = int(sys.argv[3])
steps = 0
def count():
    global steps
    steps += 1
    if steps >= at:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0
store._connection.set_progress_handler(count, 200)
getattr(sys.modules["__main__"], "import_state")(Path(sys.argv[2]), store) if sys.argv[4] == "import" else store.compact()
store.close()
"""


@pytest.mark.parametrize("action", ["import", "compact"])
def test_kill_9_at_any_moment_leaves_the_old_state_or_the_new(tmp_path, action):
    new = fill(MemoryStateStore(), {f"{n:05}".encode("ascii"): b"x" * 50 for n in range(3_000)}, heights=4)
    export_state(tmp_path / "state.bin", new.height, new.app_hash, list(new.iterate(b"")))
    old = fill(SqliteStateStore(tmp_path / "s.db", durable=False), PAIRS)
    old_hash = old.app_hash
    old.close()
    killed = 0
    for at in (1, 5, 30, 100, 100_000):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "s.db"), str(tmp_path / "state.bin"), str(at), action],
            check=False,
        )
        killed += done.returncode == -signal.SIGKILL
        store = SqliteStateStore(tmp_path / "s.db", durable=False)
        found = (store.height, store.app_hash)
        store.close()
        assert found in {(1, old_hash), (4, new.app_hash)}
    assert killed > 0 and done.returncode == 0
