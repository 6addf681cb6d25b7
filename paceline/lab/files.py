"""Files that the lab's models are read from: their text or their plain values, and what is wrong with them in one line.

It refuses to know what a file is about. Invariant: no error of the operating system leaves it as it is.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from paceline.base.errors import ConfigError


def read_text(path: Path) -> str:
    """The text of a file. Errors: ConfigError naming it."""
    try:
        return path.read_text("utf-8")
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} holds no UTF-8 text") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The plain values of a TOML file. Errors: ConfigError naming it, and the line that is wrong."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path} is no TOML file: {problem}") from None
