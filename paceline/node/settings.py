"""A node's own settings: a TOML file beside its key. Local to an operator, never part of what nodes agree on.

Unknown keys fail, missing ones name themselves; nothing is read from the environment here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError

CHEATS = ("", "race-padding", "cheap-model", "untrained-update")


class PeerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How another node is reached."""

    name: str
    public_key: str
    url: str


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node. Units in the names."""

    name: str
    sequencer: str
    """Name of the node that orders blocks."""
    peers: tuple[PeerEntry, ...]
    """Every node of the network, this one included."""
    trains: bool = True
    """Takes a seat in training runs when one is free."""
    serves: bool = True
    """Loads the language model and answers or checks requests."""
    cheat: str = ""
    """A fraud to play, for demonstrations: race-padding, cheap-model or untrained-update."""
    block_seconds: float = 0.25
    """Sequencer only: pause between blocks while something waits for them."""
    idle_seconds: float = 1.0
    """Sequencer only: pause between blocks while nothing does."""
    rendezvous_seconds: float = 60.0
    """Sequencer only: how long the very first block waits for all nodes to show up."""
    cache: str = ""
    """Folder of converted models; empty for the user's cache."""

    def __post_init__(self) -> None:
        if self.cheat not in CHEATS:
            raise ConfigError(f"cheat: {self.cheat!r} is none of {', '.join(repr(cheat) for cheat in CHEATS)}")
        if self.block_seconds <= 0 or self.idle_seconds < self.block_seconds:
            raise ConfigError("block_seconds must be above 0 and idle_seconds at least as long")
        names = [peer.name for peer in self.peers]
        for name in (self.name, self.sequencer):
            if name not in names:
                raise ConfigError(f"peers: {name!r} is missing, the list holds {', '.join(names) or 'nothing'}")


def load_settings(path: Path) -> NodeSettings:
    """Settings of one node.

    Errors: ConfigError naming the file and the key, for the cli.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), NodeSettings)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; `paceline up` makes it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, ConfigError) as problem:
        raise ConfigError(f"{path}: {problem}") from None


def encode_settings(settings: NodeSettings) -> str:
    """The TOML text of settings."""
    return msgspec.toml.encode(settings).decode("utf-8")
