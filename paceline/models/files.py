"""The directory of a prepared model: what lies in it, hashed as a whole, and how one comes into being in one step.

It knows files and hashes; it refuses to know where a model comes from and what its tensors mean. Invariant: a directory under
its final name is complete, and `content.json` beside the files holds the hash of each.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_blob, hash_parts

WEIGHTS_FILE = "model.safetensors"
ENTRY_FILE = "entry.json"
"""Only in a model that came from a folder: the catalogue holds the others."""
MODEL_FILES = ("chat_template.jinja", "config.json", WEIGHTS_FILE, "tokenizer.json")
CONTENT_LIST = "content.json"


def verify_content(path: Path) -> bytes:
    """Compare every file with the hashes written at conversion and return the hash of the whole.

    Errors: WorkError naming the file that is missing or differs.
    """
    listed = load_content_list(path)
    found = hash_files(path)
    for name in sorted({*listed, *MODEL_FILES}):
        if not listed.get(name) or listed[name] != found.get(name):
            raise WorkError(f"{path / name} is missing or differs from the converted model: prepare it again")
    return hash_parts("language-model", *(bytes.fromhex(found[name]) for name in sorted(found)))


def load_content_list(path: Path) -> dict[str, str]:
    """Hashes by file name, as they were written.

    Errors: WorkError when there is no such list.
    """
    try:
        listed: dict[str, str] = json.loads((path / CONTENT_LIST).read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise WorkError(f"no usable {CONTENT_LIST} in {path}: prepare the model again") from problem
    return listed


def is_intact(path: Path) -> bool:
    """True when a complete model lies here."""
    try:
        verify_content(path)
    except WorkError:
        return False
    return True


def hash_files(path: Path) -> dict[str, str]:
    """Hash of every file of a model that is there and not empty."""
    files = [path / name for name in (*MODEL_FILES, ENTRY_FILE)]
    return {file.name: hash_file(file) for file in files if file.is_file() and file.stat().st_size}


def hash_file(file: Path) -> str:
    """Hash of a file that is not empty, in hex."""
    # Mapped, as a copy of the weights in memory would double what a starting process needs.
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return hash_blob(memoryview(view)).hex()


@contextlib.contextmanager
def lock_model(cache_dir: Path, name: str) -> Iterator[None]:
    """Hold the lock of one model in a cache; the system frees it when this process ends, however it ends."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def build_directory(cache_dir: Path, name: str) -> Iterator[Path]:
    """A directory to fill while the lock is held; `publish` gives it its name, anything else removes it."""
    for left in cache_dir.glob(f"{name}.building.*"):
        shutil.rmtree(left)
    building = Path(tempfile.mkdtemp(prefix=f"{name}.building.", dir=cache_dir))
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def publish(building: Path, final: Path) -> None:
    """List what is there, make it durable and give it its final name, in place of what had it."""
    write_json(building / CONTENT_LIST, hash_files(building))
    sync_tree(building)
    shutil.rmtree(final, ignore_errors=True)
    building.rename(final)
    sync_directory(final.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The same value gives the same bytes."""
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False), "utf-8")


def sync_tree(directory: Path) -> None:
    """Make the files of a directory durable, and their names."""
    for file in directory.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
