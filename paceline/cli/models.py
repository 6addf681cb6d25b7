"""What `--model` means: a name of the catalogue, or the path of a folder that is brought into the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paceline.base.errors import ConfigError
from paceline.models.catalogue import get_entry
from paceline.models.files import ENTRY_FILE


def resolve_models(asked: tuple[str, ...], cache: Path, tell: Callable[[str], None]) -> tuple[str, ...]:
    """Model ids in the order asked, each once.

    Errors: ConfigError for a name that is none, or a folder that cannot be served.
    """
    return tuple(dict.fromkeys(_resolve(name, cache, tell) for name in asked))


def _resolve(name: str, cache: Path, tell: Callable[[str], None]) -> str:
    if Path(name).is_dir():
        from paceline.models.local import import_folder  # noqa: PLC0415 - loads torch

        return import_folder(Path(name), cache, progress=tell)
    if "/" in name:
        raise ConfigError(f"--model {name}: there is no such folder")
    if (cache / name / ENTRY_FILE).is_file():
        return name
    entry = get_entry(name)
    if not entry.chats:
        tell(f"{entry.title} is a pretrained model: it continues text and was never taught to answer ({entry.licence})")
    return entry.model_id
