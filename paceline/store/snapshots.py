"""Snapshots: a committed state as chunks that every node cuts at the same places, so that any node can serve any of them.

A chunk is the canonical encoding of consecutive pairs; the description names every chunk by its hash. What comes from
others is believed chunk by chunk only for its hash, and as a whole only for the app hash that the validators signed.
Invariant: equal states give equal bytes, whatever history led to them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta

from paceline.base.errors import Invalid, WorkError
from paceline.base.hashing import hash_blob
from paceline.protocol.codec import Record, decode, encode

FORMAT = 1
CHUNK_BYTES = 4 * 1024 * 1024
MAX_CHUNK_BYTES = 9 * 1024 * 1024
"""A chunk ends with the pair that takes it over CHUNK_BYTES; no pair is larger than 4 MiB."""
MAX_INFO_BYTES = 1024 * 1024
MAX_HEAD_BYTES = MAX_INFO_BYTES + MAX_CHUNK_BYTES
LENGTH_BYTES = 8
KEPT = 2
ASKED_KEPT = 4
"""How many older snapshots stay for newcomers that are fetching them: an engine that lost a chunk waits minutes."""
ASKED_SECONDS = 150.0
"""How long a snapshot counts as being fetched after it was last listed or read. CometBFT gives one up after 120 s."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Pair = tuple[bytes, bytes]


class InvalidSnapshot(Invalid):
    """A snapshot, or a piece of one, is not what it says it is; nothing was changed by it."""


class SnapshotInfo(Record, frozen=True):
    """Describes a snapshot; the hash of its encoding names it."""

    format: int
    height: Annotated[int, Meta(ge=1, le=2**48)]
    app_hash: Digest
    keys: Annotated[int, Meta(ge=0, le=2**40)]
    chunks: Annotated[tuple[Digest, ...], Meta(max_length=30_000)]

    def compute_hash(self) -> bytes:
        """32 bytes that name the snapshot."""
        return hash_blob(encode(self))


class ExportHead(Record, frozen=True):
    """Begins an exported file: what follows, and the block that led to it, to which an embedded engine links the next."""

    info: SnapshotInfo
    block: bytes | None


class RestorableStore(Protocol):
    """A store that can take a whole state over."""

    def restore(self, height: int, app_hash: bytes, pairs: list[Pair], block: bytes | None = None) -> None:
        """Replace everything at once, or nothing; the block is the one of that height.

        Errors: WorkError when the pairs do not hash to the app hash.
        """


def cut_chunks(pairs: Iterable[Pair]) -> Iterator[bytes]:
    """Chunks of a state, given its pairs sorted by key."""
    held: list[Pair] = []
    size = 0
    for pair in pairs:
        held.append(pair)
        size += len(pair[0]) + len(pair[1]) + 8
        if size >= CHUNK_BYTES:
            yield encode(held)
            held, size = [], 0
    if held:
        yield encode(held)


def decode_info(data: bytes) -> SnapshotInfo:
    """Errors: InvalidSnapshot malformed, non-canonical, too-large, unknown-format."""
    info = decode(SnapshotInfo, data, limit_bytes=MAX_INFO_BYTES, error=InvalidSnapshot)
    _require_format(info)
    return info


