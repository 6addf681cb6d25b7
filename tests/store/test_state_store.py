from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import ConfigError, WorkError
from paceline.protocol.stores import StateStore
from paceline.store.mirror import StateMirror, _find_successor
from paceline.store.state import FORMAT_VERSION, MemoryStateStore, SqliteStateStore
from paceline.store.trie import EMPTY_TRIE_ROOT, verify_proof

KEYS = st.binary(max_size=2) | st.sampled_from([b"\xff", b"\xff\xff", b"\xff\x00"])


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    if request.param == "memory":
        yield MemoryStateStore()
        return
    opened = SqliteStateStore(tmp_path / "chain" / "state.db", durable=False)
    yield opened
    opened.close()


def write(store: StateStore, changes: dict[bytes, bytes | None], block: bytes = b"block") -> None:
    store.stage(changes)
    store.commit(store.height + 1, block)


def damage(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_fresh_store_is_empty(store):
    assert (store.height, store.app_hash) == (0, EMPTY_TRIE_ROOT)
    assert store.get(b"a") is None
    assert list(store.iterate(b"")) == []
    assert store.get_block(0) is store.get_block(1) is None
    assert store.get_blocks(1, 10, 1000) == []


def test_stage_shows_the_next_hash_and_changes_nothing(store):
    staged = store.stage({b"a": b"1"})
    assert staged != store.app_hash == EMPTY_TRIE_ROOT
    assert store.get(b"a") is None
    assert store.stage({b"a": b"1"}) == staged
    store.commit(1, b"one")
    assert (store.height, store.app_hash, store.get(b"a")) == (1, staged, b"1")


def test_a_new_stage_replaces_the_former(store):
    store.stage({b"dropped": b"1"})
    root = store.stage({b"kept": b"2"})
    store.commit(1, b"")
    assert dict(store.iterate(b"")) == {b"kept": b"2"}
    assert store.app_hash == root


def test_deletion_restores_the_root(store):
    write(store, {b"a": b"1"})
    root = store.app_hash
    write(store, {b"b": b"2"})
    write(store, {b"b": None, b"never there": None})
    assert store.app_hash == root
    assert store.get(b"b") is None


def test_iterate_is_sorted_and_bounded_by_the_prefix(store):
    write(store, {b"b/2": b"", b"b/1": b"x", b"a/9": b"", b"b0": b"", b"b": b"", b"\xff\xff": b"", b"\xff": b""})
    assert list(store.iterate(b"b/")) == [(b"b/1", b"x"), (b"b/2", b"")]
    assert [key for key, _ in store.iterate(b"\xff")] == [b"\xff", b"\xff\xff"]
    assert len(list(store.iterate(b""))) == 7
    assert list(store.iterate(b"c")) == []


def test_proofs_hold_under_the_app_hash(store):
    write(store, {b"a": b"1", b"b": b"2"})
    assert verify_proof(store.app_hash, b"a", b"1", store.prove(b"a"))
    assert verify_proof(store.app_hash, b"c", None, store.prove(b"c"))


def test_blocks_come_in_order_and_within_limits(store):
    for size in (10, 20, 30, 40):
        write(store, {}, bytes(size))
    lengths = lambda *arguments: [len(block) for block in store.get_blocks(*arguments)]  # noqa: E731
    assert lengths(1, 10, 1000) == [10, 20, 30, 40]
    assert lengths(2, 2, 1000) == [20, 30]
    assert lengths(1, 10, 30) == [10, 20]
    assert lengths(1, 10, 29) == [10]
    assert lengths(4, 10, 1) == [40]  # always at least one
    assert lengths(5, 10, 1000) == lengths(0, 10, 1000) == lengths(1, 0, 1000) == []
    assert len(store.get_block(3)) == 30


def test_invalid_commits_are_bugs_of_the_caller(store):
    with pytest.raises(AssertionError):
        store.commit(1, b"")
    store.stage({})
    for height in (0, 2):
        with pytest.raises(AssertionError):
            store.commit(height, b"")
    store.commit(1, b"")
    with pytest.raises(AssertionError):
        store.commit(2, b"")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(KEYS, st.none() | st.binary(max_size=2), max_size=150), max_size=4), KEYS)
def test_mirror_agrees_with_a_dict(batches, prefix):
    mirror, model = StateMirror(), {}
    for batch in batches:
        mirror.apply(mirror.prepare(batch))
        model = {key: value for key, value in (model | batch).items() if value is not None}
    assert list(mirror.iterate(prefix)) == sorted(pair for pair in model.items() if pair[0].startswith(prefix))
    assert mirror.root == StateMirror(model).root


