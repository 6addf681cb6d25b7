"""What is read from the environment, in one place."""

from __future__ import annotations

import os
from pathlib import Path


def get_default_home() -> Path:
    """`PACELINE_HOME`, else `~/.paceline`."""
    return Path(os.environ.get("PACELINE_HOME", "") or Path.home() / ".paceline")


def get_cache_path() -> Path:
    """`PACELINE_CACHE`, else `~/.cache/paceline`: converted models."""
    return Path(os.environ.get("PACELINE_CACHE", "") or Path.home() / ".cache" / "paceline")
