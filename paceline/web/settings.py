"""What whoever starts the web application may choose.

Refuses to know: where the values come from. Invariant: frozen, so every route sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Limits and switches. Anything but loopback needs `api_keys_required`; `cli` sees to that."""

    api_keys_required: bool = False
    body_limit_bytes: int = 1 << 20
    file_limit_bytes: int = 32 << 20
    body_timeout_seconds: float = 30.0
    refresh_seconds: float = 0.25
    max_viewers: int = 64