class SnapshotFolder:
    """The newest snapshots on disk. Each appears whole; half-written ones of a killed process are swept away."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._asked: dict[int, float] = {}

    def take(self, height: int, app_hash: bytes, pairs: list[Pair]) -> SnapshotInfo:
        """Write a snapshot and drop the oldest that nobody is fetching. Safe to run on another thread."""
        aside = self._path / f"{height}.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        digests = []
        for index, chunk in enumerate(cut_chunks(pairs)):
            (aside / str(index)).write_bytes(chunk)
            digests.append(hash_blob(chunk))
        info = SnapshotInfo(FORMAT, height, app_hash, len(pairs), tuple(digests))
        _write_synced(aside / "info", encode(info))
        final = self._path / str(height)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        for old in self._find_dropped():
            self._asked.pop(old, None)
            shutil.rmtree(self._path / str(old), ignore_errors=True)
        return info

    def list_infos(self) -> list[SnapshotInfo]:
        """What can be served, oldest first; damaged ones are left out."""
        found = []
        for height in sorted(self._heights()):
            try:
                found.append(decode_info((self._path / str(height) / "info").read_bytes()))
            except (OSError, InvalidSnapshot):
                continue
            self._asked[height] = self._clock()
        return found

    def load_chunk(self, height: int, index: int) -> bytes:
        """One chunk; empty when it is not here."""
        try:
            chunk = (self._path / str(height) / str(index)).read_bytes()
        except OSError:
            return b""
        self._asked[height] = self._clock()
        return chunk

    def _find_dropped(self) -> list[int]:
        older = sorted(self._heights())[:-KEPT]
        since = self._clock() - ASKED_SECONDS
        asked = [height for height in older if self._asked.get(height, since) > since]
        asked.sort(key=lambda height: self._asked.get(height, since))
        return sorted(set(older) - set(asked[-ASKED_KEPT:]))

    def _heights(self) -> list[int]:
        if not self._path.is_dir():
            return []
        return [int(path.name) for path in self._path.iterdir() if path.name.isdecimal()]


class SnapshotRestorer:
    """Collects the chunks of one snapshot, in any order, and installs the state when all are there.

    Chunks stay on disk, so a killed node goes on with those it has.
    """

    def __init__(self, info: SnapshotInfo, expected_app_hash: bytes, folder: Path) -> None:
        """Errors: InvalidSnapshot app-hash when it is not the state that the validators signed."""
        if info.app_hash != expected_app_hash:
            raise InvalidSnapshot("app-hash", "the snapshot is of another state than the validators signed")
        self._info = info
        self._folder = folder / info.compute_hash().hex()
        self._folder.mkdir(parents=True, exist_ok=True)

    def list_missing(self) -> list[int]:
        """Chunks that are still to come."""
        return [index for index in range(len(self._info.chunks)) if not (self._folder / str(index)).is_file()]

    def add_chunk(self, index: int, chunk: bytes) -> bool:
        """Take a chunk; True when it was the last one missing.

        Errors: InvalidSnapshot bad-index, too-large, wrong-chunk; the chunk is not kept then.
        """
        if not 0 <= index < len(self._info.chunks):
            raise InvalidSnapshot("bad-index", f"chunk {index} of {len(self._info.chunks)}")
        if len(chunk) > MAX_CHUNK_BYTES:
            raise InvalidSnapshot("too-large", f"a chunk of {len(chunk)} bytes, at most {MAX_CHUNK_BYTES} are allowed")
        if hash_blob(chunk) != self._info.chunks[index]:
            raise InvalidSnapshot("wrong-chunk", f"chunk {index} does not hash to what the snapshot names")
        aside = self._folder / f"{index}.new"
        _write_synced(aside, chunk)
        aside.rename(self._folder / str(index))
        return not self.list_missing()

    def install(self, store: RestorableStore, block: bytes | None = None) -> None:
        """Replace a store's state by the snapshot's, with its last block where it is known; the chunks are thrown away.

        Errors: InvalidSnapshot malformed, unsorted, wrong-count; WorkError when the state does not hash to the app hash.
        """
        assert not self.list_missing()
        pairs = list(self._read_pairs())
        if len(pairs) != self._info.keys:
            raise InvalidSnapshot("wrong-count", f"{len(pairs)} keys, the snapshot names {self._info.keys}")
        store.restore(self._info.height, self._info.app_hash, pairs, block)
        self.discard()

    def discard(self) -> None:
        """Throw away what was collected."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_pairs(self) -> Iterator[Pair]:
        former = b""
        for index in range(len(self._info.chunks)):
            chunk = (self._folder / str(index)).read_bytes()
            for key, value in decode(list[Pair], chunk, limit_bytes=MAX_CHUNK_BYTES, error=InvalidSnapshot):
                if key <= former:
                    raise InvalidSnapshot("unsorted", f"key {key.hex()[:32]} does not follow the one before it")
                former = key
                yield key, value


