"""Checkpoints: folders that transformers loads, with what a run notes beside the model.

It refuses to know what the notes mean. Invariant: under its final name lies one whole checkpoint or none; a save that is
killed or meets a full disk leaves the one before it, and every file is compared with its hash when it is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from paceline.base.errors import ConfigError, WorkError
from paceline.models.files import (
    WEIGHTS_FILE,
    build_directory,
    hash_file,
    lock_model,
    sync_directory,
    sync_tree,
    write_json,
)
from paceline.models.local import read_json
from paceline.models.trainable import Trainable
from paceline.models.trainable_folder import TransformersModel, load_folder
from paceline.models.trainable_llama import TrainableLlama, describe_shape

NOTES_FILE = "checkpoint.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds; `tokenizer` is its tokenizer.json, None where it has none."""

    module: Trainable
    extra: dict[str, Any]
    tokenizer: bytes | None


def save_checkpoint(
    module: nn.Module, folder: Path, *, extra: Mapping[str, Any], tokenizer: bytes | None = None
) -> None:
    """Write model, tokenizer.json and notes under a name, in place of the checkpoint that had it.

    Errors: WorkError for a full disk or notes that JSON cannot hold, ConfigError for a module that transformers would not
    load and for a folder that holds something else; the checkpoint before stays whole in each case.
    Effects: needs room for both checkpoints while it writes.
    """
    notes = _encode_notes(extra)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock_model(folder.parent, folder.name), build_directory(folder.parent, folder.name) as building:
            _recover(folder)
            _require_replaceable(folder)
            _write_model(module, building)
            if tokenizer is not None:
                _write_tokenizer(tokenizer, building)
            write_json(building / NOTES_FILE, {"extra": notes, "files": _hash_folder(building)})
            sync_tree(building)
            _replace(building, folder)
    except (OSError, SafetensorError) as problem:
        raise WorkError(f"checkpoint {folder} was not written: {problem}; free space or name another folder") from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint as it was saved.

    Errors: ConfigError when the folder is none, WorkError naming the file that is damaged.
    """
    _recover(folder)
    if not (folder / NOTES_FILE).is_file():
        raise ConfigError(f"{folder} is no checkpoint: {NOTES_FILE} is missing; name a folder that a run saved")
    notes = read_json(folder / NOTES_FILE)
    _verify_files(folder, notes.get("files"))
    words = folder / TOKENIZER_FILE
    return Checkpoint(
        module=load_folder(folder, dtype=None),
        extra=notes.get("extra", {}),
        tokenizer=words.read_bytes() if words.is_file() else None,
    )


def _verify_files(folder: Path, listed: Any) -> None:
    found = _hash_folder(folder)
    if not isinstance(listed, dict) or "config.json" not in listed:
        raise WorkError(f"{folder / NOTES_FILE} is damaged; go back to another checkpoint")
    for name, digest in sorted(listed.items()):
        if found.get(name) != digest:
            raise WorkError(f"{folder / name} is missing or damaged; go back to another checkpoint")


def _encode_notes(extra: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(extra, allow_nan=False))
    except (TypeError, ValueError) as problem:
        raise WorkError(f"extra cannot be written as JSON: {problem}; note text, lists and finite numbers") from None


def _write_model(module: nn.Module, building: Path) -> None:
    if isinstance(module, TransformersModel):
        module.inner.save_pretrained(building)
    elif isinstance(module, TrainableLlama):
        params = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
        save_file(params, building / WEIGHTS_FILE, metadata={"format": "pt"})
        dtype = str(module.model.embed_tokens.weight.dtype).removeprefix("torch.")
        write_json(building / "config.json", describe_shape(module.shape) | {"dtype": dtype})
    else:
        raise ConfigError(f"model is a {type(module).__name__}; checkpoints hold what build_trainable gives")


def _write_tokenizer(tokenizer: bytes, building: Path) -> None:
    (building / TOKENIZER_FILE).write_bytes(tokenizer)
    # Without it transformers would read the words by the rules of the model's own family.
    write_json(building / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def _hash_folder(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != NOTES_FILE]
    return {file.name: hash_file(file) for file in files if file.stat().st_size}


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder / NOTES_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something that is no checkpoint; name a new or an empty folder")


def _replace(building: Path, folder: Path) -> None:
    """Put a finished folder in place of another: between the two renames, `_recover` finds the former one."""
    former = _name_former(folder)
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    building.rename(folder)
    sync_directory(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _recover(folder: Path) -> None:
    if not folder.exists() and _name_former(folder).exists():
        _name_former(folder).rename(folder)


def _name_former(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.former")
