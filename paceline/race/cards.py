"""The cards that the white paper names for a Race, and what a preset asks of a device before it may race.

`paper` admits cards with 16 GB and more, which the paper asks for; its network of 0.6 GB would fit smaller ones, so it is a rule and
no need. Every other preset admits any device, processors too. It measures nothing: a card's rate is the maker's peak times
the share of it that a Race is to reach, until somebody has measured it.
Source: seed 001, Appendix D; SPEC section 4; decision 017.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources

import msgspec

from paceline.base.errors import ConfigError
from paceline.race.plan import RacePreset, count_params

LEAST_BYTES = {"paper": 16 * 10**9}
"""Memory of a card by preset, where one asks for it."""
PEAK_SHARE = 0.6
"""Of the maker's peak; the goal of `bench/README.md` for a GPU."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table. Units: GB as sold, 10^12 operations a second, nonces a second."""

    name: str
    released: str
    vram_gb: int
    architecture: str
    generation: str
    int8_tera_ops: float
    measured_nonces: float | None = None
    """Of the preset `paper`."""

    def estimate_nonces(self, preset: RacePreset) -> float:
        """Nonces a second: a nonce is `sequence` places, each two operations a parameter."""
        if preset.name == "paper" and self.measured_nonces is not None:
            return self.measured_nonces
        return self.int8_tera_ops * 1e12 * PEAK_SHARE / (2 * preset.sequence * count_params(preset))


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a node would race on. `memory_bytes` is 0 for a processor."""

    name: str
    memory_bytes: int


class _Cards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cards: tuple[Card, ...]


@cache
def load_cards() -> dict[str, Card]:
    """The table by name."""
    text = resources.files("paceline.race").joinpath("cards.toml").read_text("utf-8")
    return {card.name: card for card in msgspec.convert(tomllib.loads(text), _Cards).cards}


def find_card(device_name: str) -> Card | None:
    """The row of a device by the name that its driver tells, such as `NVIDIA A100-SXM4-80GB`; None for others."""
    words = f" {re.sub(r'[^A-Za-z0-9]+', ' ', device_name)} "
    found = [card for card in load_cards().values() if f" {card.name} " in words]
    return max(found, key=lambda card: len(card.name), default=None)


def require_admission(preset: str, device: Device) -> None:
    """Errors: ConfigError saying what the preset asks for and what is here."""
    least = LEAST_BYTES.get(preset, 0)
    if device.memory_bytes >= least:
        return
    here = (
        f"{device.name} has {device.memory_bytes / 1e9:.0f} GB"
        if device.memory_bytes
        else f"{device.name} is a processor"
    )
    raise ConfigError(
        f"race_device: the Race {preset!r} admits cards with {least / 1e9:.0f} GB and more, and {here}; "
        "name another device, or join a network of another preset, which admits any"
    )
