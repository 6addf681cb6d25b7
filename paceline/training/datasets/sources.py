"""Documents out of files: plain text, JSON lines, Parquet, a Hugging Face data set on disk, or Shakespeare.

It refuses to know tokens. Invariant: the same files give the same documents in the same order (files by name, then as they
stand), and two sources with one hash give the same documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.models.files import hash_file
from paceline.models.local import read_json
from paceline.training.data import MAX_CORPUS_BYTES, load_corpus

SHAKESPEARE = "shakespeare"
DEFAULT_FIELD = "text"
_ROWS_PER_READ = 1024
_SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Where documents come from: `kind` says how the files are read, `field` which column of them, empty for plain text."""

    name: str
    kind: str
    files: tuple[Path, ...]
    field: str

    def read_documents(self) -> Iterator[str]:
        """The texts, one document at a time; null and empty ones are none.

        Errors: ConfigError naming the file, and the line or column, that cannot be read.
        """
        if self.kind == SHAKESPEARE:
            yield load_corpus().decode()
            return
        for file in self.files:
            try:
                yield from filter(None, _READERS[self.kind](file, self.field))
            except OSError as problem:
                raise ConfigError(f"data {file}: cannot be read ({problem}); name readable files") from None

    def compute_hash(self) -> bytes:
        """Hash of the files' bytes and of how they are read. Effects: reads every file once."""
        if self.kind == SHAKESPEARE:
            return hash_parts("document-source", self.kind.encode(), hash_blob(load_corpus()))
        try:
            found = [hash_file(file).encode() for file in self.files if file.stat().st_size]
        except OSError as problem:
            raise ConfigError(f"data {self.name}: cannot be read ({problem}); name readable files") from None
        return hash_parts("document-source", self.kind.encode(), self.field.encode(), *found)


def open_source(place: str | Path = SHAKESPEARE, *, field: str | None = None) -> DocumentSource:
    """The source behind a file, a folder or the word shakespeare; `field` is the column of text, "text" when left out.

    Errors: ConfigError for a place that is missing or of no known form, and for a field where there are no columns.
    """
    kind, files = (SHAKESPEARE, []) if str(place) == SHAKESPEARE else _find_files(Path(place))
    if kind in {SHAKESPEARE, "text"} and field is not None:
        raise ConfigError(f"field is {field!r}, but {place} is plain text without columns; leave field out")
    column = "" if kind in {SHAKESPEARE, "text"} else field or DEFAULT_FIELD
    return DocumentSource(name=str(place), kind=kind, files=tuple(files), field=column)


def _find_files(place: Path) -> tuple[str, list[Path]]:
    if place.is_file():
        # A file of another ending is text if it decodes as such; binary ones are refused when they are read.
        return _SUFFIXES.get(place.suffix, "text"), [place]
    if not place.is_dir():
        raise ConfigError(f"data {place}: does not exist; name a file, a folder or {SHAKESPEARE}")
    if (place / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in place.glob("*/state.json"))
        raise ConfigError(f"data {place}: holds the splits {', '.join(splits)}; name the folder of one of them")
    if (place / "state.json").is_file():
        return "dataset", _list_dataset(place)
    files = sorted(file for file in place.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    kinds = sorted({_SUFFIXES[file.suffix] for file in files})
    if len(kinds) != 1:
        state = f"mixes {', '.join(kinds)}" if kinds else f"holds none of {', '.join(_SUFFIXES)}"
        raise ConfigError(f"data {place}: {state}; name a folder with files of one kind")
    return kinds[0], files


def _list_dataset(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise ConfigError(f"data {folder}: was saved with indices; save it anew after flatten_indices()")
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise ConfigError(f"data {folder}: its state.json lists no _data_files; save it with save_to_disk") from None
    outside = [file for file in files if file.parent != folder or not file.is_file()]
    if outside or not files:
        named = ", ".join(file.name for file in outside) or "no file"
        raise ConfigError(f"data {folder}: its state.json names {named} that it does not hold; save it again")
    return files


def _read_text(file: Path, _field: str) -> Iterator[str]:
    if file.stat().st_size > MAX_CORPUS_BYTES:
        raise ConfigError(
            f"data {file}: more than {MAX_CORPUS_BYTES} bytes in one text; split it into a folder of files"
        )
    data = file.read_bytes()
    if b"\0" in data:
        raise ConfigError(f"data {file}: is binary (a NUL byte at {data.index(0)}); use UTF-8 text")
    try:
        yield data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ConfigError(f"data {file}: is not UTF-8 text (byte {problem.start}); convert it with iconv") from None


def _read_json_lines(file: Path, field: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = msgspec.json.decode(line)
            except msgspec.DecodeError as problem:
                raise ConfigError(f"data {file}: line {number} is not JSON ({problem}); mend it") from None
            if not isinstance(row, dict) or field not in row:
                held = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
                raise ConfigError(f"data {file}: line {number} has no field {field!r} but {held}; set field")
            if not isinstance(row[field], str | None):
                raise ConfigError(f"data {file}: line {number}: {field!r} is no text; set field to one that is")
            yield row[field] or ""


def _read_parquet(file: Path, field: str) -> Iterator[str]:
    # pyarrow costs a third of a second to import, and most sources need none of it.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        with parquet.ParquetFile(file) as table:
            _require_text_column(file, table.schema_arrow, field)
            for batch in table.iter_batches(batch_size=_ROWS_PER_READ, columns=[field]):
                yield from _get_texts(batch.column(0))
    except (pa.ArrowException, UnicodeDecodeError) as problem:
        raise ConfigError(f"data {file}: is no readable Parquet file ({problem}); write it again") from None


def _read_arrow(file: Path, field: str) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415

    try:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            _require_text_column(file, stream.schema, field)
            for batch in stream:
                column = batch.column(stream.schema.get_field_index(field))
                for start in range(0, len(column), _ROWS_PER_READ):
                    yield from _get_texts(column.slice(start, _ROWS_PER_READ))
    except (pa.ArrowException, UnicodeDecodeError) as problem:
        raise ConfigError(f"data {file}: is no readable Arrow stream ({problem}); save the data set again") from None


def _require_text_column(file: Path, schema: Any, field: str) -> None:
    from pyarrow import types  # noqa: PLC0415

    if field not in schema.names:
        raise ConfigError(f"data {file}: has no column {field!r} but {', '.join(schema.names)}; set field")
    kind = schema.field(field).type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise ConfigError(f"data {file}: column {field!r} holds {kind}, not text; set field to one that does")


def _get_texts(column: Any) -> Sequence[str]:
    return [text or "" for text in column.to_pylist()]


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    "text": _read_text,
    "jsonl": _read_json_lines,
    "parquet": _read_parquet,
    "dataset": _read_arrow,
}