def test_boundary_large_batches_keep_the_index_sorted():
    mirror = StateMirror()
    keys = [number.to_bytes(2, "big") for number in range(300)]
    mirror.apply(mirror.prepare(dict.fromkeys(reversed(keys), b"")))
    assert [key for key, _ in mirror.iterate(b"")] == keys
    mirror.apply(mirror.prepare(dict.fromkeys(keys[::2])))
    assert [key for key, _ in mirror.iterate(b"")] == keys[1::2]


def test_successor_of_a_prefix():
    assert _find_successor(b"a") == b"b"
    assert _find_successor(b"a\xff\xff") == b"b"
    assert _find_successor(b"\xff") is _find_successor(b"") is None


@pytest.mark.parametrize("durable", [False, True])
def test_reopening_gives_everything_back(tmp_path, durable):
    store = SqliteStateStore(tmp_path / "s.db", durable=durable)
    write(store, {b"a": b"1", b"b": b"2"}, b"one")
    write(store, {b"a": None}, b"two")
    root = store.app_hash
    store.stage({b"lost": b"staged only"})
    store.close()
    again = SqliteStateStore(tmp_path / "s.db", durable=durable)
    assert (again.height, again.app_hash, again.get_blocks(1, 9, 99)) == (2, root, [b"one", b"two"])
    assert dict(again.iterate(b"")) == {b"b": b"2"}
    again.close()


def test_memory_and_sqlite_agree(tmp_path):
    sqlite, memory = SqliteStateStore(tmp_path / "s.db", durable=False), MemoryStateStore()
    for changes in ({b"a": b"1", b"b": b""}, {b"b": None, b"c": b"3"}, {}):
        write(sqlite, changes)
        write(memory, changes)
        assert sqlite.app_hash == memory.app_hash
    sqlite.close()


def test_usable_from_another_thread(tmp_path):
    store = SqliteStateStore(tmp_path / "s.db", durable=False)
    worker = threading.Thread(target=write, args=(store, {b"a": b"1"}))
    worker.start()
    worker.join()
    assert store.get(b"a") == b"1"
    store.close()


def test_invalid_second_opener_is_told_so(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStateStore(path, durable=False)
    with pytest.raises(ConfigError, match="in use by another process"):
        SqliteStateStore(path, durable=False)
    code = f"from pathlib import Path; from paceline.store.state import *; SqliteStateStore(Path({str(path)!r}), durable=False)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in other.stderr
    write(store, {b"still": b"fine"})
    store.close()
    SqliteStateStore(path, durable=False).close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE state SET value = x'00' WHERE key = CAST('a' AS BLOB)", "hashes to"),
        ("UPDATE state SET value = 7", "damaged"),
        ("DELETE FROM state", "hashes to"),
        ("DELETE FROM blocks WHERE height = 2", "1 blocks from 1 to 1"),
        ("UPDATE meta SET height = 3", "height 3"),
        ("UPDATE meta SET app_hash = x'00'", "hashes to"),
        ("DELETE FROM meta", "height is missing"),
        ("DROP TABLE blocks", "no such table"),
    ],
)
def test_invalid_file_is_refused_with_its_name(tmp_path, statement, reason):
    path = tmp_path / "s.db"
    store = SqliteStateStore(path, durable=False)
    write(store, {b"a": b"1", b"b": b"2"})
    write(store, {b"c": b"3"})
    store.close()
    damage(path, statement)
    with pytest.raises(ConfigError, match=reason) as caught:
        SqliteStateStore(path, durable=False)
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)


def test_invalid_foreign_files_are_refused(tmp_path):
    garbage, foreign, newer = tmp_path / "garbage", tmp_path / "foreign", tmp_path / "newer"
    garbage.write_bytes(b"not a database " * 1000)
    with pytest.raises(ConfigError, match="damaged"):
        SqliteStateStore(garbage, durable=False)
    damage(foreign, "CREATE TABLE other (x)")
    with pytest.raises(ConfigError, match="another program"):
        SqliteStateStore(foreign, durable=False)
    SqliteStateStore(newer, durable=False).close()
    damage(newer, f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    with pytest.raises(ConfigError, match=f"format {FORMAT_VERSION + 1}"):
        SqliteStateStore(newer, durable=False)
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteStateStore(tmp_path, durable=False)


def test_a_refusing_disk_changes_nothing(tmp_path):
    store = SqliteStateStore(tmp_path / "s.db", durable=False)
    write(store, {b"a": b"1"})
    root = store.app_hash
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    staged = store.stage({b"b": bytes(100_000)})
    with pytest.raises(WorkError, match="full"):
        store.commit(2, b"")
    assert (store.height, store.app_hash, store.get(b"b")) == (1, root, None)
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.commit(2, b"")  # the stage is kept, so the commit may be tried again
    assert (store.height, store.app_hash) == (2, staged)
    store.close()
