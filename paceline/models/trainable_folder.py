"""A folder in Hugging Face's layout as a module to train: the Llama module here where it covers the model, else transformers.

It refuses to know presets, seeds and optimisers, and fetches nothing. Invariant: params are those that the
folder holds; no dropout draws at random, because a draw of torch's own generator could not be repeated elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from paceline.base.errors import ConfigError
from paceline.models.local import read_json
from paceline.models.preparation import TIED_HEAD
from paceline.models.trainable_llama import (
    TrainableLlama,
    TrainableShape,
    build_from_params,
    compute_next_token_loss,
    read_shape,
)


class TransformersModel(nn.Module):
    """Any causal language model of transformers; its forward returns the loss.

    Shapes: tokens (B, T + 1) integers below the vocabulary; the loss is a scalar, nats per token.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.inner.eval()

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        return int(self.inner.get_input_embeddings().num_embeddings)

    @property
    def context_tokens(self) -> int | None:
        """The longest sequence it reads, where its config.json states one."""
        stated = getattr(self.inner.config, "max_position_embeddings", None)
        return None if stated is None else int(stated)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each token after the first, given those before it."""
        return compute_next_token_loss(self.inner(input_ids=tokens[:, :-1], use_cache=False).logits, tokens[:, 1:])

    def train(self, mode: bool = True) -> TransformersModel:
        """As every module's, but the model inside stays as it is for evaluation, where dropout is off."""
        super().train(mode)
        self.inner.eval()
        return self


def load_folder(folder: Path, *, dtype: torch.dtype | None = torch.float32) -> TrainableLlama | TransformersModel:
    """The model of a folder, with its params in `dtype`; None keeps the type they have.

    Errors: ConfigError naming the file that is missing or does not fit.
    """
    config = read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no *.safetensors; convert its weights, other formats are not read")
    try:
        shape = read_shape(config)
    except ConfigError:
        return _load_with_transformers(folder, dtype)
    params = _read_params(files, shape)
    return build_from_params(shape, {name: tensor.to(dtype or tensor.dtype) for name, tensor in params.items()})


def _read_params(files: list[Path], shape: TrainableShape) -> dict[str, Tensor]:
    params: dict[str, Tensor] = {}
    for file in files:
        try:
            params |= load_file(file)
        except (OSError, SafetensorError) as problem:
            raise ConfigError(f"{file} cannot be read: {problem}; fetch or save it again") from None
    if shape.tie_word_embeddings:
        params.pop(TIED_HEAD, None)
    return params


def _load_with_transformers(folder: Path, dtype: torch.dtype | None) -> TransformersModel:
    # transformers takes seconds to import, and no preset needs it.
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    try:
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stderr(sink):
            inner = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype or "auto")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        raise ConfigError(f"{folder}: transformers loads no causal language model from it: {problem}") from None
    return TransformersModel(inner)
