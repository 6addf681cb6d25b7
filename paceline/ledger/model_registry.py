"""The model registry: what the network decided to know of a model, and how much compute a token of it stands for.

Entries come by vote only and replace each other whole. It refuses to know prices, and which node serves what: a model
without an entry may be served all the same. Invariant: at most `MOST_ENTRIES` entries, each under its own name.
Source: seed 001, Appendix J.
"""

from __future__ import annotations

from itertools import pairwise

from paceline.base.errors import InvalidTransaction
from paceline.economy.prices import MICRO_UNITS
from paceline.ledger.state import State, Table
from paceline.protocol.proposals import ModelEntry

DEFAULT_MICRO_UNITS = MICRO_UNITS
"""One unit of compute a token: a model in no entry then costs the price of a unit, which begins as genesis' token price."""
MOST_ENTRIES = 1_024

ENTRIES: Table[ModelEntry] = Table("models/entry", ModelEntry)


def get_entry(state: State, name: str) -> ModelEntry | None:
    """What the network knows of a model, None without an entry."""
    return ENTRIES.get(state, name.encode("utf-8"))


def list_entries(state: State) -> list[ModelEntry]:
    """Every entry, by name."""
    return [entry for _, entry in ENTRIES.items(state)]


def get_micro_units(state: State, name: str) -> int:
    """Millionths of a unit of compute per token of a model."""
    entry = get_entry(state, name)
    return DEFAULT_MICRO_UNITS if entry is None else entry.micro_units


def require_entry(entry: ModelEntry) -> ModelEntry:
    """An entry that says one thing about each precision. Errors: InvalidTransaction bad-entry."""
    names = [memory.precision for memory in entry.memory]
    for earlier, later in pairwise(names):
        if earlier >= later:
            raise InvalidTransaction("bad-entry", f"precisions stand in order of their names, once each: {later}")
    if len(entry.run) not in {0, 16}:
        raise InvalidTransaction("bad-entry", "a run is named by 16 bytes, or none is")
    return entry


def add_entry(state: State, entry: ModelEntry) -> None:
    """Enter a model, in the place of its former entry. Errors: InvalidTransaction bad-entry, registry-full."""
    require_entry(entry)
    if get_entry(state, entry.name) is None and len(ENTRIES.items(state)) >= MOST_ENTRIES:
        raise InvalidTransaction("registry-full", f"the registry holds {MOST_ENTRIES} models, which is all that it may")
    ENTRIES.put(state, entry.name.encode("utf-8"), entry)
    state.emit("model-entry", name=entry.name, micro_units=entry.micro_units)
