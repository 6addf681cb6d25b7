from __future__ import annotations

import random

import pytest

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_blob
from paceline.store.blobs import BlobStore

DATA = random.Random(1).randbytes(100_000)
DIGEST = hash_blob(DATA)


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs", max_blob_bytes=200_000)


def test_put_then_get(blobs):
    assert blobs.put(DATA) == DIGEST
    assert blobs.get(DIGEST) == DATA
    assert blobs.has(DIGEST)
    assert blobs.size(DIGEST) == len(DATA)
    path = blobs.get_path(DIGEST)
    assert path.name == DIGEST.hex()
    assert path.parent.name == DIGEST.hex()[:2]


def test_put_twice_is_once(blobs):
    assert blobs.put(DATA) == blobs.put(DATA)
    assert blobs.total_bytes == len(DATA)


def test_total_counts_complete_blobs_only(blobs, tmp_path):
    blobs.put(DATA)
    blobs.put(b"small")
    partial = blobs.open_partial(hash_blob(b"another"))
    partial.append(b"ano")
    assert blobs.total_bytes == len(DATA) + 5
    partial.close()
    blobs.delete(DIGEST)
    blobs.delete(DIGEST)
    assert blobs.total_bytes == 5
    assert BlobStore(tmp_path / "blobs").total_bytes == 5


def test_invalid_addresses_are_missing(blobs):
    assert not blobs.has(DIGEST)
    assert blobs.get_path(DIGEST) is None
    for read in (blobs.get, blobs.size):
        with pytest.raises(WorkError, match="not here"):
            read(DIGEST)


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: b"\x00" + data[1:], lambda _: b""])
def test_invalid_file_is_never_handed_out_and_can_be_had_again(blobs, harm):
    blobs.put(DATA)
    path = blobs.get_path(DIGEST)
    path.write_bytes(harm(DATA))
    with pytest.raises(WorkError, match="damaged"):
        blobs.get(DIGEST)
    assert not blobs.has(DIGEST)
    path.write_bytes(harm(DATA))
    blobs.put(DATA)
    assert blobs.get(DIGEST) == DATA


def test_boundary_of_the_size_limit(tmp_path):
    blobs = BlobStore(tmp_path, max_blob_bytes=10)
    blobs.put(bytes(10))
    with pytest.raises(WorkError, match="over the limit"):
        blobs.put(bytes(11))
    partial = blobs.open_partial(hash_blob(bytes(11)))
    partial.append(bytes(10))
    with pytest.raises(WorkError, match="over the limit"):
        partial.append(b"\x00")
    partial.close()


def test_boundary_empty_blob(blobs):
    digest = blobs.put(b"")
    assert blobs.get(digest) == b""
    blobs.delete(digest)
    partial = blobs.open_partial(digest)
    assert partial.finish()
    partial.close()
    assert blobs.get(digest) == b""


def test_partial_goes_on_after_a_restart(tmp_path):
    first = BlobStore(tmp_path).open_partial(DIGEST)
    first.append(DATA[:30_000])
    first.close()
    blobs = BlobStore(tmp_path)
    again = blobs.open_partial(DIGEST)
    assert again.size == 30_000
    assert not blobs.has(DIGEST)
    again.append(DATA[30_000:])
    assert again.finish()
    again.close()
    assert blobs.get(DIGEST) == DATA
    assert list((tmp_path / "partial").iterdir()) == []


def test_invalid_partial_is_thrown_away(blobs):
    partial = blobs.open_partial(DIGEST)
    partial.append(DATA[:-1] + b"\x00")
    assert not partial.finish()
    assert partial.size == 0
    assert not blobs.has(DIGEST)
    partial.append(DATA)
    assert partial.finish()
    partial.close()
    assert blobs.has(DIGEST)


def test_invalid_second_partial_of_one_blob(blobs):
    partial = blobs.open_partial(DIGEST)
    with pytest.raises(WorkError, match="fetched already"):
        blobs.open_partial(DIGEST)
    partial.close()
    partial.close()
    blobs.open_partial(DIGEST).close()


def test_an_interrupted_put_leaves_nothing(tmp_path):
    blobs = BlobStore(tmp_path)
    leftover = tmp_path / "partial" / "new-abc"
    leftover.write_bytes(b"half")
    assert BlobStore(tmp_path).total_bytes == blobs.total_bytes == 0
    assert not leftover.exists()


def test_a_refusing_disk_is_a_work_error(tmp_path):
    blobs = BlobStore(tmp_path)
    (tmp_path / DIGEST.hex()[:2]).write_bytes(b"a file where a folder must be")
    with pytest.raises(WorkError, match="could not be written"):
        blobs.put(DATA)
    assert list((tmp_path / "partial").iterdir()) == []
