"""The models that this software knows by name: where each comes from, what it must convert to, what it needs.

It reads one data file of the package and knows nothing of tensors, caches or peers, so that commands may import it at once.
Invariant: a model id names one set of weights; other weights are another entry.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources

import msgspec

from paceline.base.errors import ConfigError

DEFAULT_MODEL = "smollm2-135m-instruct"
BF16, FP32 = "bf16", "fp32"
PRECISIONS = (BF16, FP32)
# Arithmetic that a check may compare with: changing it asks for a new calibration, hence for a new name.
ENGINE = "torch-cpu-bf16-1"


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. Units in the names."""

    model_id: str
    title: str
    family: str
    """Its `model_type`, which names the forward pass."""
    package: str = ""
    """What to install; empty for a model that came from a folder."""
    parts: tuple[tuple[str, str], ...] = ()
    """(module, file) of the published file's pieces, in order."""
    weights_hash: str
    licence: str
    licence_url: str = ""
    chats: bool = True
    """False: a pretrained model that continues text and does not know when an answer ends."""
    engine: str = ENGINE
    params: int
    """Numbers in its tensors; all of them take part in every token's products, as the embedding is the head too."""
    context_tokens: int
    end_tokens: tuple[str, ...]
    inner_layers: tuple[int, int]
    """Layers whose states a trace commits to, beside the states after the last norm."""
    digits_apart: bool = False
    """Its tokenizer makes every digit a token, which the import of GGUF files forgets."""
    chat_template: str = ""
    """Empty: the published file has one."""
    memory_bytes: Mapping[str, int]
    """What a process needs to answer with it, by precision."""

    @property
    def operations_per_token(self) -> int:
        """Units of compute of one token: a multiplication and an addition for every parameter."""
        return 2 * self.params


@functools.cache
def load_catalogue() -> Mapping[str, ModelEntry]:
    """All entries by id."""
    text = resources.files("paceline.models").joinpath("catalogue.toml").read_text("utf-8")
    return {
        model_id: msgspec.convert({"model_id": model_id, **fields}, ModelEntry)
        for model_id, fields in tomllib.loads(text).items()
    }


def get_entry(model_id: str) -> ModelEntry:
    """Errors: ConfigError naming the models that exist."""
    found = load_catalogue().get(model_id)
    if found is None:
        raise ConfigError(f"model {model_id!r} is none of {', '.join(load_catalogue())}; a folder is named by its path")
    return found


def find_by_weights(weights_hash: str) -> ModelEntry | None:
    """The entry of converted weights, None when the catalogue has none."""
    return next((entry for entry in load_catalogue().values() if entry.weights_hash == weights_hash), None)
