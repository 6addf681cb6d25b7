"""Tokens on disk: a text is tokenised once into a file that is mapped into memory, with its facts beside it.

It refuses to know batches. Invariant: a file is used only when its bytes have the hash that its facts name; what is damaged
or half-written is made anew, and what has a final name was whole when it got it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from blake3 import blake3

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.models.files import hash_file, lock_model, sync_directory
from paceline.training.datasets.sources import DocumentSource
from paceline.training.datasets.tokenise import Ids, Tokeniser, TokeniserChoice

_LAYOUT = b"1"
"""Part of every name: files of another layout or another way to cut text are not found."""
_NAME_DIGITS = 32
_SMALL_VOCABULARY = 1 << 16


class TokenFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands beside a file of tokens. Hashes are BLAKE3 in hex."""

    source: str
    tokenizer: str
    dtype: str
    count_tokens: int
    vocabulary: int
    tokens_hash: str
    tokenizer_hash: str


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Tokens of a text. Shapes: tokens (count_tokens,) of little-endian uint16 or uint32; `tokenizer` is a tokenizer.json."""

    tokens: Ids
    facts: TokenFacts
    tokenizer: bytes


def prepare_tokens(
    source: DocumentSource, choice: TokeniserChoice, cache_dir: Path, *, progress: Callable[[str], None] | None = None
) -> TokenFile:
    """The tokens of a source, from the cache when they are there.

    Errors: ConfigError for a source without text, WorkError when the cache cannot be written (a full disk).
    Effects: reads the source once more than it tokenises it; writes 2 or 4 bytes a token once.
    """
    say = progress or (lambda _: None)
    name = hash_parts("token-file", _LAYOUT, source.compute_hash(), choice.key).hex()[:_NAME_DIGITS]
    try:
        with lock_model(cache_dir, name):
            found = _open_intact(cache_dir, name)
            if found is None:
                say(f"tokenising {source.name} ({choice.name})")
                _write(source, choice, cache_dir, name)
                found = _open_intact(cache_dir, name)
    except OSError as problem:
        raise WorkError(f"cache {cache_dir}: tokens were not written ({problem}); free space or name another") from None
    assert found is not None, "what was just written is whole"
    say(f"{found.facts.count_tokens} tokens of {source.name}")
    return found


def _open_intact(cache_dir: Path, name: str) -> TokenFile | None:
    facts_place, tokens_place, words_place = _name_files(cache_dir, name)
    try:
        facts = msgspec.json.decode(facts_place.read_bytes(), type=TokenFacts)
        words = words_place.read_bytes()
        if not tokens_place.stat().st_size or hash_file(tokens_place) != facts.tokens_hash:
            return None
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if hash_blob(words).hex() != facts.tokenizer_hash:
        return None
    tokens = np.memmap(tokens_place, dtype=np.dtype(facts.dtype).newbyteorder("<"), mode="r")
    return TokenFile(tokens=tokens, facts=facts, tokenizer=words)


def _write(source: DocumentSource, choice: TokeniserChoice, cache_dir: Path, name: str) -> None:
    """Facts come last: without them the other two files are not looked at."""
    facts_place, tokens_place, words_place = _name_files(cache_dir, name)
    tokeniser = choice.open(source.read_documents())
    dtype = "uint16" if tokeniser.vocabulary <= _SMALL_VOCABULARY else "uint32"
    with _replace_file(tokens_place) as handle:
        count, digest = _write_tokens(handle, tokeniser, source, np.dtype(dtype).newbyteorder("<"))
    with _replace_file(words_place) as handle:
        handle.write(tokeniser.json)
    facts = TokenFacts(
        source=source.name,
        tokenizer=choice.name,
        dtype=dtype,
        count_tokens=count,
        vocabulary=tokeniser.vocabulary,
        tokens_hash=digest,
        tokenizer_hash=hash_blob(tokeniser.json).hex(),
    )
    with _replace_file(facts_place) as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(facts)))
    sync_directory(cache_dir)


def _write_tokens(
    handle: BinaryIO, tokeniser: Tokeniser, source: DocumentSource, dtype: np.dtype[np.generic]
) -> tuple[int, str]:
    digest, count = blake3(), 0
    for ids in tokeniser.encode_documents(source.read_documents()):
        data = ids.astype(dtype).tobytes()
        digest.update(data)
        handle.write(data)
        count += len(ids)
    if count == 0:
        raise ConfigError(f"data {source.name}: holds no text; name files that do")
    return count, digest.hexdigest()


def _name_files(cache_dir: Path, name: str) -> tuple[Path, Path, Path]:
    return cache_dir / f"{name}.json", cache_dir / f"{name}.tokens", cache_dir / f"{name}.tokenizer.json"


@contextmanager
def _replace_file(final: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole and durable; one that fails is removed."""
    building = final.with_name(f"{final.name}.building")
    try:
        with building.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        building.replace(final)
    finally:
        building.unlink(missing_ok=True)
