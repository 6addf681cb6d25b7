"""From the file that a package brings to a prepared model in the user's cache, converted once.

It knows GGUF files, tokenizers and the cache; it refuses to know how a model computes. Invariant: the same package converts
to the same bytes, and weights other than the catalogue's are refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from paceline.base.errors import ConfigError
from paceline.models.catalogue import DEFAULT_MODEL, ModelEntry, get_entry
from paceline.models.families import select_config
from paceline.models.files import (
    ENTRY_FILE,
    WEIGHTS_FILE,
    build_directory,
    hash_file,
    is_intact,
    lock_model,
    publish,
    write_json,
)

TIED_HEAD = "lm_head.weight"
_ASSEMBLED = "assembled.gguf"


def prepare_model(cache_dir: Path, model_id: str = DEFAULT_MODEL, *, progress: Callable[[str], None]) -> Path:
    """The model directory in the user's cache, converted from the file of its package when it is not there yet.

    A model that came from a folder is found under the id that `import_folder` gave it.

    Errors: ConfigError when the id or package is unknown, or converts to other weights.
    Effects: writes two bytes a parameter once; several processes wait for one conversion; a killed one leaves no model
    directory.
    """
    final = cache_dir / model_id
    if (final / ENTRY_FILE).is_file() and is_intact(final):
        return final
    entry = get_entry(model_id)
    with lock_model(cache_dir, model_id):
        if is_intact(final):
            return final
        with build_directory(cache_dir, model_id) as building:
            progress(f"converting {entry.title} once (about half a minute)")
            _convert(entry, building)
            publish(building, final)
    progress(f"{entry.title} is ready")
    return final


def find_parts(entry: ModelEntry) -> list[Path]:
    """The pieces of the published file.

    Errors: ConfigError naming the package to install.
    """
    return [_find_part(entry, module, file) for module, file in entry.parts]


def _find_part(entry: ModelEntry, module: str, file: str) -> Path:
    # A package's own __init__ may need a library that is not wanted here, so it is located, never imported.
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise ConfigError(f"{file} not found: install the package {entry.package} as requirements.lock names it")


def _convert(entry: ModelEntry, target: Path) -> None:
    """Dequantise the GGUF, round to bf16 and write weights, shape, tokenizer and chat template."""
    source = _join_parts(find_parts(entry), target)
    model, tokenizer = _load_gguf(source)
    if source.parent == target:
        source.unlink()
    params = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items() if name != TIED_HEAD
    }
    save_file(params, target / WEIGHTS_FILE)
    found = hash_file(target / WEIGHTS_FILE)
    if found != entry.weights_hash:
        raise ConfigError(
            f"{entry.package} converts to weights {found}, expected {entry.weights_hash}: install the locked versions"
        )
    write_json(target / "config.json", select_config(model.config.to_dict()))
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    write_json(target / "tokenizer.json", _split_digits(words) if entry.digits_apart else words)
    (target / "chat_template.jinja").write_text(entry.chat_template or tokenizer.chat_template, "utf-8")


def _join_parts(parts: list[Path], folder: Path) -> Path:
    """One file: the only piece itself, or all of them in a row."""
    if len(parts) == 1:
        return parts[0]
    with (folder / _ASSEMBLED).open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    return folder / _ASSEMBLED


def _load_gguf(source: Path) -> tuple[Any, Any]:
    # transformers takes seconds to import and is needed for this one conversion only.
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stderr(sink):
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    return model, tokenizer


def _split_digits(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Put back the rule that each digit is a word of its own: the GGUF names it, the generic import leaves it out."""
    byte_level = tokenizer["pre_tokenizer"]
    assert byte_level["type"] == "ByteLevel"
    split = {"type": "Digits", "individual_digits": True}
    return {**tokenizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}}
