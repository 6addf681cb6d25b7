"""A model from a folder in Hugging Face's layout, brought into the cache under a name that its content gives it.

It knows the files of such folders; it refuses to guess: what our forward passes or tokenizers do not cover is an error that
names it. Invariant: the same folder gives the same model id on every machine, other content another one.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models.catalogue import BF16, FP32, ModelEntry
from paceline.models.families import build_network, select_config
from paceline.models.files import (
    ENTRY_FILE,
    WEIGHTS_FILE,
    build_directory,
    hash_file,
    hash_files,
    is_intact,
    lock_model,
    publish,
    write_json,
)
from paceline.models.preparation import TIED_HEAD

MAX_CONTEXT_TOKENS = 8_192
"""A node on a processor keeps tables for no more positions; a catalogue entry may say otherwise."""
BASE_MEMORY_BYTES = 600_000_000
"""What a process needs before it holds a parameter: torch, tokenizer, caches."""
_ID_DIGITS = 12
_MAX_SLUG = 40


class _NotedParams(dict[str, torch.Tensor]):
    """Notes which tensors a network takes."""

    def __init__(self, params: Mapping[str, torch.Tensor]) -> None:
        super().__init__(params)
        self.noted: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.noted.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # as networks call it
        self.noted.add(name)
        return super().get(name, default)


def import_folder(folder: Path, cache_dir: Path, *, progress: Callable[[str], None]) -> str:
    """Convert a folder into the cache and return the id under which `prepare_model` finds it.

    Errors: ConfigError naming the file or setting that is missing or not covered.
    Effects: writes two bytes a parameter once.
    """
    config = read_json(folder / "config.json")
    selected = select_config(normalise_config(config))
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    end_tokens = _read_end_tokens(folder, config, tokenizer)
    with lock_model(cache_dir, "import"), build_directory(cache_dir, "import") as building:
        progress(f"reading {folder}")
        params = _read_params(folder, tied=selected["tie_word_embeddings"])
        _try_network(folder, selected, params)
        save_file(params, building / WEIGHTS_FILE)
        write_json(building / "config.json", selected)
        shutil.copyfile(folder / "tokenizer.json", building / "tokenizer.json")
        (building / "chat_template.jinja").write_text(_read_template(folder), "utf-8")
        found = hash_files(building)
        digest = hash_parts(
            "imported-model", *(bytes.fromhex(found[name]) for name in sorted(found)), *map(str.encode, end_tokens)
        )
        model_id = f"{_make_slug(folder.resolve().name)}-{digest.hex()[:_ID_DIGITS]}"
        entry = _describe(model_id, folder, selected, params, end_tokens, hash_file(building / WEIGHTS_FILE))
        (building / ENTRY_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(entry)))
        if not is_intact(cache_dir / model_id):
            publish(building, cache_dir / model_id)
    progress(f"{folder} is ready as {model_id}")
    return model_id


def normalise_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as current transformers writes it, from what older ones wrote.

    Errors: ConfigError for rotary embeddings that are scaled.
    """
    full = dict(config)
    if full.get("rope_scaling"):
        raise ConfigError(f"rope_scaling is {full['rope_scaling']!r}: only default rotary embeddings are covered")
    full.setdefault("tie_word_embeddings", full.get("model_type") == "gemma3_text")
    if "num_attention_heads" in full and "hidden_size" in full and not full.get("head_dim"):
        full["head_dim"] = full["hidden_size"] // full["num_attention_heads"]
    if full.get("num_key_value_heads") is None:
        full["num_key_value_heads"] = full.get("num_attention_heads")
    if full.get("rope_parameters") is None and "rope_theta" in full:
        full["rope_parameters"] = {"rope_type": "default", "rope_theta": float(full["rope_theta"])}
        if full.get("model_type") == "gemma3_text":
            local = {"rope_type": "default", "rope_theta": float(full["rope_local_base_freq"])}
            full["rope_parameters"] = {"full_attention": full["rope_parameters"], "sliding_attention": local}
    return full


