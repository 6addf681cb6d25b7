"""Entries of the catalogue: complete, consistent with what they describe, found by name and by weights."""

from __future__ import annotations

import pytest

from paceline.base.errors import ConfigError
from paceline.models.catalogue import DEFAULT_MODEL, PRECISIONS, find_by_weights, get_entry, load_catalogue
from paceline.models.families import FAMILIES
from paceline.models.preparation import find_parts


def test_every_entry_is_complete():
    assert set(load_catalogue()) == {DEFAULT_MODEL, "gemma-3-270m"}
    for model_id, entry in load_catalogue().items():
        assert entry.model_id == model_id and entry.family in FAMILIES
        assert entry.licence and entry.licence_url.startswith("https://")
        assert entry.operations_per_token == 2 * entry.params
        assert sorted(entry.memory_bytes) == sorted(PRECISIONS)
        # Weights alone are two or four bytes a parameter; a process has more to hold.
        assert all(entry.memory_bytes[name] > entry.params * size for name, size in (("bf16", 2), ("fp32", 4)))
        assert len(set(entry.inner_layers)) == 2


def test_the_packages_are_there():
    for entry in load_catalogue().values():
        assert all(part.is_file() for part in find_parts(entry))


def test_weights_name_their_entry():
    for entry in load_catalogue().values():
        assert find_by_weights(entry.weights_hash) is entry
    assert find_by_weights("0" * 64) is None


def test_invalid_name():
    with pytest.raises(ConfigError, match=DEFAULT_MODEL):
        get_entry("smollm3")
