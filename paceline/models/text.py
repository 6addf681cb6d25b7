"""Text of a language model: chat template, token ids, and bytes that come out token by token.

It knows the files of one tokenizer and nothing of tensors, sampling or peers.
Invariant: what a `Detokeniser` emits, joined, is the decoding of all its tokens, and no piece ends inside a character.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, decoders

from paceline.base.errors import WorkError

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
_SPACE_MARK = "\u2581"


class Detokeniser:
    """Turns tokens into text as they come; bytes of an unfinished character wait for the next token.

    Bytes that can never become a character turn into U+FFFD, as in every OpenAI-compatible server.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        return self._decoder.decode(self._token_bytes[token_id])


class ChatTokenizer:
    """The tokenizer of one model with its chat template."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string((directory / "chat_template.jinja").read_text("utf-8"))
        self.token_bytes: Sequence[bytes] = _build_token_bytes(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; the spellings of special tokens become those tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (`role` and `content` each), ready for the assistant's turn."""
        return self.encode(self._template.render(messages=messages, add_generation_prompt=True))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without special tokens; a character left unfinished at the end is dropped."""
        detokeniser = self.open_detokeniser()
        return "".join(detokeniser.push(token_id) for token_id in token_ids)

    def open_detokeniser(self) -> Detokeniser:
        """A fresh token-by-token decoder."""
        return Detokeniser(self.token_bytes)

    def get_token_id(self, spelling: str) -> int:
        """The id of one token. Errors: WorkError when the model directory holds another vocabulary."""
        token_id: int | None = self._tokenizer.token_to_id(spelling)
        if token_id is None:
            raise WorkError(f"the tokenizer has no token {spelling!r}: prepare the model again")
        return token_id


def _build_token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Bytes of each token id; special tokens have none."""
    added = tokenizer.get_added_tokens_decoder()
    read = _read_byte_level if isinstance(tokenizer.decoder, decoders.ByteLevel) else _read_byte_fallback
    table: list[bytes] = [b""] * tokenizer.get_vocab_size(with_added_tokens=True)
    for spelling, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id not in added or not added[token_id].special:
            table[token_id] = read(spelling)
    return table


def _read_byte_level(spelling: str) -> bytes:
    """Vocabularies in which a character stands for a byte."""
    alphabet = _build_byte_alphabet()
    return bytes([alphabet[character] for character in spelling])


def _read_byte_fallback(spelling: str) -> bytes:
    """Vocabularies of pieces of text, with a token for every byte that no piece covers."""
    if _BYTE_TOKEN.fullmatch(spelling):
        return bytes.fromhex(spelling[3:5])
    return spelling.replace(_SPACE_MARK, " ").encode("utf-8")


@functools.cache
def _build_byte_alphabet() -> dict[str, int]:
    """Byte behind each printable character of byte-level vocabularies (GPT-2's alphabet)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + offset): byte for offset, byte in enumerate(hidden)})
    return alphabet
