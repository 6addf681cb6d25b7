"""Parts of a strategy by name, from plain tables such as TOML gives: combine rules, outer optimisers, exchanges.

It refuses to know presets and which parts fit together; `Rule` says that. Invariant: every key of a table is a setting
of its part and of its type, or an error; nothing is ignored and nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from paceline.base.errors import ConfigError
from paceline.training.codecs.codec import Codec
from paceline.training.codecs.registry import build_codec
from paceline.training.methods.combine import Combine, GeometricMedian, Krum, Mean, Median, NormClip, TrimmedMean
from paceline.training.methods.exchanges import AllGather, AllReduce, Exchange, Neighbours, Pairs, Syncer
from paceline.training.methods.outer_optimizers import (
    AdaptiveOuter,
    DelayedNesterov,
    Nesterov,
    OuterOptimizer,
    PairwiseNesterov,
    Sgd,
)

Made = TypeVar("Made")

COMBINES: Mapping[str, Callable[..., Combine]] = MappingProxyType(
    {
        "mean": Mean,
        "norm_clip": NormClip,
        "trimmed_mean": TrimmedMean,
        "median": Median,
        "geometric_median": GeometricMedian,
        "krum": Krum,
    }
)
OUTERS: Mapping[str, Callable[..., OuterOptimizer]] = MappingProxyType(
    {
        "sgd": Sgd,
        "nesterov": Nesterov,
        "adam": partial(AdaptiveOuter, kind="adam"),
        "yogi": partial(AdaptiveOuter, kind="yogi"),
        "adagrad": partial(AdaptiveOuter, kind="adagrad"),
        "delayed_nesterov": DelayedNesterov,
        "pairwise_nesterov": PairwiseNesterov,
    }
)
EXCHANGES: Mapping[str, Callable[..., Exchange]] = MappingProxyType(
    {"all_reduce": AllReduce, "all_gather": AllGather, "pairs": Pairs, "neighbours": Neighbours, "syncer": Syncer}
)


def build_combine(table: Mapping[str, Any], field: str = "combine") -> Combine:
    """The combine rule that a table names, such as {"name": "trimmed_mean", "share": 0.2}.

    Errors: ConfigError naming the setting below `field`, and the choices when a name is unknown.
    """
    return _build(COMBINES, table, field)


def build_outer(table: Mapping[str, Any], field: str = "outer") -> OuterOptimizer:
    """The outer optimiser that a table names, such as {"name": "nesterov", "rate": 0.7}.

    Errors: those of `build_combine`.
    """
    return _build(OUTERS, table, field)


def build_exchange(table: Mapping[str, Any], field: str = "exchange") -> Exchange:
    """The exchange that a table names, such as {"name": "neighbours", "graph": "ring"}.

    Errors: those of `build_combine`.
    """
    return _build(EXCHANGES, table, field)


PARTS: Mapping[str, Callable[[Mapping[str, Any], str], Codec | Combine | OuterOptimizer | Exchange]] = MappingProxyType(
    {"codec": build_codec, "combine": build_combine, "outer": build_outer, "exchange": build_exchange}
)
"""What may replace a preset's own part, by the name of the rule's field."""


def require_type(field: str, value: object, expected: Any) -> None:
    """Errors: ConfigError when a setting is not of its type; a whole number may stand for a float, a bool for neither."""
    if expected is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif expected is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, expected)
    if not fits:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise ConfigError(f"{field}: must be {words.get(expected, expected)}, got {value!r}")


def _build(choices: Mapping[str, Callable[..., Made]], table: Mapping[str, Any], field: str) -> Made:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{field}: must be a table with a name, got {table!r}")
    name = table.get("name")
    if not isinstance(name, str) or name not in choices:
        raise ConfigError(f"{field}.name: must be one of {', '.join(choices)}, got {name!r}")
    make = choices[name]
    kind, fixed = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    hints = get_type_hints(kind)
    settings = {entry.name: entry for entry in dataclasses.fields(kind) if entry.name not in fixed}  # type: ignore[arg-type]  # all are dataclasses
    given = {key: value for key, value in table.items() if key != "name"}
    for key, value in given.items():
        if key not in settings:
            raise ConfigError(
                f"{field}.{key}: unknown setting of {name}; its settings: {', '.join(settings) or 'none'}"
            )
        require_type(f"{field}.{key}", value, hints[key])
    for key, entry in settings.items():
        if entry.default is dataclasses.MISSING and key not in given:
            raise ConfigError(f"{field}.{key}: {name} needs this setting")
    return make(**given)
