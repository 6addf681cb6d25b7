"""Models for the tests of answering: a scripted one that costs nothing, and the real one, loaded once."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest
import torch

from paceline.models.language import LanguageModel, prepare_model


class ScriptedDetokeniser:
    def __init__(self, pieces):
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id):
        return self._decoder.decode(self._pieces[token_id])


class ScriptedModel:
    """Wants to say one given sequence of tokens, whatever it is asked; token 0 ends an answer."""

    model_id = "scripted"
    content_hash = bytes(32)
    engine = "scripted-1"
    eos_token_ids = (0,)
    context_tokens = 16

    def __init__(self, pieces, script):
        self.pieces = [b"", *(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)]
        self.token_bytes = self.pieces
        self.vocab_size = len(self.pieces)
        self.script = script
        self.computed = 0

    def encode(self, text):
        data, found = text.encode(), []
        while data:
            fits = [index for index, piece in enumerate(self.pieces) if piece and data.startswith(piece)]
            best = max(fits, key=lambda index: len(self.pieces[index]), default=None)
            found += [] if best is None else [best]
            data = data[1 if best is None else len(self.pieces[best]) :]
        return found

    def encode_chat(self, messages):
        return [1] * sum(len(message["content"]) for message in messages)

    def open_detokeniser(self):
        return ScriptedDetokeniser(self.pieces)

    def open_cache(self, capacity_tokens):
        return {"capacity": capacity_tokens, "length": 0, "prompt": 0}

    def compute_next_logits(self, token_ids, cache):
        self.computed += 1
        cache["prompt"] = cache["prompt"] or len(token_ids)
        cache["length"] += len(token_ids)
        assert cache["length"] < cache["capacity"]
        return self._score(cache["length"] - cache["prompt"])

    def iterate_logits(self, token_ids, start):
        for position in range(len(token_ids) - start):
            yield self._score(position)

    def _score(self, position):
        logits = torch.zeros(self.vocab_size)
        logits[self.script[min(position, len(self.script) - 1)]] = 8.0
        return logits


@pytest.fixture(scope="session")
def scripted():
    return ScriptedModel


@pytest.fixture(scope="session")
def model_path():
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, progress=lambda line: None)


@pytest.fixture(scope="session")
def model(model_path):
    torch.set_num_threads(1)
    return LanguageModel.load(model_path)
