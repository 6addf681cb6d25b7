"""Paceline: a network in which anyone's machines train and serve open models and every paid result can be checked.

From Python: `with paceline.local_network(nodes=5) as net: net.openai_client()…`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.cli.network import Network, local_network

__all__ = ["Network", "local_network"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that rooms below can be imported without the whole house.
    if name in __all__:
        from paceline.cli import network  # noqa: PLC0415

        return getattr(network, name)
    raise AttributeError(name)
