"""Strategies by name and plain settings. Every module beside this one that lists `PRESETS` takes part.

It refuses to know any method. Invariant: every setting is a keyword of the preset's function or a table for one of its
parts; what is unknown, of another type, or without effect is refused.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paceline.base.errors import ConfigError
from paceline.training.methods import presets
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.parts import PARTS, require_type
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy


@dataclass(frozen=True, kw_only=True)
class Description:
    """A line of the table of methods."""

    name: str
    purpose: str
    source: str
    defaults: dict[str, Any]
    local: LocalOptimizer


def find_presets() -> dict[str, Preset]:
    """All presets of the package's modules, by name in alphabetical order.

    Errors: ConfigError when two modules use one name.
    """
    found: dict[str, Preset] = {}
    for entry in pkgutil.iter_modules(presets.__path__):
        module = importlib.import_module(f"{presets.__name__}.{entry.name}")
        for preset in getattr(module, "PRESETS", ()) if entry.name != "registry" else ():
            if preset.name in found:
                raise ConfigError(f"presets: two methods are called {preset.name!r}; rename the one in {entry.name}.py")
            found[preset.name] = preset
    return dict(sorted(found.items()))


PRESETS: dict[str, Preset] = find_presets()


def build_strategy(
    name: str, settings: Mapping[str, Any], *, trainers: int, local: LocalOptimizer | None = None
) -> Strategy:
    """The method that a name and plain settings describe; without `local` it takes its paper's inner optimiser.

    `codec`, `combine`, `outer` and `exchange` are tables that replace the part of the preset, in the rule that moves an
    anchor where there are several.
    Errors: ConfigError naming the method, the setting and the choices.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise ConfigError(f"strategy.name {name!r}: choose one of {', '.join(PRESETS)}")
    if trainers < 1:
        raise ConfigError(f"fleet.trainers {trainers}: at least one trainer is needed")
    _check_settings(preset, settings)
    parts = {key: PARTS[key](table, f"strategy.{key}") for key, table in settings.items() if key in PARTS}
    plain = {key: value for key, value in settings.items() if key not in PARTS}
    try:
        made = preset.build(trainers=trainers, local=local or preset.local, **plain)
        return _replace_parts(made, parts)
    except ConfigError as problem:
        given = ", ".join(f"{key} {value}" for key, value in (preset.defaults | dict(settings)).items())
        raise ConfigError(f"strategy {name} ({given}): {problem}") from problem


def describe_presets() -> list[Description]:
    """Name, purpose, source and defaults of every preset, for a table."""
    return [
        Description(
            name=preset.name,
            purpose=preset.purpose,
            source=preset.source,
            defaults=preset.defaults,
            local=preset.local,
        )
        for preset in PRESETS.values()
    ]


def _check_settings(preset: Preset, settings: Mapping[str, Any]) -> None:
    types = preset.types
    for key, value in settings.items():
        if key in PARTS:
            described = [name for name in preset.replaces.get(key, ()) if name in settings]
            if described:
                raise ConfigError(
                    f"strategy.{described[0]}: excluded by strategy.{key}, which replaces what it describes"
                )
        elif key not in types:
            known = ", ".join([*types, *PARTS])
            raise ConfigError(f"strategy.{key}: unknown setting of {preset.name}; its settings: {known}")
        else:
            require_type(f"strategy.{key}", value, types[key])


def _replace_parts(strategy: Strategy, parts: dict[str, Any]) -> Strategy:
    if not parts:
        return strategy
    if not strategy.rules:
        raise ConfigError(f"{', '.join(parts)}: nothing is sent, so there is nothing to replace")
    chosen = _choose_rule(strategy)
    rules = tuple(replace(rule, **parts) if rule is chosen else rule for rule in strategy.rules)
    return replace(strategy, rules=rules)


def _choose_rule(strategy: Strategy) -> Rule:
    moving = [rule for rule in strategy.rules if rule.outer is not None]
    return moving[0] if moving else strategy.rules[0]
