"""Token files: tokenised once, noticed when damaged, never half there."""

from __future__ import annotations

import numpy as np
import pytest
from full_disk import files_end_at
from training_setup import CORPUS

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_blob
from paceline.training.datasets.sources import open_source
from paceline.training.datasets.token_file import prepare_tokens
from paceline.training.datasets.tokenise import choose_tokeniser


@pytest.fixture
def source(tmp_path):
    (tmp_path / "text.txt").write_bytes(CORPUS)
    return open_source(tmp_path / "text.txt")


def prepare(source, cache, name="bytes", **options):
    """The file, and what was said while it was prepared."""
    said = []
    return prepare_tokens(source, choose_tokeniser(name, **options), cache, progress=said.append), said


def find(cache, suffix):
    (place,) = cache.glob(f"*{suffix}")
    return place


def test_a_text_is_tokenised_once(source, tmp_path):
    first, said = prepare(source, tmp_path / "cache")
    assert said == [f"tokenising {source.name} (bytes)", f"{len(CORPUS)} tokens of {source.name}"]
    again, said = prepare(source, tmp_path / "cache")
    assert said == [f"{len(CORPUS)} tokens of {source.name}"]
    for found in (first, again):
        assert isinstance(found.tokens, np.memmap)
        assert bytes(found.tokens.astype(np.uint8)) == CORPUS
    assert first.facts == again.facts
    assert (first.facts.dtype, first.facts.vocabulary, first.facts.count_tokens) == ("uint16", 256, len(CORPUS))
    assert first.facts.tokens_hash == hash_blob(find(tmp_path / "cache", ".tokens").read_bytes()).hex()


def test_a_trained_bpe_is_kept_beside_its_tokens(source, tmp_path):
    first, _ = prepare(source, tmp_path / "cache", "bpe", vocabulary=300)
    again, said = prepare(source, tmp_path / "cache", "bpe", vocabulary=300)
    assert len(said) == 1
    assert first.tokenizer == again.tokenizer
    assert first.facts.vocabulary == 300
    assert np.array_equal(first.tokens, again.tokens)


def test_large_vocabularies_take_four_bytes(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("ab" * 50)
    monkeypatch.setattr("paceline.training.datasets.token_file._SMALL_VOCABULARY", 255)
    found, _ = prepare(open_source(tmp_path / "text.txt"), tmp_path / "cache")
    assert found.facts.dtype == "uint32"
    assert find(tmp_path / "cache", ".tokens").read_bytes()[:8] == b"a\0\0\0b\0\0\0"
    assert found.tokens[:2].tolist() == [ord("a"), ord("b")]


def test_text_or_tokenizer_that_changed_is_tokenised_anew(source, tmp_path):
    prepare(source, tmp_path / "cache")
    (tmp_path / "text.txt").write_bytes(CORPUS[:-1])
    assert prepare(source, tmp_path / "cache")[0].facts.count_tokens == len(CORPUS) - 1
    prepare(source, tmp_path / "cache", "bpe", vocabulary=300)
    assert len(list((tmp_path / "cache").glob("*.tokens"))) == 3


def flip(place):
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "cut": lambda place: place.write_bytes(place.read_bytes()[:-2]),
    "empty": lambda place: place.write_bytes(b""),
    "gone": lambda place: place.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".tokens", ".tokenizer.json"])
def test_invalid_files_are_noticed_and_made_anew(source, tmp_path, suffix, damage):
    whole, _ = prepare(source, tmp_path / "cache")
    DAMAGES[damage](find(tmp_path / "cache", suffix))
    found, said = prepare(source, tmp_path / "cache")
    assert len(said) == 2
    assert found.facts == whole.facts
    assert bytes(found.tokens.astype(np.uint8)) == CORPUS
    assert len(prepare(source, tmp_path / "cache")[1]) == 1


@pytest.mark.parametrize("content", ["", "{", '{"count_tokens": 3}'])
def test_invalid_facts_are_made_anew(source, tmp_path, content):
    whole, _ = prepare(source, tmp_path / "cache")
    name = find(tmp_path / "cache", ".tokens").stem
    (tmp_path / "cache" / f"{name}.json").write_text(content)
    assert prepare(source, tmp_path / "cache")[0].facts == whole.facts


def test_a_full_disk_leaves_nothing_half_written(source, tmp_path):
    with files_end_at(len(CORPUS)), pytest.raises(WorkError, match=r"tokens were not written .* free space"):
        prepare(source, tmp_path / "cache")
    assert [place.suffix for place in (tmp_path / "cache").iterdir()] == [".lock"]
    with files_end_at(2 * len(CORPUS)):
        assert prepare(source, tmp_path / "cache")[0].facts.count_tokens == len(CORPUS)


def test_a_file_that_a_killed_process_left_is_written_over(source, tmp_path):
    whole, _ = prepare(source, tmp_path / "cache")
    place = find(tmp_path / "cache", ".tokens")
    place.rename(f"{place}.building")
    assert prepare(source, tmp_path / "cache")[0].facts == whole.facts
    assert not list((tmp_path / "cache").glob("*.building"))


def test_invalid_source_without_text(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ConfigError, match=r"empty\.txt: holds no text"):
        prepare(open_source(tmp_path / "empty.txt"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tokens*"))


def test_invalid_cache(source, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WorkError, match=r"cache .*: tokens were not written"):
        prepare(source, tmp_path / "cache")
