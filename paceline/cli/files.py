"""Files that a command writes for a person: looked at before any work begins, written whole, and an error in one clear line."""

from __future__ import annotations

import os
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.node.home import write_whole


def require_target(path: Path | None) -> None:
    """That a file can be written there; a file that is there may be replaced. Errors: ConfigError naming what is in the way."""
    if path is None:
        return
    folder = path.resolve().parent
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file in it")
    if not folder.is_dir():
        raise ConfigError(f"{path}: its folder does not exist")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no plain file: name another")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{path}: nothing can be written into {folder}")


def write_target(path: Path, data: str | bytes) -> None:
    """Write it whole, to where a link leads. Errors: ConfigError when the disk refuses."""
    try:
        write_whole(path.resolve(), data.encode("utf-8") if isinstance(data, str) else data)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be written: {problem.strerror}") from None
