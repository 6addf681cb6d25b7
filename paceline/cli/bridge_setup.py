"""What an operator of a bridge sets: keys of the other chain, and which of its servers a node reads."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from paceline.base.errors import ConfigError, Invalid
from paceline.node.bridge.keys import copy_evm_key, format_address, load_evm_key, make_evm_key, parse_address
from paceline.node.bridge.rpc import require_url
from paceline.node.bridge.signatures import KEY_FILE
from paceline.node.bridge.status import require_bridge
from paceline.node.home import Home
from paceline.node.settings import BridgeSettings, load_settings
from paceline.protocol.params import BridgeParams

MAX_CHAIN = 2**48
WHEN = "restart it if it runs"


def load_bridge(home: Home) -> BridgeParams:
    """The bridge of a home's network. Errors: ConfigError when there is none."""
    found = home.load_genesis().params.bridge
    try:
        require_bridge(found)
    except Invalid as problem:
        raise ConfigError(f"{problem.message}: its genesis names no contract of another chain") from None
    return found


def parse_bridge(text: str) -> BridgeParams:
    """A chain and a contract of it, as `paceline up --bridge` takes them. Errors: ConfigError."""
    chain, _, contract = text.partition(":")
    if not re.fullmatch("[0-9]{1,15}", chain) or not 0 < int(chain) <= MAX_CHAIN:
        raise ConfigError(f"--bridge {text[:80]}: write CHAIN:0xCONTRACT, such as 11155111:0x…")
    return BridgeParams(chain=int(chain), contract=parse_address(contract, "--bridge"))


def print_key(file: Path, home: Path, attester: str | None) -> None:
    """Make the key unless it is there; give a copy to a node; print its address. Errors: ConfigError."""
    key = load_evm_key(file) if file.exists() else make_evm_key(file)
    if attester is not None:
        place = Home(home)
        _require_node(place, attester)
        copy_evm_key(file, place.node_path(attester) / KEY_FILE)
    print(f"Address   {format_address(key.address)}")
    if attester is not None:
        print(f"Attester  {attester} signs withdrawals with it; {WHEN}")


def set_watch(path: Path, rpc: tuple[str, ...], name: str | None, start_block: int) -> None:
    """Write servers into the settings of nodes. Errors: ConfigError."""
    home = Home(path)
    load_bridge(home)
    hosts = [require_url(url) for url in rpc]
    if name is not None:
        _require_node(home, name)
    for node in home.node_names() if name is None else [name]:
        settings = load_settings(home.node_path(node) / "node.toml")
        wanted = BridgeSettings(rpc=rpc, start_block=start_block, poll_seconds=settings.bridge.poll_seconds)
        home.save_settings(msgspec.structs.replace(settings, bridge=wanted))
        print(f"{node} reads {', '.join(hosts)} from block {start_block}; {WHEN}")


def _require_node(home: Home, name: str) -> None:
    if name not in home.node_names():
        raise ConfigError(f"{name!r} is no node of this home: it has {', '.join(home.node_names())}")
