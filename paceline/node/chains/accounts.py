"""What one account holds, for people and for whoever signs for it: coins, test assets, next sequence, grants.

It reads the state and nothing else. An account that nobody ever paid into is shown as an empty one.
"""

from __future__ import annotations

import re

import msgspec

from paceline.base.errors import ConfigError
from paceline.base.keys import ADDRESS_BYTES
from paceline.ledger import nodes
from paceline.ledger.accounts import POOLS, get_account
from paceline.ledger.asset import get_balance, get_dollars
from paceline.ledger.compute_credits import CREDITS
from paceline.ledger.grants import GRANTS
from paceline.ledger.state import State
from paceline.protocol.assets import QUOTED

HEX_ADDRESS = f"[0-9a-fA-F]{{{2 * ADDRESS_BYTES}}}"


class GrantLine(msgspec.Struct, frozen=True, kw_only=True):
    """Who may act for an account: which messages, up to which height, how many nicoin are left."""

    to: str
    kinds: tuple[str, ...]
    until: int
    left: int


class AccountStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One account at a height. Units: nicoin, micro-dollars of the stable test asset."""

    height: int
    address: str
    name: str
    """Of the node or pool whose account it is; empty for any other."""
    coins: int
    redeemable: int
    dollars: int
    credit_micro_units: int
    """Millionths of a unit of compute that it paid ahead."""
    credit_coins: int
    """Nicoin behind them."""
    sequence: int
    """What its next ordered transaction must carry."""
    grants: list[GrantLine]
    """Of this account to others."""
    assets: dict[str, int] = {}
    """Smallest units of the other test assets, by name."""


def build_account(state: State, wanted: str) -> AccountStatus:
    """The account of an address in hex digits, or of a node by its name. Errors: ConfigError for neither."""
    address = parse_address(wanted) or nodes.find_address(state, wanted)
    if address is None:
        raise ConfigError(f"{wanted!r} is neither an address nor a node of this network")
    account, credit = get_account(state, address), CREDITS.get(state, address)
    return AccountStatus(
        height=state.height,
        address=address.hex(),
        name=name_account(state, address),
        coins=account.balance,
        redeemable=account.redeemable,
        dollars=get_dollars(state, address),
        credit_micro_units=credit.micro_units if credit else 0,
        credit_coins=credit.nicoin if credit else 0,
        sequence=account.sequence,
        grants=[
            GrantLine(to=key[ADDRESS_BYTES:].hex(), kinds=grant.kinds, until=grant.until, left=grant.left)
            for key, grant in GRANTS.items(state, address)
        ],
        assets={asset: get_balance(state, asset, address) for asset in QUOTED},
    )


def name_account(state: State, address: bytes) -> str:
    """What a node or a pool of this address is called, else nothing."""
    node = nodes.NODES.get(state, address)
    pools = {pool: name for name, pool in POOLS.items()}
    return node.name if node is not None else pools.get(address, "")


def parse_address(text: str) -> bytes | None:
    """Bytes of an address in hex digits, None for any other text."""
    return bytes.fromhex(text) if re.fullmatch(HEX_ADDRESS, text) else None
