"""Documents of every form of file, the same twice, and errors that name file, line and column."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from paceline.base.errors import ConfigError
from paceline.training.data import load_corpus
from paceline.training.datasets import sources
from paceline.training.datasets.sources import open_source

TEXTS = ["The rider turns.", "Ein langes Rad – und Regen.\n", "雨 while hills fall"]
ROWS = [{"text": text, "title": str(index), "number": index} for index, text in enumerate(TEXTS)]


def read(place, **options):
    return list(open_source(place, **options).read_documents())


def write_lines(place, rows):
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def write_dataset(folder, shards):
    """The layout of save_to_disk: Arrow streams, and state.json with their names."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05}-of-{len(shards):05}.arrow" for index in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "2e69ce8132be3339", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_shakespeare_is_the_default():
    assert read("shakespeare") == list(open_source().read_documents()) == [load_corpus().decode()]


def test_plain_text_is_a_file_of_any_ending_or_a_folder(tmp_path):
    for name, text in zip(("b.txt", "a.txt", "deep/c.txt"), TEXTS, strict=True):
        place = tmp_path / "texts" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "texts" / "picture.png").write_bytes(b"\0")
    (tmp_path / "texts" / "empty.txt").touch()
    assert read(tmp_path / "texts") == [TEXTS[1].replace("\n", "\r\n"), TEXTS[0], TEXTS[2]]
    (tmp_path / "notes").write_text(TEXTS[2])
    assert read(str(tmp_path / "notes")) == [TEXTS[2]]


def test_json_lines_have_a_field_that_can_be_set(tmp_path):
    place = write_lines(tmp_path / "a.jsonl", ROWS)
    with place.open("a") as handle:
        handle.write('\n{"text": null, "title": "3"}\n{"text": "", "title": "4"}')
    assert read(place) == TEXTS
    assert read(place, field="title") == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_has_a_column_that_can_be_set(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(sources, "_ROWS_PER_READ", 2)
    table = pa.table({"title": ["x", "y", "z", "", None], "body": pa.array([*TEXTS, None, ""], kind)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert read(tmp_path / "a.parquet", field="body") == TEXTS
    assert read(tmp_path, field="title") == ["x", "y", "z"]


def test_a_dataset_on_disk_is_read_in_the_order_of_its_state(tmp_path):
    folder = write_dataset(tmp_path / "set", [ROWS[1:], ROWS[:1]])
    assert read(folder) == [TEXTS[1], TEXTS[2], TEXTS[0]]
    assert read(folder, field="title") == ["1", "2", "0"]


def test_the_hash_follows_content_and_column_but_not_place(tmp_path):
    one, two = write_lines(tmp_path / "a.jsonl", ROWS), write_lines(tmp_path / "b.jsonl", ROWS)
    assert open_source(one).compute_hash() == open_source(two).compute_hash() == open_source(one).compute_hash()
    write_lines(two, ROWS[:2])
    others = [open_source(two), open_source(one, field="title"), open_source()]
    assert len({source.compute_hash() for source in (open_source(one), *others)}) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ok \xff", r"is not UTF-8 text \(byte 3\)"),
        (b"ok \0", r"is binary \(a NUL byte at 3\)"),
    ],
)
def test_invalid_text(tmp_path, content, words):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path / "a.bin")
    assert "a.bin" in str(caught.value)


def test_one_text_has_a_largest_size(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abcd")
    monkeypatch.setattr(sources, "MAX_CORPUS_BYTES", 4)
    assert read(tmp_path / "a.txt") == ["abcd"]
    monkeypatch.setattr(sources, "MAX_CORPUS_BYTES", 3)
    with pytest.raises(ConfigError, match="split it into a folder"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 has no field 'text' but list"),
        ('{"body": "x", "title": "y"}', "line 2 has no field 'text' but body, title; set field"),
        ('{"text": 3}', "line 2: 'text' is no text"),
        ('{"text": "\\ud800"}', "line 2 is not JSON"),
    ],
)
def test_invalid_lines_are_numbered(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("write", [write_dataset, None])
@pytest.mark.parametrize(
    ("field", "words"),
    [("body", "has no column 'body' but text, title, number"), ("number", "column 'number' holds int64, not text")],
)
def test_invalid_columns(tmp_path, write, field, words):
    place = tmp_path / "a.parquet"
    if write:
        write(place, [ROWS])
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), place)
    with pytest.raises(ConfigError, match=words):
        read(place, field=field)


def test_invalid_tables(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match=r"a\.parquet: is no readable Parquet file"):
        read(tmp_path / "a.parquet")
    folder = write_dataset(tmp_path / "set", [ROWS])
    arrow = folder / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"\.arrow: is no readable Arrow stream"):
        read(folder)
    table = pa.table({"text": pa.array([b"\xff\xfe"]).cast(pa.string(), safe=False)})
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet: is no readable Parquet file"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "lists no _data_files"),
        ({"_data_files": 3}, "lists no _data_files"),
        ({"_data_files": []}, "names no file"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"names gone\.arrow that it does not hold"),
        ({"_data_files": [{"filename": "../a.arrow"}]}, r"names a\.arrow that it does not hold"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
    ],
)
def test_invalid_dataset_states(tmp_path, state, words):
    folder = write_dataset(tmp_path / "set", [ROWS])
    (tmp_path / "a.arrow").touch()
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=words):
        open_source(folder)


def test_invalid_places(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        open_source(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds none of \.txt"):
        open_source(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    write_lines(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(ConfigError, match="mixes jsonl, text"):
        open_source(tmp_path)
    for place in ("shakespeare", tmp_path / "a.txt"):
        with pytest.raises(ConfigError, match=r"field is 'text', but .* is plain text"):
            open_source(place, field="text")
    write_dataset(tmp_path / "dict" / "train", [ROWS])
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(ConfigError, match="holds the splits train"):
        open_source(tmp_path / "dict")


def test_a_file_that_goes_away_is_named(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", ROWS))
    Path(tmp_path / "a.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"a\.jsonl: cannot be read"):
        list(source.read_documents())
    with pytest.raises(ConfigError, match=r"a\.jsonl: cannot be read"):
        source.compute_hash()
