"""Checks of codec settings; each refusal names the field. It knows no codec."""

from __future__ import annotations

from paceline.base.errors import ConfigError


def require_int(name: str, value: object, low: int, high: int | None = None) -> None:
    """Errors: ConfigError when a setting is not a whole number between the bounds, both included."""
    bounds = f"at least {low}" if high is None else f"between {low} and {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"{name}: must be a whole number {bounds}, got {value!r}")


def require_share(name: str, value: object, *, zero: bool = False) -> None:
    """Errors: ConfigError when a setting is not a share of at most 1; zero only where it is allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= 1) or (value == 0 and not zero):  # type: ignore[operator]  # `number` says so
        raise ConfigError(f"{name}: must be {'at least' if zero else 'more than'} 0 and at most 1, got {value!r}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Errors: ConfigError when a setting is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")


def require_bool(name: str, value: object) -> None:
    """Errors: ConfigError when a setting is not true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: must be true or false, got {value!r}")
