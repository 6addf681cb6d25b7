"""Text to token ids: bytes, the tokenizer of a model's folder, or a BPE trained on the text at hand.

It refuses to know files of tokens and batches. Invariant: the same choice and the same documents give the same ids on every
machine; the spelling of a special token inside a text stays text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models.local import read_json

BYTES = "bytes"
BPE = "bpe"
DEFAULT_BPE_VOCABULARY = 4096
MIN_BPE_VOCABULARY = 258
"""All bytes, the end of a document, and one word."""
MAX_BPE_VOCABULARY = 1_000_000
_END = "<|end|>"
_BYTE_END = 0
"""Text has no use for a NUL, so it stands between documents where ids are bytes."""
_PIECE_CHARACTERS = 1 << 18
"""Longer texts are cut at a line's end: a tokenizer keeps about a hundred bytes for each of its tokens while it works."""
_PIECES_AT_ONCE = 16

Ids = NDArray[Any]


class Tokeniser(ABC):
    """Turns text into ids below `vocabulary`; `end` stands between two documents."""

    vocabulary: int
    end: tuple[int, ...]

    @property
    @abstractmethod
    def json(self) -> bytes:
        """The same tokenizer as a tokenizer.json, which transformers loads."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text."""

    def encode_documents(self, documents: Iterable[str]) -> Iterator[Ids]:
        """Ids of all documents in pieces, with the end between two of them."""
        marked = _mark_ends(documents)
        while pieces := list(islice(marked, _PIECES_AT_ONCE)):
            for ids, (_, ends) in zip(self.encode([text for text, _ in pieces]), pieces, strict=True):
                yield ids
                if ends:
                    yield np.array(self.end)


class ByteTokeniser(Tokeniser):
    """Ids are the bytes of UTF-8."""

    vocabulary = 256
    end = (_BYTE_END,)

    @cached_property
    def json(self) -> bytes:
        tokenizer = Tokenizer(models.BPE(vocab={word: byte for byte, word in enumerate(_spell_bytes())}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer.to_str().encode()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]


class WordTokeniser(Tokeniser):
    """Ids are words of a tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, end: tuple[int, ...] | None) -> None:
        self.json_text = tokenizer.to_str()
        self._tokenizer = Tokenizer.from_str(self.json_text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.end = tuple(self.encode(["\n\n"])[0].tolist()) if end is None else end

    @property
    def json(self) -> bytes:
        return self.json_text.encode()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in found]


@dataclass(frozen=True, kw_only=True)
class TokeniserChoice:
    """Which tokenizer is wanted, before any text is read. `key` differs where ids could."""

    name: str
    key: bytes
    vocabulary: int | None = None
    """Of a BPE that is still to be trained."""

    def open(self, documents: Iterable[str]) -> Tokeniser:
        """The tokenizer; a BPE learns its words from the documents.

        Errors: ConfigError when the text is too short for the vocabulary that was asked for.
        """
        if self.name == BYTES:
            return ByteTokeniser()
        if self.vocabulary is None:
            return _open_folder(Path(self.name))
        return _train_bpe(documents, self.vocabulary)


def choose_tokeniser(name: str | Path = BYTES, *, vocabulary: int | None = None) -> TokeniserChoice:
    """The choice behind "bytes", "bpe" (with its vocabulary) or the folder of a model.

    Errors: ConfigError for a name that is none of them, and for a vocabulary that cannot be had.
    """
    if str(name) == BPE:
        size = DEFAULT_BPE_VOCABULARY if vocabulary is None else vocabulary
        if not MIN_BPE_VOCABULARY <= size <= MAX_BPE_VOCABULARY:
            raise ConfigError(f"vocabulary is {size}; a BPE holds {MIN_BPE_VOCABULARY} to {MAX_BPE_VOCABULARY} tokens")
        key = hash_parts("tokeniser-bpe", size.to_bytes(4, "little"), tokenizers.__version__.encode())
        return TokeniserChoice(name=BPE, key=key, vocabulary=size)
    if vocabulary is not None:
        raise ConfigError(
            f"vocabulary is {vocabulary}, but the tokenizer {name} has its own; leave it out, or use {BPE}"
        )
    if str(name) == BYTES:
        return TokeniserChoice(name=BYTES, key=hash_parts("tokeniser-bytes"))
    opened = _open_folder(Path(name))
    end = b"".join(token.to_bytes(4, "little") for token in opened.end)
    return TokeniserChoice(name=str(name), key=hash_parts("tokeniser-folder", opened.json, end))


def _open_folder(folder: Path) -> WordTokeniser:
    if not folder.is_dir():
        raise ConfigError(f"tokenizer is {str(folder)!r}; name {BYTES}, {BPE} or the folder of a model")
    # Read as JSON first: what the library raises for a damaged file has no class of its own.
    read_json(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return WordTokeniser(tokenizer, _find_end(folder, tokenizer))


def _find_end(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """The token that ends a text, by the files beside the tokenizer; None where they name none."""
    for name in ("generation_config.json", "config.json"):
        stated = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        first = stated[0] if isinstance(stated, list) and stated else stated
        if isinstance(first, int) and tokenizer.id_to_token(first) is not None:
            return (first,)
    place = folder / "tokenizer_config.json"
    word = read_json(place).get("eos_token") if place.is_file() else None
    found = tokenizer.token_to_id(word["content"] if isinstance(word, dict) else word) if word else None
    return None if found is None else (found,)


def _train_bpe(documents: Iterable[str], vocabulary: int) -> WordTokeniser:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[_END],
        initial_alphabet=_spell_bytes(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in documents for piece in _cut(text)), trainer)
    end = tokenizer.token_to_id(_END)
    assert end is not None, "the trainer was given it"
    trained = WordTokeniser(tokenizer, (end,))
    if trained.vocabulary < vocabulary:
        raise ConfigError(
            f"vocabulary is {vocabulary}, but the text repeats enough for {trained.vocabulary} tokens only; "
            "lower it or use more text"
        )
    return trained


def _mark_ends(documents: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Pieces of all documents, each with the word whether one ends there and another follows."""
    held: str | None = None
    for text in documents:
        if held is not None:
            yield held, True
        *before, held = _cut(text)
        for piece in before:
            yield piece, False
    if held is not None:
        yield held, False


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        line_end = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1
        end = line_end if line_end > start else start + _PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def _spell_bytes() -> list[str]:
    """The character by which byte-level tokenizers write each byte, by byte: a printable one itself, else one above 255."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]
