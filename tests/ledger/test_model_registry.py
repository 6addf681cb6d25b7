"""The model registry: entries replace each other, models without one have a default, and the table is bounded."""

from __future__ import annotations

import msgspec
import pytest

from paceline.base.errors import InvalidTransaction
from paceline.economy.prices import compute_token_price
from paceline.ledger import model_registry as registry
from paceline.ledger.state import State
from paceline.protocol.codec import decode, encode
from paceline.protocol.fields import MAX_SUPPLY
from paceline.protocol.proposals import MAX_MICRO_UNITS, Memory, ModelEntry
from paceline.store.state import MemoryStateStore

ENTRY = ModelEntry(
    name="llama-3.1-405b",
    licence="Llama 3.1 Community License",
    context_tokens=131_072,
    million_params=405_854,
    memory=(Memory("bf16", 773_000), Memory("fp8", 388_000)),
    micro_units=405_000_000,
)


def make_state():
    return State(MemoryStateStore(), height=1)


def change(**fields):
    return msgspec.structs.replace(ENTRY, **fields)


def test_an_entry_says_what_a_token_costs_and_the_next_one_replaces_it():
    state = make_state()
    registry.add_entry(state, ENTRY)
    assert registry.get_entry(state, ENTRY.name) == ENTRY
    assert registry.get_micro_units(state, ENTRY.name) == 405_000_000
    registry.add_entry(state, change(micro_units=7))
    assert registry.get_micro_units(state, ENTRY.name) == 7
    assert [entry.name for entry in registry.list_entries(state)] == [ENTRY.name]
    assert [event.kind for event in state.events] == ["model-entry", "model-entry"]


@pytest.mark.parametrize("name", ["tiny", "", "llama-3.1-405b\n", "Ä"])
def test_a_model_in_no_entry_costs_one_unit_a_token(name):
    state = make_state()
    registry.add_entry(state, ENTRY)
    assert registry.get_entry(state, name) is None
    assert registry.get_micro_units(state, name) == 1_000_000
    assert compute_token_price(1_234, registry.get_micro_units(state, name)) == 1_234


def test_the_registry_is_bounded_and_a_full_one_still_replaces(monkeypatch):
    monkeypatch.setattr(registry, "MOST_ENTRIES", 2)
    state = make_state()
    registry.add_entry(state, ENTRY)
    registry.add_entry(state, change(name="b"))
    with pytest.raises(InvalidTransaction, match="registry-full"):
        registry.add_entry(state, change(name="c"))
    registry.add_entry(state, change(name="b", micro_units=3))
    assert [entry.micro_units for entry in registry.list_entries(state)] == [3, 405_000_000]


@pytest.mark.parametrize("names", [("bf16", "bf16"), ("fp8", "bf16")])
def test_invalid_precisions_out_of_order_or_twice(names):
    state = make_state()
    with pytest.raises(InvalidTransaction, match="bad-entry"):
        registry.add_entry(state, change(memory=tuple(Memory(name, 1) for name in names)))
    assert registry.list_entries(state) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "Big"},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"licence": ""},
        {"licence": "\x1b[2J"},
        {"licence": "MIT\n"},
        {"context_tokens": 0},
        {"million_params": -1},
        {"million_params": 2**32},
        {"memory": ()},
        {"memory": (Memory("bf16", 0),)},
        {"memory": tuple(Memory(f"p{index:02}", 1) for index in range(17))},
        {"micro_units": 0},
        {"micro_units": MAX_MICRO_UNITS + 1},
    ],
)
def test_invalid_fields_are_refused_at_decode(fields):
    with pytest.raises(InvalidTransaction, match="malformed"):
        decode(ModelEntry, encode(change(**fields)), limit_bytes=10_000)


def test_a_token_of_the_dearest_entry_is_an_amount():
    assert compute_token_price(10**12, MAX_MICRO_UNITS) <= MAX_SUPPLY
    assert decode(ModelEntry, encode(ENTRY), limit_bytes=10_000) == ENTRY
