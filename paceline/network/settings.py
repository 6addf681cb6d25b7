"""Limits and patience of the peer network, and the clock that both ends read.

Knows nothing of requests. Every number has its unit in its name.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What one node grants to its peers and expects of them."""

    connect_timeout_seconds: float = 3.0
    """To open a connection."""
    reply_timeout_seconds: float = 30.0
    """For a whole request and its reply, and for one chunk of a blob."""
    frame_timeout_seconds: float = 60.0
    """Between two frames of a stream; the first one waits for the peer's model."""
    pulse_seconds: float = 3.0
    """A stream without a frame for so long says that its node is alive."""
    silence_timeout_seconds: float = 15.0
    """Without a frame or a pulse; a peer that hangs is told from one that works."""
    request_lifetime_milliseconds: int = 30_000
    """How long a sealed request may be opened."""
    max_body_bytes: int = 8 * 2**20
    """Of one request."""
    max_reply_bytes: int = 64 * 2**20
    """Of one reply."""
    max_frame_bytes: int = 2**20
    """Of one frame of a stream."""
    chunk_bytes: int = 2**20
    """Of one ranged request for a piece of a blob."""
    max_connections: int = 200
    """Open at once to all peers together."""


def get_unix_milliseconds() -> int:
    """Milliseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1_000_000
