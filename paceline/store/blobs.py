"""Blobs in a folder: immutable bytes, each in a file that is named by their hash.

Knows nothing of what blobs are for, nor of peers. A file under its final name was complete when it got it, and bytes
are hashed again at every `get`: damaged ones are never handed out.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Final

from blake3 import blake3

from paceline.base.errors import WorkError
from paceline.base.hashing import DIGEST_BYTES, hash_blob

MAX_BLOB_BYTES: Final = 16 * 2**30
_PARTIAL: Final = "partial"
_NEW_PREFIX: Final = "new-"
_NAME: Final = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")


class BlobStore:
    """A folder of blobs. One process writes to it; threads may share it."""

    def __init__(self, directory: Path, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        """Effects: creates the folder; removes what an interrupted `put` left, keeps interrupted downloads."""
        self._directory = directory
        self._max_blob_bytes = max_blob_bytes
        self._open: set[bytes] = set()
        (directory / _PARTIAL).mkdir(parents=True, exist_ok=True)
        for leftover in (directory / _PARTIAL).glob(_NEW_PREFIX + "*"):
            leftover.unlink()

    @property
    def max_blob_bytes(self) -> int:
        """The largest blob that this store takes."""
        return self._max_blob_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes in complete blobs, counted on disk."""
        return sum(file.stat().st_size for file in self._directory.glob("??/*") if _NAME.fullmatch(file.name))

    def put(self, data: bytes) -> bytes:
        """Keep the bytes and return their address. Putting them twice is the same as once.

        Errors: WorkError when they are too large or the disk refuses.
        """
        if len(data) > self._max_blob_bytes:
            raise WorkError(f"blob of {len(data)} bytes is over the limit of {self._max_blob_bytes}")
        digest = hash_blob(data)
        target = self._locate(digest)
        try:
            if not _holds(target, data):
                _write_then_rename(self._directory / _PARTIAL, target, data)
        except OSError as error:
            raise WorkError(f"blob {digest.hex()} could not be written: {error}") from error
        return digest

    def get(self, digest: bytes) -> bytes:
        """The verified bytes of an address.

        Errors: WorkError when they are missing or damaged. Effects: a damaged file is removed, so it can be fetched anew.
        """
        path = self._locate(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkError(f"blob {digest.hex()} is not here: {error}") from error
        if hash_blob(data) != digest:
            path.unlink(missing_ok=True)
            raise WorkError(f"blob {digest.hex()} was damaged on disk ({len(data)} bytes) and has been removed")
        return data

    def has(self, digest: bytes) -> bool:
        """True when the address is held (its bytes are verified by `get`)."""
        return self._locate(digest).is_file()

    def size(self, digest: bytes) -> int:
        """Length in bytes. Errors: WorkError when missing."""
        try:
            return self._locate(digest).stat().st_size
        except OSError as error:
            raise WorkError(f"blob {digest.hex()} is not here: {error}") from error

    def delete(self, digest: bytes) -> None:
        """Forget a blob; forgetting an absent one changes nothing."""
        self._locate(digest).unlink(missing_ok=True)

    def get_path(self, digest: bytes) -> Path | None:
        """The file that holds an address; its bytes are not verified."""
        path = self._locate(digest)
        return path if path.is_file() else None

    def open_partial(self, digest: bytes) -> PartialFile:
        """Go on with what an earlier download left. Errors: WorkError when another download of it is under way."""
        if digest in self._open:
            raise WorkError(f"blob {digest.hex()} is being fetched already")
        path = self._directory / _PARTIAL / digest.hex()
        try:
            partial = PartialFile(path, self._locate(digest), self._max_blob_bytes, self._open)
        except OSError as error:
            raise WorkError(f"{path} cannot be opened: {error}") from error
        self._open.add(digest)
        return partial

    def _locate(self, digest: bytes) -> Path:
        assert len(digest) == DIGEST_BYTES
        name = digest.hex()
        return self._directory / name[:2] / name


class PartialFile:
    """The file of a download under way. Made by `BlobStore.open_partial` only."""

    def __init__(self, path: Path, target: Path, max_blob_bytes: int, held: set[bytes]) -> None:
        self._path = path
        self._target = target
        self._max_blob_bytes = max_blob_bytes
        self._held = held
        self._file = path.open("ab", buffering=0)

    @property
    def size(self) -> int:
        """How many bytes are there already."""
        return self._file.tell()

    def append(self, data: bytes) -> None:
        """Add the next bytes. Errors: WorkError when the disk refuses or the blob grows beyond the limit."""
        if self.size + len(data) > self._max_blob_bytes:
            raise WorkError(f"blob {self._path.name} grows over the limit of {self._max_blob_bytes} bytes")
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise WorkError(f"{self._path} could not be written: {error}") from error

    def finish(self) -> bool:
        """True when the bytes hash to the address and now stand in the store; otherwise they are thrown away."""
        hasher = blake3()
        hasher.update_mmap(self._path)
        if hasher.hexdigest() != self._path.name:
            self.discard()
            return False
        try:
            self._target.parent.mkdir(exist_ok=True)
            self._path.replace(self._target)
        except OSError as error:
            raise WorkError(f"{self._target} could not be written: {error}") from error
        return True

    def discard(self) -> None:
        """Throw the bytes away and start at zero."""
        self._file.truncate(0)
        self._file.seek(0)

    def close(self) -> None:
        """Let go; the bytes stay for a later attempt. Empty and finished ones leave no file behind."""
        if not self._file.closed:
            if self.size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._held.discard(bytes.fromhex(self._path.name))


def _holds(path: Path, data: bytes) -> bool:
    """True when the very bytes are there: a damaged file under the right name must be written again."""
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _write_then_rename(directory: Path, target: Path, data: bytes) -> None:
    """A reader sees the whole file or none: the name appears only when all bytes are written."""
    target.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_NEW_PREFIX, dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
