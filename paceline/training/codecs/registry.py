"""Codecs by name, from plain tables such as TOML gives.

It refuses to know methods and presets. Invariant: every key of a table is a setting of its codec or an error; nothing is
ignored and nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from paceline.base.errors import ConfigError
from paceline.training.codecs.codec import Codec
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.power_sgd import PowerSgd
from paceline.training.codecs.quantisers import Float4, Half, Int4, Int8, Raw
from paceline.training.codecs.top_k import TopK

CODECS: Mapping[str, type[Codec]] = MappingProxyType(
    {
        "raw": Raw,
        "half": Half,
        "int8": Int8,
        "int4": Int4,
        "float4": Float4,
        "two_bit": TwoBit,
        "sign": Sign,
        "top_k": TopK,
        "dct": Dct,
        "power_sgd": PowerSgd,
    }
)


_NESTED = frozenset({"codec", "values"})
"""Settings that are tables of another codec."""


def build_codec(settings: Mapping[str, Any], field: str = "codec") -> Codec:
    """The codec that a table names, such as {"name": "top_k", "k": 64, "values": {"name": "two_bit"}}.

    Errors: ConfigError naming the setting below `field`, and the choices when a name is unknown.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{field}: must be a table with a name, got {settings!r}")
    name = settings.get("name")
    if not isinstance(name, str) or name not in CODECS:
        raise ConfigError(f"{field}.name: must be one of {', '.join(CODECS)}, got {name!r}")
    kind = CODECS[name]
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    given = {key: value for key, value in settings.items() if key != "name"}
    for key in given:
        if key not in fields:
            choices = ", ".join(fields) or "none"
            raise ConfigError(f"{field}.{key}: unknown setting of {name}; its settings: {choices}")
    for key, entry in fields.items():
        missing = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if missing and key not in given:
            raise ConfigError(f"{field}.{key}: {name} needs this setting")
    nested = {key: build_codec(value, f"{field}.{key}") for key, value in given.items() if key in _NESTED}
    try:
        return kind(**(given | nested))
    except ConfigError as error:
        raise ConfigError(f"{field}.{error}") from error
