"""Tokenizers: text comes back, documents are kept apart, and a trained BPE is the same every time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from training_setup import CORPUS

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob
from paceline.training.datasets import tokenise
from paceline.training.datasets.tokenise import MIN_BPE_VOCABULARY, choose_tokeniser

TEXT = CORPUS.decode()
ODD = "wörld 😀\r\n\n  <|end|>\t\0"


def encode(tokeniser, documents):
    return np.concatenate(list(tokeniser.encode_documents(documents))).tolist()


def write_folder(folder, **files):
    folder.mkdir()
    words = {word: index for index, word in enumerate(("the", "rider", "turns", "[END]", "?"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[END]"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def bpe():
    return choose_tokeniser("bpe", vocabulary=300).open([TEXT])


def test_bytes_are_the_ids_and_nul_stands_between_documents():
    tokeniser = choose_tokeniser().open([])
    assert encode(tokeniser, [ODD, "b", "c"]) == [*ODD.encode(), 0, ord("b"), 0, ord("c")]
    assert tokeniser.vocabulary == 256
    assert list(tokeniser.encode_documents([])) == []


def test_bytes_as_a_tokenizer_for_others_give_the_same_ids():
    tokeniser = choose_tokeniser("bytes").open([])
    other = Tokenizer.from_str(tokeniser.json.decode())
    assert other.encode(ODD).ids == list(ODD.encode())
    assert other.decode(other.encode(ODD).ids) == ODD


def test_a_bpe_is_shorter_than_bytes_and_loses_nothing(bpe):
    ids = encode(bpe, [TEXT])
    assert bpe.vocabulary == 300
    assert max(ids) == 299
    assert len(ids) < len(TEXT) / 2
    decoder = Tokenizer.from_str(bpe.json.decode())
    assert decoder.decode(ids) == TEXT
    assert decoder.decode(encode(bpe, [ODD])) == ODD
    assert encode(bpe, ["a", "b"]) == encode(bpe, ["a"]) + list(bpe.end) + encode(bpe, ["b"])


def test_a_bpe_follows_from_its_text(bpe):
    again = choose_tokeniser("bpe", vocabulary=300).open([TEXT])
    assert again.json == bpe.json
    ids = np.array(encode(bpe, [TEXT]), dtype="<u4")
    assert hash_blob(ids.tobytes()).hex()[:16] == "42dbc54be8471828"
    assert choose_tokeniser("bpe", vocabulary=300).open([TEXT[::-1]]).json != bpe.json


def test_long_texts_are_cut_after_lines_and_lose_nothing(bpe, monkeypatch):
    text = "a line\n" * 50 + "x" * 100 + "\nlast"
    whole = encode(bpe, [text, text])
    monkeypatch.setattr(tokenise, "_PIECE_CHARACTERS", 40)
    monkeypatch.setattr(tokenise, "_PIECES_AT_ONCE", 3)
    pieces = [piece for piece, _ in tokenise._mark_ends([text])]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) == 40
    assert all(piece.endswith("\n") for piece in pieces[:9])
    assert encode(bpe, [text, text]).count(bpe.end[0]) == whole.count(bpe.end[0]) == 1
    assert Tokenizer.from_str(bpe.json.decode()).decode(encode(bpe, [text])) == text


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({"config": {"eos_token_id": 3}}, (3,)),
        ({"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [3, 1]}}, (3,)),
        ({"config": {"eos_token_id": None}, "tokenizer_config": {"eos_token": "[END]"}}, (3,)),
        ({"config": {"eos_token_id": 99}, "tokenizer_config": {"eos_token": {"content": "[END]"}}}, (3,)),
        ({}, ()),
    ],
)
def test_the_tokenizer_of_a_folder(tmp_path, files, end):
    tokeniser = choose_tokeniser(write_folder(tmp_path / "model", **files)).open([])
    assert tokeniser.end == end
    assert tokeniser.vocabulary == 5
    assert encode(tokeniser, ["the rider turns the rider", "turns"]) == [0, 1, 2, 0, 1, *end, 2]
    assert 3 not in encode(tokeniser, ["[END]"])


def test_keys_differ_where_ids_could(tmp_path):
    plain = write_folder(tmp_path / "a")
    marked = write_folder(tmp_path / "b", config={"eos_token_id": 3})
    choices = [
        choose_tokeniser(),
        choose_tokeniser("bpe"),
        choose_tokeniser("bpe", vocabulary=300),
        choose_tokeniser(plain),
        choose_tokeniser(marked),
    ]
    assert len({choice.key for choice in choices}) == 5
    assert choose_tokeniser(write_folder(tmp_path / "c")).key == choose_tokeniser(plain).key


def test_the_smallest_and_an_invalid_vocabulary():
    assert choose_tokeniser("bpe", vocabulary=MIN_BPE_VOCABULARY).open([TEXT]).vocabulary == MIN_BPE_VOCABULARY
    with pytest.raises(ConfigError, match="vocabulary is 257; a BPE holds 258 to"):
        choose_tokeniser("bpe", vocabulary=MIN_BPE_VOCABULARY - 1)
    with pytest.raises(ConfigError, match=r"vocabulary is 4096, but the text repeats enough for \d+ tokens only"):
        choose_tokeniser("bpe").open(["to be or not to be"])
    with pytest.raises(ConfigError, match="vocabulary is 300, but the tokenizer bytes has its own"):
        choose_tokeniser(vocabulary=300)


def test_invalid_folders(tmp_path):
    with pytest.raises(ConfigError, match="tokenizer is 'none'; name bytes, bpe or the folder"):
        choose_tokeniser("none")
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        choose_tokeniser(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        choose_tokeniser(tmp_path)
