"""Open models that the registry may list: what their publishers say, and how much compute a token of each stands for.

A unit of compute is what a token of a model with a billion active parameters takes; so micro-units are thousandths of a million of them. It
loads no weights: `catalogue` holds what this software serves. Memory is that of the weights alone.

Source: SPEC section 4; seed 001, Appendix J.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib import resources

import msgspec

from paceline.models.catalogue import BF16, load_catalogue
from paceline.protocol.proposals import Memory, ModelEntry

MILLION = 1_000_000
MICRO_UNITS_PER_MILLION = 1_000
MIB = 2**20


class OpenModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model as its publisher describes it. Units: `bits` a parameter by precision."""

    licence: str
    source: str
    params: int
    context_tokens: int
    bits: dict[str, int]
    active_params: int = 0
    """Of a mixture of experts, those that one token uses; 0 for all of them."""


def compute_micro_units(active_params: int) -> int:
    """Millionths of a unit of compute that a token takes, at least one."""
    return max(1, -(-active_params // MILLION) * MICRO_UNITS_PER_MILLION)


@lru_cache(maxsize=1)
def load_open_models() -> dict[str, ModelEntry]:
    """Ready entries by name: those that the file lists, and those that this software serves."""
    text = (resources.files("paceline.models") / "open_models.toml").read_text("utf-8")
    listed = msgspec.convert(tomllib.loads(text), dict[str, OpenModel])
    entries = {name: _build_listed(name, model) for name, model in listed.items()}
    for name, entry in load_catalogue().items():
        entries[name] = ModelEntry(
            name=name,
            licence=entry.licence,
            context_tokens=entry.context_tokens,
            million_params=-(-entry.params // MILLION),
            memory=(Memory(BF16, -(-entry.memory_bytes[BF16] // MIB)),),
            micro_units=compute_micro_units(entry.params),
        )
    return dict(sorted(entries.items()))


def _build_listed(name: str, model: OpenModel) -> ModelEntry:
    memory = tuple(
        Memory(precision, -(-model.params * bits // 8 // MIB)) for precision, bits in sorted(model.bits.items())
    )
    return ModelEntry(
        name=name,
        licence=model.licence,
        context_tokens=model.context_tokens,
        million_params=-(-model.params // MILLION),
        memory=memory,
        micro_units=compute_micro_units(model.active_params or model.params),
    )