def export_state(
    path: Path, height: int, app_hash: bytes, pairs: list[Pair], block: bytes | None = None
) -> SnapshotInfo:
    """Write a whole state to one file: its head, then the chunks, each with its length in front.

    Errors: OSError when the disk refuses; nothing stands at the path then that did not before.
    """
    chunks = list(cut_chunks(pairs))
    info = SnapshotInfo(FORMAT, height, app_hash, len(pairs), tuple(hash_blob(chunk) for chunk in chunks))
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        for part in (encode(ExportHead(info, block)), *chunks):
            file.write(len(part).to_bytes(LENGTH_BYTES, "big") + part)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return info


def read_export_head(path: Path) -> ExportHead:
    """What an exported file says it holds, without looking at the rest.

    Errors: InvalidSnapshot malformed, non-canonical, too-large, unknown-format, truncated; WorkError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "big")
            data = file.read(min(length, MAX_HEAD_BYTES + 1))
    except OSError as problem:
        raise WorkError(f"{path} cannot be read: {problem.strerror}") from None
    if len(data) != min(length, MAX_HEAD_BYTES + 1):
        raise InvalidSnapshot("truncated", f"{path} ends inside its head")
    return _decode_head(data)


def import_state(path: Path, store: RestorableStore, scratch: Path | None = None) -> SnapshotInfo:
    """Take a state over from an exported file; `scratch` is a folder for its pieces, beside the file when left out.

    Errors: InvalidSnapshot naming what is wrong with the file; WorkError when it cannot be read or does not hash to its
    own app hash. The store is as before then.
    """
    try:
        parts = iter(_split(path.read_bytes()))
    except OSError as problem:
        raise WorkError(f"{path} cannot be read: {problem.strerror}") from None
    head = _decode_head(next(parts, b""))
    info = head.info
    scratch = path.with_name(path.name + ".chunks") if scratch is None else scratch
    restorer = SnapshotRestorer(info, info.app_hash, scratch)
    try:
        for index, chunk in enumerate(parts):
            restorer.add_chunk(index, chunk)
        if restorer.list_missing():
            raise InvalidSnapshot("truncated", f"{path} ends before chunk {restorer.list_missing()[0]}")
        restorer.install(store, head.block)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return info


def diff_exports(left: Path, right: Path) -> list[bytes]:
    """Keys at which two exported states differ, sorted: the first question when two nodes disagree."""
    first, second = (dict(_read_export(path)) for path in (left, right))
    return sorted(key for key in {**first, **second} if first.get(key) != second.get(key))


def _read_export(path: Path) -> Iterator[Pair]:
    for part in _split(path.read_bytes())[1:]:
        yield from decode(list[Pair], part, limit_bytes=MAX_CHUNK_BYTES, error=InvalidSnapshot)


def _decode_head(data: bytes) -> ExportHead:
    head = decode(ExportHead, data, limit_bytes=MAX_HEAD_BYTES, error=InvalidSnapshot)
    _require_format(head.info)
    return head


def _require_format(info: SnapshotInfo) -> None:
    if info.format != FORMAT:
        raise InvalidSnapshot("unknown-format", f"snapshot format {info.format}, this program reads {FORMAT}")


def _split(data: bytes) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        part = data[at + LENGTH_BYTES : at + LENGTH_BYTES + length]
        if len(part) != length or length == 0:
            raise InvalidSnapshot("truncated", f"the file ends inside part {len(parts)}")
        parts.append(part)
        at += LENGTH_BYTES + length
    return parts


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