def _read_params(folder: Path, *, tied: bool) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no *.safetensors; other formats of weights are not read")
    params: dict[str, torch.Tensor] = {}
    for file in files:
        params |= load_file(file)
    return {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in sorted(params.items())
        if not (tied and name == TIED_HEAD)
    }


def _try_network(folder: Path, config: Mapping[str, Any], params: Mapping[str, torch.Tensor]) -> None:
    """One token through the network: what is missing or misshapen shows now and not at the first request."""
    if not config["tie_word_embeddings"] and TIED_HEAD not in params:
        raise ConfigError(f"{folder}: its config.json promises {TIED_HEAD}, its weights lack it")
    if biases := sorted(name for name in params if name.endswith(".bias"))[:3]:
        raise ConfigError(f"{folder} holds biases, which no forward pass here adds: {', '.join(biases)}")
    read = _NotedParams(params)
    try:
        network = build_network(config, read, context_tokens=2)
        hidden = network.compute_hidden(torch.tensor([0]), network.open_cache(1))
        logits = network.compute_logits(hidden)
    except KeyError as problem:
        raise ConfigError(f"{folder} lacks the tensor {problem}") from None
    except (RuntimeError, IndexError) as problem:
        raise ConfigError(f"the tensors of {folder} do not fit its config.json: {problem}") from None
    if ignored := sorted(set(params) - read.noted)[:3]:
        raise ConfigError(f"{folder} holds tensors that its forward pass here would ignore: {', '.join(ignored)}")
    if logits.shape != (1, config["vocab_size"]):
        raise ConfigError(f"{folder} scores {logits.shape[1]} tokens, its config.json says {config['vocab_size']}")


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; other tokenizer files are not read")
    tokenizer = Tokenizer.from_file(str(path))
    spelled = str(tokenizer.decoder)
    if not isinstance(tokenizer.decoder, decoders.ByteLevel) and "ByteFallback" not in spelled:
        raise ConfigError(f"{path}: only byte-level tokenizers and those with byte fallback are covered")
    if "Strip" in spelled:
        raise ConfigError(f"{path}: tokenizers that drop a leading space are not covered")
    return tokenizer


def _read_end_tokens(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[str, ...]:
    generation = folder / "generation_config.json"
    stated = read_json(generation).get("eos_token_id") if generation.is_file() else None
    stated = config.get("eos_token_id") if stated is None else stated
    if stated is None:
        raise ConfigError(f"{folder} names no eos_token_id, in generation_config.json or config.json")
    ids = stated if isinstance(stated, list) else [stated]
    spelled = tuple(token for token_id in ids if (token := tokenizer.id_to_token(token_id)) is not None)
    if len(spelled) < len(ids):
        raise ConfigError(f"{folder}: eos_token_id {stated} is outside its tokenizer")
    return spelled


def _read_template(folder: Path) -> str:
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text("utf-8")
    template = read_json(config).get("chat_template") if config.is_file() else None
    if not isinstance(template, str):
        raise ConfigError(f"{folder} has no chat template: write one as chat_template.jinja")
    return template


def _describe(
    model_id: str,
    folder: Path,
    config: Mapping[str, Any],
    params: Mapping[str, torch.Tensor],
    end_tokens: tuple[str, ...],
    weights_hash: str,
) -> ModelEntry:
    count, layers = sum(math.prod(tensor.shape) for tensor in params.values()), config["num_hidden_layers"]
    return ModelEntry(
        model_id=model_id,
        title=folder.resolve().name,
        family=config["model_type"],
        weights_hash=weights_hash,
        licence="as its publisher states",
        params=count,
        context_tokens=min(MAX_CONTEXT_TOKENS, config["max_position_embeddings"]),
        end_tokens=end_tokens,
        inner_layers=(max(0, layers // 3 - 1), max(0, layers * 2 // 3 - 1)),
        memory_bytes={BF16: BASE_MEMORY_BYTES + 2 * count, FP32: BASE_MEMORY_BYTES + 4 * count},
    )


def _make_slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_SLUG] or "model"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Errors: ConfigError naming the file when it is missing, unreadable or holds no object.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: a folder in Hugging Face's layout is wanted") from None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no object")
    return found
